// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"slices"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Lag implements driver.Consumer: what the queues have beyond what came to this process, and what waits here. Retries that are still in the broker
// are counted with the first subscription, because their topic is only known when they come; delayed ones do not count before they are due. What
// members that pop have left counts for its topic; see popRetries.
func (c *consumer) Lag(ctx context.Context) ([]driver.Lag, error) {
	if !c.gate.Enter() {
		return nil, errClosed()
	}
	defer c.gate.Leave()
	came, waits := c.leases.progress()
	lags := make([]driver.Lag, len(c.cfg.Subscriptions))
	for i, s := range c.cfg.Subscriptions {
		lags[i] = driver.Lag{Topic: s.Topic, Waiting: waits[s.Topic]}
		n, err := c.behind(ctx, c.prover.Name(s.Topic), came)
		if err != nil {
			return nil, wire.Errorf(err, "ask for the lag in %q", s.Topic)
		}
		lags[i].Waiting += n
	}
	for _, topic := range c.retries.known() {
		n, err := c.behind(ctx, topic, came)
		if err != nil {
			return nil, wire.Errorf(err, "ask for the lag in %q", topic)
		}
		lags[slices.Index(c.subscribed, c.retries.original(topic))].Waiting += n
	}
	n, err := c.behind(ctx, wire.RetryTopic(c.group), came)
	if err != nil {
		return nil, wire.Errorf(err, "ask for the lag in retries of group %q", c.cfg.Group)
	}
	lags[0].Waiting += n
	return lags, nil
}

// behind sums up what topic's queues have after what came.
func (c *consumer) behind(ctx context.Context, topic string, came map[queueKey]int64) (int64, error) {
	route, err := c.wire.Route(ctx, topic)
	if err != nil {
		return 0, err
	}
	queues := route.Readable(topic)
	behind := make([]int64, len(queues))
	err = proof.All(ctx, len(queues), func(ctx context.Context, i int) error {
		q := queues[i]
		_, next, err := c.wire.Bounds(ctx, q, c.group)
		if err != nil {
			return err
		}
		at, ok := came[queueKey{topic, q.Broker, q.ID}]
		if committed, err := c.wire.ConsumerOffset(ctx, q, c.group); err != nil {
			return err
		} else if !ok || committed.Offset > at {
			at = committed.Offset
		}
		behind[i] = max(0, next-at)
		return nil
	})
	var sum int64
	for _, n := range behind {
		sum += n
	}
	return sum, err
}

// progress is the offset after the last message that came, by queue, and how many messages wait to be leased, by topic.
func (t *leases) progress() (came map[queueKey]int64, waits map[string]int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	came, waits = make(map[queueKey]int64), make(map[string]int64)
	for _, q := range t.state.queues {
		if !q.dead && !q.lost && q.next >= 0 {
			came[q.key] = q.next
		}
	}
	for _, a := range t.state.arrivals {
		if a.status == waiting || a.status == arriving {
			waits[a.content.Topic]++
		}
	}
	return came, waits
}
