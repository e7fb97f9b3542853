// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Seek implements driver.Consumer: never. The library keeps its own idea of every queue's position and writes it back again and again, so that a position
// which is set meanwhile does not last; and to close the library's client first would void the leases of what applications hold.
func (c *consumer) Seek(_ context.Context, to driver.Target) (string, error) {
	if err := to.Validate(); err != nil {
		return "", err
	}
	return "", driver.Errorf(driver.Unsupported, "driver",
		"the driver %s cannot move a group while its client runs: set spec.suspend, move the group with \"mqadmin resetOffsetByTime\", and take suspend back; or use the driver Remoting", Name)
}

// SetMark implements driver.Consumer: there is none.
func (c *consumer) SetMark(string) {}

// Superseded implements driver.Consumer: nothing is.
func (c *consumer) Superseded(driver.Handle) bool { return false }
