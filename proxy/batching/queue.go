// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package batching

import (
	"context"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

type Queue struct{}

func NewQueue(p driver.Producer, o Options) *Queue { panic("skeleton") }
func (q *Queue) SetSettings(s Settings)            { panic("skeleton") }
func (q *Queue) Send(ctx context.Context, topic string, msgs []*driver.Message) []driver.SendResult {
	panic("skeleton")
}
func (q *Queue) Drain(ctx context.Context) DrainReport { panic("skeleton") }
func (q *Queue) Close()                                { panic("skeleton") }
