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

// OpenConsumer implements driver.Driver.
func (d *Driver) OpenConsumer(ctx context.Context, cfg driver.ConsumerConfig) (driver.Consumer, error) {
	c, queues, err := d.proveConsumer(ctx, cfg, "")
	if err != nil {
		return nil, err
	}
	if err := c.prepare(ctx, queues); err != nil {
		c.leaveCluster()
		return nil, err
	}
	c.pairWith(queues)
	return c, nil
}

// ProbeConsumer implements driver.Driver. A classic member that is the same object's is no obstacle: it is the client of the driver ClientGo that goes
// when the probe has succeeded, and OpenConsumer finds it gone.
func (d *Driver) ProbeConsumer(ctx context.Context, cfg driver.ConsumerConfig) error {
	c, _, err := d.proveConsumer(ctx, cfg, cfg.ClientID.Object())
	if err == nil {
		c.leaveCluster()
	}
	return err
}

// proveConsumer does everything that changes nothing, and returns the readable queues by source. leaving is the object whose classic members do not
// count, empty = all count. The caller owes leaveCluster.
func (d *Driver) proveConsumer(ctx context.Context, cfg driver.ConsumerConfig, leaving string) (*consumer, [][]wire.Queue, error) {
	if err := cfg.Validate(); err != nil {
		return nil, nil, err
	}
	if err := check(&cfg); err != nil {
		return nil, nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, wire.Errorf(err, "open the consumer of group %q", cfg.Group)
	}
	c := d.newConsumer(cfg)
	prover := proof.Prover{Wire: c.cluster.wire, Routes: c.cluster, Namespace: cfg.Connection.Namespace}
	all, err := prover.Consumer(ctx, cfg)
	if err == nil {
		err = c.refuseClassicMembers(ctx, proof.Brokers(all), leaving)
	}
	if err != nil {
		c.leaveCluster()
		return nil, nil, err
	}
	queues := make([][]wire.Queue, len(c.sources))
	for _, q := range all {
		for i := range c.sources {
			if c.sources[i].topic == q.Topic {
				queues[i] = append(queues[i], q)
			}
		}
	}
	return c, queues, nil
}

// consumePop is how brokers call the members of a group that pop.
const consumePop = "CONSUME_POP"

// refuseClassicMembers looks for members of the group that pull or push. They and we would both get messages, and what they send back or leave
// unacknowledged goes where the other does not look (seen on 5.5.0). Those of the object called leaving do not count. Where the credentials do not
// allow the question it is left out.
func (c *consumer) refuseClassicMembers(ctx context.Context, brokers []wire.Queue, leaving string) error {
	return proof.All(ctx, len(brokers), func(ctx context.Context, i int) error {
		online, err := c.cluster.wire.GroupConnections(ctx, brokers[i].Address, c.group)
		if code, ok := wire.CodeOf(err); ok && code == wire.CodeNoPermission {
			return nil
		}
		if err != nil {
			return wire.Errorf(err, "ask broker %s who is in group %q", brokers[i].Broker, c.cfg.Group)
		}
		members := staying(online, leaving)
		if len(members) == 0 || online.ConsumeType == consumePop {
			return nil
		}
		return driver.Errorf(driver.GroupHasClassicMembers, "group",
			"group %q has %d member(s) at broker %s that do not pop (%s), for example client %q; stop them, or use the driver ClientGo or another group",
			c.cfg.Group, len(members), brokers[i].Broker, online.ConsumeType, members[0])
	})
}

// staying are the ids of the members that are not of the object called leaving. The library puts more around the id that it was given.
func staying(online *wire.GroupConnections, leaving string) []string {
	var ids []string
	for _, member := range online.Connections {
		if leaving == "" || !strings.Contains(member.ClientID, leaving+"_") {
			ids = append(ids, member.ClientID)
		}
	}
	return ids
}

// prepare makes the group at each broker and, where it is not to begin at the oldest message, writes its positions before the first pop.
func (c *consumer) prepare(ctx context.Context, queues [][]wire.Queue) error {
	var all []wire.Queue
	for _, qs := range queues {
		all = append(all, qs...)
	}
	brokers := proof.Brokers(all)
	err := proof.All(ctx, len(brokers), func(ctx context.Context, i int) error { return c.makeGroup(ctx, brokers[i]) })
	if err != nil {
		return err
	}
	start := c.startAtTime
	switch c.cfg.StartFrom {
	case driver.Earliest:
		return nil // without a position a pop begins at the oldest message, see command
	case driver.Latest:
		start = c.startAtLatest
	case driver.Timestamp:
	}
	return proof.All(ctx, len(queues), func(ctx context.Context, i int) error { return start(ctx, queues[i]) })
}

