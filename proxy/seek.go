// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

var (
	_ server.Mover = (*ConsumerClient)(nil)
	_ server.Mover = (*BroadcastClient)(nil)
)

// Seek is refused: each receiver has a progress of its own, those that are away too.
func (b *BroadcastClient) Seek(_ context.Context, to driver.Target) (string, error) {
	if err := to.Validate(); err != nil {
		return "", err
	}
	return "", driver.Errorf(driver.Unsupported, "", "a Consumer with model Broadcasting is not moved: each receiver has its own progress; one with a new client_id begins where startFrom says")
}
