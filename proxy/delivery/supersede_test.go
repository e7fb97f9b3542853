// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// unmoved is the part of a fake driver whose group is never moved.
type unmoved struct{}

func (unmoved) Seek(context.Context, driver.Target) (string, error) {
	return "", driver.Errorf(driver.Unsupported, "", "a fake moves no group")
}
func (unmoved) SetMark(string)                {}
func (unmoved) Superseded(driver.Handle) bool { return false }