// makeGroup sees to it that the broker of q knows the group. Asking whether there is something makes it, as pops do, on brokers that create groups by
// themselves (autoCreateSubscriptionGroup, the default); elsewhere an administrator's request is tried.
func (c *consumer) makeGroup(ctx context.Context, q wire.Queue) error {
	ask := wire.PopRequest{Group: c.group, Topic: q.Topic, Queue: -1, Broker: q.Broker}
	_, err := c.cluster.wire.Invoke(ctx, q.Address, wire.NotificationCommand(ask))
	if code, ok := wire.CodeOf(err); ok && code == wire.CodeGroupNotExist {
		if err := c.cluster.wire.CreateGroup(ctx, q.Address, c.group); err != nil {
			return driver.Errorf(driver.Unavailable, "group",
				"group %q does not exist at broker %s, which does not create groups by itself, and it could not be created: %w; create it with \"mqadmin updateSubGroup -g %s\" on all brokers",
				c.cfg.Group, q.Broker, err, c.group)
		}
		return nil
	}
	if err != nil {
		return wire.Errorf(err, "ask broker %s for messages of group %q", q.Broker, c.cfg.Group)
	}
	return nil
}

// startAtLatest writes the group's positions in all queues of a topic when it has none in any of them. A group that has one was here before:
// a queue without a position was added since, all that it holds came after the group, and pops begin there at its oldest message. A broker that was
// away when the group was made looks the same, so that the group gets what it held.
func (c *consumer) startAtLatest(ctx context.Context, queues []wire.Queue) error {
	if len(queues) == 0 {
		return nil
	}
	// One question tells for a group that was here before, which is the common case.
	if known, err := c.anyPosition(ctx, queues[:1]); known || err != nil {
		return err
	}
	if known, err := c.anyPosition(ctx, queues[1:]); known || err != nil {
		return err
	}
	return c.startAt(ctx, queues, func(ctx context.Context, q wire.Queue) (int64, error) {
		_, next, err := c.cluster.wire.Bounds(ctx, q, c.group)
		return next, wrapped(err, "ask for the newest message in queue %d of %q", q.ID, q.Topic)
	})
}

// startAtTime writes the group's position in each queue of a topic that has none. Unlike with the latest message, what to write does not depend on when
// it is done, so that each queue is looked at alone: one that the last try did not come to is done now.
func (c *consumer) startAtTime(ctx context.Context, queues []wire.Queue) error {
	known, err := c.positions(ctx, queues)
	if err != nil {
		return err
	}
	var without []wire.Queue
	for i, q := range queues {
		if !known[i] {
			without = append(without, q)
		}
	}
	return c.startAt(ctx, without, func(ctx context.Context, q wire.Queue) (int64, error) {
		first, err := c.cluster.wire.FirstAt(ctx, q, c.group, c.cfg.StartTime)
		return first, wrapped(err, "search queue %d of %q for %s", q.ID, q.Topic, c.cfg.StartTime.UTC().Format(time.RFC3339))
	})
}

// startAt asks where the group is to begin in each of queues, and writes it.
func (c *consumer) startAt(ctx context.Context, queues []wire.Queue, where func(context.Context, wire.Queue) (int64, error)) error {
	var mu sync.Mutex
	begin := make(map[wire.Queue]int64, len(queues)) // guarded by mu
	err := proof.All(ctx, len(queues), func(ctx context.Context, i int) error {
		at, err := where(ctx, queues[i])
		mu.Lock()
		defer mu.Unlock()
		begin[queues[i]] = at
		return err
	})
	// The first position alone, then the others, and then what another host's first one may have undone; see proof.Firsts.
	for _, some := range [][]wire.Queue{proof.Firsts(queues), queues, queues} {
		if err == nil {
			err = proof.All(ctx, len(some), func(ctx context.Context, i int) error { return c.position(ctx, some[i], begin[some[i]]) })
		}
	}
	return err
}

func (c *consumer) anyPosition(ctx context.Context, queues []wire.Queue) (bool, error) {
	known, err := c.positions(ctx, queues)
	return slices.Contains(known, true), err
}

// positions says in which of queues the group has one.
func (c *consumer) positions(ctx context.Context, queues []wire.Queue) (known []bool, err error) {
	known = make([]bool, len(queues))
	err = proof.All(ctx, len(queues), func(ctx context.Context, i int) error {
		at, err := c.cluster.wire.ConsumerOffset(ctx, queues[i], c.group)
		known[i] = at.Known
		return wrapped(err, "ask for the position of group %q in queue %d of %q", c.cfg.Group, queues[i].ID, queues[i].Topic)
	})
	return known, err
}

// position writes where the group begins, which was looked up a moment ago, unless the queue has a position. That is looked at now: if another host writes
// between this look and our writing, ours is not ahead of what was sent to it since.
func (c *consumer) position(ctx context.Context, q wire.Queue, next int64) error {
	at, err := c.cluster.wire.ConsumerOffset(ctx, q, c.group)
	if err == nil && !at.Known {
		err = c.cluster.wire.SetConsumerOffset(ctx, q, c.group, next)
	}
	return wrapped(err, "set the position of group %q in queue %d of %q to %d", c.cfg.Group, q.ID, q.Topic, next)
}

func wrapped(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return wire.Errorf(err, format, args...)
}
