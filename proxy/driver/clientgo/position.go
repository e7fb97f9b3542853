// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// prepareGroup makes what the group needs before its first member joins: its retry topic on each broker (otherwise the library finds the first
// retry only after about 40 s) and a position in each queue (otherwise the broker's own rules for new groups apply, which start a "latest"
// group on a young topic at its oldest message, and let a quiet queue have no position for half a minute).
func (p *prover) prepareGroup(ctx context.Context, cfg driver.ConsumerConfig, queues []wire.Queue) error {
	group := p.Name(cfg.Group)
	brokers := proof.Brokers(queues)
	_, err := p.wire.Route(ctx, wire.RetryTopic(group))
	code, _ := wire.CodeOf(err)
	fresh := code == wire.CodeTopicNotExist
	err = proof.All(ctx, len(brokers), func(ctx context.Context, i int) error {
		// Asking whether one may send to a retry topic makes it, with the rights of a consumer.
		if err := p.wire.MaySend(ctx, brokers[i].Address, group, wire.RetryTopic(group)); err != nil {
			return wire.Errorf(err, "make the retry topic of group %q at broker %s", cfg.Group, brokers[i].Broker)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, some := range [][]wire.Queue{proof.Firsts(queues), queues} {
		if err := proof.All(ctx, len(some), func(ctx context.Context, i int) error { return p.position(ctx, cfg, some[i], fresh) }); err != nil {
			return err
		}
	}
	return p.awaitRetryRoute(ctx, group, brokers)
}

// position writes the start position of the group in q if it has none. fresh says that the group has not been used before.
func (p *prover) position(ctx context.Context, cfg driver.ConsumerConfig, q wire.Queue, fresh bool) error {
	group := p.Name(cfg.Group)
	at, err := p.wire.ConsumerOffset(ctx, q, group)
	if err != nil {
		return wire.Errorf(err, "ask for the position of group %q in queue %d of %q", cfg.Group, q.ID, q.Topic)
	}
	if at.Known && !(fresh && at.Doubtful) {
		return nil
	}
	oldest, next, err := p.bounds(ctx, q, group)
	if err != nil {
		return wire.Errorf(err, "ask for the offsets of queue %d of %q", q.ID, q.Topic)
	}
	start := oldest
	switch cfg.StartFrom {
	case driver.Earliest:
	case driver.Latest:
		start = next
	case driver.Timestamp:
		if start, err = p.wire.FirstAt(ctx, q, group, cfg.StartTime); err != nil {
			return wire.Errorf(err, "search queue %d of %q for %s", q.ID, q.Topic, cfg.StartTime.UTC().Format(time.RFC3339))
		}
	}
	err = p.creatingGroup(ctx, q, group, func() error { return p.wire.SetConsumerOffset(ctx, q, group, start) })
	if err != nil {
		return wire.Errorf(err, "set the position of group %q in queue %d of %q to %d", cfg.Group, q.ID, q.Topic, start)
	}
	return nil
}

func (p *prover) bounds(ctx context.Context, q wire.Queue, group string) (oldest, next int64, err error) {
	err = p.creatingGroup(ctx, q, group, func() (err error) {
		oldest, next, err = p.wire.Bounds(ctx, q, group)
		return err
	})
	return oldest, next, err
}

// creatingGroup runs ask and, when the broker does not know the group and does not make it by itself, makes it and asks again.
func (p *prover) creatingGroup(ctx context.Context, q wire.Queue, group string, ask func() error) error {
	err := ask()
	if code, ok := wire.CodeOf(err); !ok || code != wire.CodeGroupNotExist {
		return err
	}
	if err := p.wire.CreateGroup(ctx, q.Address, group); err != nil {
		return err
	}
	return ask()
}

const (
	retryRouteEvery = 50 * time.Millisecond
	retryRouteLimit = 5 * time.Second
)

// awaitRetryRoute waits until the name servers know the retry topic on all brokers. After some seconds it goes on without: only the first
// retries are late then.
func (p *prover) awaitRetryRoute(ctx context.Context, group string, brokers []wire.Queue) error {
	limit := time.NewTimer(retryRouteLimit)
	defer limit.Stop()
	again := time.NewTicker(retryRouteEvery)
	defer again.Stop()
	for {
		route, err := p.wire.Route(ctx, wire.RetryTopic(group))
		if err == nil && len(proof.Brokers(route.Readable(wire.RetryTopic(group)))) >= len(brokers) {
			return nil
		}
		select {
		case <-again.C:
		case <-limit.C:
			return nil
		case <-ctx.Done():
			return wire.Errorf(ctx.Err(), "wait for the route of the retry topic of group %q", group)
		}
	}
}
