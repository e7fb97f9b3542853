// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"slices"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// filter reports whether a group wants a message; nil = all.
type filter func(*driver.Message) bool

// newFilter compiles a subscription. Tags are compared as text, not by hash, so "Aa" does not bring "BB".
func newFilter(s driver.Subscription) (filter, error) {
	if s.SQL != "" {
		where, err := parseSQL(s.SQL)
		if err != nil {
			return nil, driver.Errorf(driver.InvalidFilter, "", "%q: %w", s.SQL, err)
		}
		return func(m *driver.Message) bool { return where.eval(m) == yes }, nil
	}
	tags, err := driver.ParseTags(s.Tag)
	if err != nil {
		return nil, driver.Errorf(driver.InvalidFilter, "", "%w", err)
	}
	if tags == nil {
		return nil, nil
	}
	return func(m *driver.Message) bool { return slices.Contains(tags, m.Tag) }, nil
}
