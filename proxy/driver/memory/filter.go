// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"strings"

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
	wanted := map[string]bool{}
	for tag := range strings.SplitSeq(s.Tag, "||") {
		if tag = strings.TrimSpace(tag); tag != "" {
			wanted[tag] = true
		}
	}
	if len(wanted) == 0 || wanted["*"] {
		return nil, nil
	}
	return func(m *driver.Message) bool { return wanted[m.Tag] }, nil
}
