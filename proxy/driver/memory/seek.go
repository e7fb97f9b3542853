// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"container/heap"
	"context"
	"fmt"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// place sets the positions of all queues.
func (c *cursor) place(to driver.Target) {
	for i, q := range c.topic.queues {
		switch to.To {
		case driver.Latest:
			c.positions[i] = q.next
		case driver.Earliest:
			c.positions[i] = q.oldest()
		case driver.Timestamp:
			c.positions[i] = q.firstAt(to.Time)
		}
	}
}

// seek moves the positions. What waits to come again is forgotten: it comes from its queue, or is older. What is leased is left to whoever has it.
func (c *cursor) seek(to driver.Target) {
	c.place(to)
	for _, h := range c.ready {
		c.forget(h)
	}
	c.ready = nil
	for _, lane := range c.lanes() {
		for _, h := range lane {
			if h.index < 0 {
				c.forget(h)
			}
		}
	}
	var delayed []*held
	for _, h := range c.due {
		switch {
		case h.left:
		case h.generation == 0:
			delayed = append(delayed, h)
		default:
			delete(c.held, place{h.queue, h.offset})
			h.left = true
			if c.left == nil {
				c.left = map[uint64]*held{}
			}
			c.left[h.generation] = h
		}
	}
	for _, h := range delayed {
		heap.Remove(&c.due, h.index)
		c.forget(h)
	}
	c.wake()
}

// Seek implements driver.Consumer. All members share the cursors, so that the mark says nothing but that something has changed.
func (c *consumer) Seek(ctx context.Context, to driver.Target) (string, error) {
	if err := to.Validate(); err != nil {
		return "", err
	}
	after, err := c.begin(ctx, Seek)
	if err != nil {
		return "", err
	}
	defer c.inside.Done()
	if ctx.Err() != nil {
		return "", timeout(ctx)
	}
	b := c.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	for _, r := range c.reads {
		b.letOut(r.cursor.topic, now)
		r.cursor.expire(now)
		r.cursor.seek(to)
	}
	if retry := c.group.retry; retry != nil {
		retry.expire(now)
		retry.seek(driver.Target{To: driver.Latest})
	}
	b.state.lastGeneration++ // a number that no other seek has
	return fmt.Sprintf("memory:%d", b.state.lastGeneration), after
}

// SetMark implements driver.Consumer.
func (c *consumer) SetMark(string) {}

// Superseded implements driver.Consumer.
func (c *consumer) Superseded(handle driver.Handle) bool {
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	t, cur, err := c.locate(handle)
	return err == nil && cur.left[t.generation] != nil
}

// ReadLag implements driver.LagReader.
func (d memoryDriver) ReadLag(ctx context.Context, cfg driver.ConsumerConfig) ([]driver.Lag, error) {
	if err := d.admit(ctx, Lag, &cfg.Connection, cfg.Group, cfg.Validate()); err != nil {
		return nil, err
	}
	b := d.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.state.groups[withNamespace(cfg.Connection.Namespace, cfg.Group)]
	lags := make([]driver.Lag, len(cfg.Subscriptions))
	for i, s := range cfg.Subscriptions {
		lags[i].Topic = s.Topic
		full := withNamespace(cfg.Connection.Namespace, s.Topic)
		if g != nil && g.cursors[full] != nil {
			b.letOut(g.cursors[full].topic, b.now())
			lags[i] = g.cursors[full].lag(s.Topic, b.now())
		}
	}
	return lags, nil
}
