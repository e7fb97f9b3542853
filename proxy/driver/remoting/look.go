// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

const (
	// lookEvery is how often routes are looked at while somebody fetches. The cluster keeps them; this only asks its memory.
	lookEvery = 15 * time.Second
	// membersEvery is how often classic members are looked for meanwhile.
	membersEvery = time.Minute
	lookLimit    = 10 * time.Second
)

// pairWith makes the first pairs, of the routes that were proven.
func (c *consumer) pairWith(queues [][]wire.Queue) {
	now := time.Now()
	c.state.Lock()
	defer c.state.Unlock()
	c.state.checkedMembers = now
	for i, qs := range queues {
		c.updatePairs(i, qs, now)
	}
}

// lookAfter looks after routes, groups and members when that is due, in a goroutine of its own: name servers or a broker that hang must not hold up
// a Fetch. The caller is inside the gate.
func (c *consumer) lookAfter() {
	s := &c.state
	now := time.Now()
	s.Lock()
	due := !s.looking && !s.closed && now.Sub(s.looked) >= lookEvery
	if due {
		s.looking, s.looked = true, now
	}
	s.Unlock()
	if due {
		c.gate.Stay()
		go func() {
			defer c.gate.Leave()
			c.look()
		}()
	}
}

func (c *consumer) look() {
	ctx, cancel := context.WithTimeout(c.gate.Life(), lookLimit)
	defer cancel()
	for i := range c.sources {
		c.lookAtRoute(ctx, i)
	}
	for _, q := range c.groupless() {
		if err := c.makeGroup(ctx, q); err != nil {
			c.driver.log.V(verbose).Info("The group was not made", "group", c.cfg.Group, "broker", q.Broker, "reason", err.Error())
		}
	}
	if brokers := c.dueMembers(); len(brokers) > 0 {
		err := c.refuseClassicMembers(ctx, brokers, "")
		c.state.Lock()
		if err == nil || driver.ReasonOf(err) == driver.GroupHasClassicMembers {
			c.state.classicMembers = err // another failure says nothing about members
		}
		c.state.Unlock()
	}
	c.state.Lock()
	defer c.state.Unlock()
	c.state.looking = false
	c.state.wake()
}

// lookAtRoute takes over what the route of a source says now. Without an answer the pairs stay as they are.
func (c *consumer) lookAtRoute(ctx context.Context, source int) {
	src := &c.sources[source]
	now := time.Now()
	c.state.Lock()
	due := !src.classic || now.Sub(c.state.lookedClassic) >= classicEvery
	if due && src.classic {
		c.state.lookedClassic = now
	}
	c.state.Unlock()
	if !due {
		return
	}
	route, err := c.cluster.route(ctx, src.topic)
	if code, ok := wire.CodeOf(err); ok && code == wire.CodeTopicNotExist && src.classic {
		return // most groups have none
	}
	if err != nil {
		c.driver.log.V(verbose).Info("A route could not be looked at", "topic", src.topic, "reason", err.Error())
		return
	}
	c.state.Lock()
	defer c.state.Unlock()
	c.updatePairs(source, route.Readable(src.topic), time.Now())
}

// updatePairs makes source's pairs those of queues. The state is locked. A pair that is gone stays in the list while something is in the air for it.
func (c *consumer) updatePairs(source int, queues []wire.Queue, now time.Time) {
	s := &c.state
	found := make(map[string]bool)
	for _, q := range proof.Brokers(queues) {
		found[q.Broker] = true
		p := s.pair(source, q.Broker)
		if p == nil {
			p = &pair{source: source, broker: q.Broker, width: 1, size: firstSize, lively: now}
			if c.sources[source].classic {
				p.due, p.eager = now, s.hurried.Add(classicEager)
			}
			s.pairs = append(s.pairs, p)
		}
		if p.address != q.Address {
			p.retryAt = time.Time{} // what was wrong with the old one says nothing about the new one
		}
		p.address, p.gone = q.Address, false
	}
	kept := make([]*pair, 0, len(s.pairs))
	for _, p := range s.pairs {
		if p.source == source && !found[p.broker] {
			p.gone = true
		}
		if !p.gone || p.pops > 0 || p.parked {
			kept = append(kept, p)
		}
	}
	s.pairs = kept
}

func (s *polls) pair(source int, broker string) *pair {
	for _, p := range s.pairs {
		if p.source == source && p.broker == broker {
			return p
		}
	}
	return nil
}

// groupless lists the brokers that have said that they do not know the group.
func (c *consumer) groupless() []wire.Queue {
	c.state.Lock()
	defer c.state.Unlock()
	var missing []wire.Queue
	for _, p := range c.state.pairs {
		if p.groupless {
			p.groupless = false
			missing = append(missing, wire.Queue{Topic: c.sources[p.source].topic, Broker: p.broker, Address: p.address})
		}
	}
	return missing
}

// dueMembers lists the brokers to be asked for members, none when that was done a short time ago.
func (c *consumer) dueMembers() []wire.Queue {
	c.state.Lock()
	defer c.state.Unlock()
	now := time.Now()
	if now.Sub(c.state.checkedMembers) < membersEvery {
		return nil
	}
	c.state.checkedMembers = now
	var all []wire.Queue
	for _, p := range c.state.pairs {
		if !p.gone {
			all = append(all, wire.Queue{Topic: c.sources[p.source].topic, Broker: p.broker, Address: p.address})
		}
	}
	return proof.Brokers(all)
}
