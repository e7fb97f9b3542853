// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"slices"
	"time"

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
	behind, err := c.behind(ctx, places)
	var oldest []time.Time
	if err == nil {
		oldest, err = c.oldest(ctx, behind)
	}
	switch {
	case err != nil && c.gate.Shut():
		return nil, errClosed()
	case err != nil:
		return nil, wire.Errorf(err, "ask for the lag of group %q", c.cfg.Group)
	}
	for i, b := range behind {
		lags[places[b.queue.Topic]].Add(b.next-b.at, oldest[i])
	}
	return lags, nil
}

// ReadLag implements driver.LagReader.
func (d *Driver) ReadLag(ctx context.Context, cfg driver.ConsumerConfig) ([]driver.Lag, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := d.newConsumer(cfg)
	defer c.leaveCluster()
	return c.Lag(ctx)
}

// backlog is a queue in which something waits: from at to before next.
type backlog struct {
	queue    wire.Queue
	at, next int64
}

// behind finds the queues in which something waits: by one question per broker for all topics, and queue by queue for the rest.
func (c *consumer) behind(ctx context.Context, places map[string]int) ([]backlog, error) {
	behind, seen, err := c.statistics(ctx, places)
	if err != nil {
		return nil, err
	}
	more, err := c.askQueues(ctx, places, seen)
	return slices.DeleteFunc(append(behind, more...), func(b backlog) bool { return b.at >= b.next }), err
}

// oldest is when the first of what waits was stored, for each. One message of each queue is read for that.
func (c *consumer) oldest(ctx context.Context, behind []backlog) ([]time.Time, error) {
	oldest := make([]time.Time, len(behind))
	return oldest, proof.All(ctx, len(behind), func(ctx context.Context, i int) error {
		b := behind[i]
		stored, at, err := c.cluster.wire.StoredAt(ctx, b.queue, c.group, b.at, b.next)
		if at < b.next {
			oldest[i] = stored
		}
		return err
	})
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
func (c *consumer) statistics(ctx context.Context, places map[string]int) (behind []backlog, seen map[string]bool, err error) {
	seen = make(map[string]bool)
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
	for i, queues := range found {
		for _, q := range queues {
			if _, ours := places[q.Topic]; ours {
				behind = append(behind, backlog{wire.Queue{Topic: q.Topic, Broker: brokers[i].Broker, ID: q.Queue, Address: brokers[i].Address}, q.Committed, q.Max})
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
func (c *consumer) askQueues(ctx context.Context, places map[string]int, seen map[string]bool) (behind []backlog, err error) {
	for topic := range places {
		if seen[topic] {
			continue
		}
		route, err := c.cluster.route(ctx, topic)
		if code, ok := wire.CodeOf(err); ok && code == wire.CodeTopicNotExist {
			continue // no retries
		}
		if err != nil {
			return nil, err
		}
		queues := route.Readable(topic)
		waiting := make([]backlog, len(queues))
		err = proof.All(ctx, len(queues), func(ctx context.Context, i int) (err error) {
			waiting[i], err = c.waitingIn(ctx, queues[i])
			return err
		})
		if err != nil {
			return nil, err
		}
		behind = append(behind, waiting...)
	}
	return behind, nil
}

func (c *consumer) waitingIn(ctx context.Context, q wire.Queue) (backlog, error) {
	oldest, next, err := c.cluster.wire.Bounds(ctx, q, c.group)
	if err != nil {
		return backlog{}, err
	}
	at, err := c.cluster.wire.ConsumerOffset(ctx, q, c.group)
	if err != nil {
		return backlog{}, err
	}
	if !at.Known {
		return backlog{q, oldest, next}, nil
	}
	return backlog{q, max(at.Offset, oldest), next}, nil
}
