// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Lag implements driver.Consumer: what nobody has leased, retries included. A broker moves a group's position when messages are popped (5.5.0), so
// the queues' ends less the positions are what waits. Retries of the time before POP count with the first subscription, because the topic that
// they were sent to is only known when they come. Messages whose delay or lease still runs do not wait yet.
func (c *consumer) Lag(ctx context.Context) ([]driver.Lag, error) {
	if !c.gate.Enter() {
		return nil, errClosed()
	}
	defer c.gate.Leave()
	ctx, cancel := c.bound(ctx)
	defer cancel()
	lags := make([]driver.Lag, len(c.sources)-1)
	for i := range lags {
		lags[i].Topic = c.sources[i+1].name
	}
	places := c.places()
	behind, seen, err := c.statistics(ctx, places)
	if err == nil {
		err = c.askQueues(ctx, places, seen, behind)
	}
	switch {
	case err != nil && c.gate.Shut():
		return nil, errClosed()
	case err != nil:
		return nil, wire.Errorf(err, "ask for the lag of group %q", c.cfg.Group)
	}
	for topic, n := range behind {
		lags[places[topic]].Waiting += n
	}
	return lags, nil
}

// places maps every topic that holds messages of the group to its place in Lag's answer.
func (c *consumer) places() map[string]int {
	places := make(map[string]int, 3*len(c.sources))
	for i := range c.sources {
		at := max(i-1, 0) // the classic retry topic, which is first, counts with the first subscription
		for _, kind := range []wire.RetryKind{wire.Normal, wire.RetryV1, wire.RetryV2} {
			if kind == wire.Normal || !c.sources[i].classic {
				places[kind.Topic(c.group, c.sources[i].topic)] = at
			}
		}
	}
	return places
}

// statistics asks each broker for the group's progress in all topics at once. seen are the topics in which it has a position somewhere. Where the
// credentials do not allow the question, nothing is seen.
func (c *consumer) statistics(ctx context.Context, places map[string]int) (behind map[string]int64, seen map[string]bool, err error) {
	behind, seen = make(map[string]int64), make(map[string]bool)
	brokers, err := c.brokers(ctx)
	if err != nil {
		return nil, nil, err
	}
	found := make([][]wire.QueueStats, len(brokers))
	err = proof.All(ctx, len(brokers), func(ctx context.Context, i int) (err error) {
		found[i], err = c.cluster.wire.ConsumeStats(ctx, brokers[i].Address, c.group)
		if code, ok := wire.CodeOf(err); ok && (code == wire.CodeNoPermission || code == wire.CodeGroupNotExist) {
			return nil
		}
		return err
	})
	for _, queues := range found {
		for _, q := range queues {
			if _, ours := places[q.Topic]; ours {
				behind[q.Topic] += max(0, q.Max-q.Committed)
				seen[q.Topic] = true
			}
		}
	}
	return behind, seen, err
}

// brokers are those of all subscriptions.
func (c *consumer) brokers(ctx context.Context) ([]wire.Queue, error) {
	var all []wire.Queue
	for _, src := range c.sources[1:] {
		route, err := c.cluster.route(ctx, src.topic)
		if err != nil {
			return nil, err
		}
		all = append(all, route.Readable(src.topic)...)
	}
	return proof.Brokers(all), nil
}

// askQueues asks for the topics that were not seen, queue by queue.
func (c *consumer) askQueues(ctx context.Context, places map[string]int, seen map[string]bool, behind map[string]int64) error {
	for topic := range places {
		if seen[topic] {
			continue
		}
		route, err := c.cluster.route(ctx, topic)
		if code, ok := wire.CodeOf(err); ok && code == wire.CodeTopicNotExist {
			continue // no retries
		}
		if err != nil {
			return err
		}
		queues := route.Readable(topic)
		waiting := make([]int64, len(queues))
		err = proof.All(ctx, len(queues), func(ctx context.Context, i int) (err error) {
			waiting[i], err = c.waitingIn(ctx, queues[i])
			return err
		})
		if err != nil {
			return err
		}
		for _, n := range waiting {
			behind[topic] += n
		}
	}
	return nil
}

func (c *consumer) waitingIn(ctx context.Context, q wire.Queue) (int64, error) {
	oldest, next, err := c.cluster.wire.Bounds(ctx, q, c.group)
	if err != nil {
		return 0, err
	}
	at, err := c.cluster.wire.ConsumerOffset(ctx, q, c.group)
	if err != nil {
		return 0, err
	}
	if !at.Known {
		return max(0, next-oldest), nil
	}
	return max(0, next-max(at.Offset, oldest)), nil
}
