// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"slices"
	"time"

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
		lags[i] = waits[s.Topic]
		lags[i].Topic = s.Topic
		if err := c.behind(ctx, c.prover.Name(s.Topic), came, &lags[i]); err != nil {
			return nil, wire.Errorf(err, "ask for the lag in %q", s.Topic)
		}
	}
	for _, topic := range c.retries.known() {
		if err := c.behind(ctx, topic, came, &lags[slices.Index(c.subscribed, c.retries.original(topic))]); err != nil {
			return nil, wire.Errorf(err, "ask for the lag in %q", topic)
		}
	}
	if err := c.behind(ctx, wire.RetryTopic(c.group), came, &lags[0]); err != nil {
		return nil, wire.Errorf(err, "ask for the lag in retries of group %q", c.cfg.Group)
	}
	return lags, nil
}

// behind adds what topic's queues have after what came.
func (c *consumer) behind(ctx context.Context, topic string, came map[queueKey]int64, to *driver.Lag) error {
	route, err := c.wire.Route(ctx, topic)
	if err != nil {
		return err
	}
	queues := route.Readable(topic)
	behind, oldest := make([]int64, len(queues)), make([]time.Time, len(queues))
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
		if behind[i] = max(0, next-at); behind[i] == 0 {
			return nil
		}
		stored, first, err := c.wire.StoredAt(ctx, q, c.group, at, next)
		if first < next {
			oldest[i] = stored
		}
		return err
	})
	for i, n := range behind {
		to.Add(n, oldest[i])
	}
	return err
}

// progress is the offset after the last message that came, by queue, and what waits to be leased, by topic.
func (t *leases) progress() (came map[queueKey]int64, waits map[string]driver.Lag) {
	t.mu.Lock()
	defer t.mu.Unlock()
	came, waits = make(map[queueKey]int64), make(map[string]driver.Lag)
	for _, q := range t.state.queues {
		if !q.dead && !q.lost && q.next >= 0 {
			came[q.key] = q.next
		}
	}
	for _, a := range t.state.arrivals {
		if a.status == waiting || a.status == arriving {
			lag := waits[a.content.Topic]
			lag.Add(1, a.content.StoreTime)
			waits[a.content.Topic] = lag
		}
	}
	return came, waits
}
