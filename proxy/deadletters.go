// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/deadletter"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// box is the driver's access to dead letters.
func (c *ConsumerClient) box() (driver.DeadLetters, error) {
	if b, ok := c.consumer.(driver.DeadLetters); ok {
		return b, nil
	}
	return nil, driver.Errorf(driver.Unsupported, "", "the driver of this Consumer has no access to dead letters")
}

// ListDeadLetters is deadletter.List on this Consumer's group.
func (c *ConsumerClient) ListDeadLetters(ctx context.Context, q deadletter.Query) (deadletter.Page, error) {
	b, err := c.box()
	if err != nil {
		return deadletter.Page{}, err
	}
	page, err := deadletter.List(ctx, b, q)
	if err == nil {
		c.left.learn(page.Left)
	}
	return page, err
}

// deadLettersLeft is for the metrics.
func (c *ConsumerClient) deadLettersLeft() (left int64, known bool) {
	messages, _ := c.InFlight()
	return c.left.read(messages > 0)
}

// RedriveDeadLetters is deadletter.Redrive on this Consumer's group. One runs at a time: two at once would redrive the same letters twice. It ends early when
// the client drains, which must not wait for it.
func (c *ConsumerClient) RedriveDeadLetters(ctx context.Context, o deadletter.Order) (deadletter.Progress, error) {
	b, err := c.box()
	if err != nil {
		return deadletter.Progress{}, err
	}
	if !o.DryRun {
		if !c.redriving.TryLock() {
			return deadletter.Progress{}, deadletter.ErrUnderWay
		}
		defer c.redriving.Unlock()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.serving, cancel)()
	p, err := deadletter.Redrive(ctx, b, o)
	if !o.DryRun && p.Redriven > 0 {
		c.countRedriven(p.Redriven)
	}
	if err == nil {
		c.left.learn(p.Left)
	} else if c.serving.Err() != nil {
		err = registry.ErrDraining
	}
	return p, err
}
