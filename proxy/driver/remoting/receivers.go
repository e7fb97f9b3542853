// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

var _ driver.GroupKeeper = (*Driver)(nil)

// onBrokers calls ask for one queue of each broker of cfg's subscriptions, side by side. Which queue that is does not change.
func (d *Driver) onBrokers(ctx context.Context, cfg driver.ConsumerConfig, what string, ask func(ctx context.Context, c *consumer, q wire.Queue) error) error {
	c := d.newConsumer(cfg)
	defer c.leaveCluster()
	prover := proof.Prover{Wire: c.cluster.wire, Routes: c.cluster, Namespace: cfg.Connection.Namespace}
	var queues []wire.Queue
	for _, s := range cfg.Subscriptions {
		route, err := prover.Route(ctx, "subscriptions", s.Topic)
		if err != nil {
			return err
		}
		queues = append(queues, route.Readable(prover.Name(s.Topic))...)
	}
	brokers := proof.Brokers(queues)
	return proof.All(ctx, len(brokers), func(ctx context.Context, i int) error {
		return wrapped(ask(ctx, c, brokers[i]), "%s at broker %s", what, brokers[i].Broker)
	})
}

// MarkGroup implements driver.GroupKeeper.
func (d *Driver) MarkGroup(ctx context.Context, cfg driver.ConsumerConfig) error {
	return d.onBrokers(ctx, cfg, "note that the group is in use", func(ctx context.Context, c *consumer, q wire.Queue) error {
		return c.cluster.wire.MarkSeen(ctx, q, c.group, time.Now())
	})
}

// GroupSeen implements driver.GroupKeeper: the latest that any broker knows.
func (d *Driver) GroupSeen(ctx context.Context, cfg driver.ConsumerConfig) (time.Time, error) {
	var mu sync.Mutex
	var latest time.Time // guarded by mu
	err := d.onBrokers(ctx, cfg, "ask when the group was in use", func(ctx context.Context, c *consumer, q wire.Queue) error {
		at, err := c.cluster.wire.LastSeen(ctx, q, c.group)
		mu.Lock()
		defer mu.Unlock()
		if at.After(latest) {
			latest = at
		}
		return err
	})
	return latest, err
}

// ListGroups implements driver.GroupKeeper.
func (d *Driver) ListGroups(ctx context.Context, cfg driver.ConsumerConfig, prefix string) ([]driver.GroupSeen, error) {
	var mu sync.Mutex
	seen := map[string]time.Time{} // guarded by mu
	full := wire.WithNamespace(cfg.Connection.Namespace, prefix)
	err := d.onBrokers(ctx, cfg, "list groups", func(ctx context.Context, c *consumer, q wire.Queue) error {
		names, err := c.cluster.wire.Groups(ctx, q.Address, full)
		if err != nil {
			return err
		}
		return proof.All(ctx, len(names), func(ctx context.Context, i int) error {
			at, err := c.cluster.wire.LastSeen(ctx, q, names[i])
			mu.Lock()
			defer mu.Unlock()
			if group := prefix + strings.TrimPrefix(names[i], full); seen[group].IsZero() || at.After(seen[group]) {
				seen[group] = at
			}
			return err
		})
	})
	groups := make([]driver.GroupSeen, 0, len(seen))
	for group, at := range seen {
		groups = append(groups, driver.GroupSeen{Group: group, Seen: at})
	}
	slices.SortFunc(groups, func(a, b driver.GroupSeen) int { return strings.Compare(a.Group, b.Group) })
	return groups, err
}

// RemoveGroup implements driver.GroupKeeper. The topics go with the group in which brokers keep what comes again: that of POP for each subscription, and
// the one of the time before it, which every group has.
func (d *Driver) RemoveGroup(ctx context.Context, cfg driver.ConsumerConfig) error {
	return d.onBrokers(ctx, cfg, "delete the group", func(ctx context.Context, c *consumer, q wire.Queue) error {
		if err := c.cluster.wire.DeleteGroup(ctx, q.Address, c.group); err != nil {
			return err
		}
		topics := []string{wire.RetryTopic(c.group)}
		for _, topic := range c.names() {
			topics = append(topics, wire.RetryTopic(c.group+"_"+topic))
		}
		for _, topic := range topics {
			if err := c.cluster.wire.DeleteTopic(ctx, q.Address, topic); err != nil {
				return err
			}
		}
		return nil
	})
}
