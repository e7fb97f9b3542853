// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import "slices"

// lanes are the held messages of an ordered cursor by queue, in order; nil when it is not ordered.
func (c *cursor) lanes() [][]*held {
	if !c.ordered {
		return nil
	}
	lanes := make([][]*held, len(c.topic.queues))
	for _, h := range c.held {
		lanes[h.queue] = append(lanes[h.queue], h)
	}
	for _, lane := range lanes {
		slices.SortFunc(lane, func(a, b *held) int { return int(a.offset - b.offset) })
	}
	return lanes
}

// takeLane fills the basket from one queue, unless something of it is leased or delayed. It reports false when the basket is full.
func (c *cursor) takeLane(k *basket, number int, lane []*held, matches filter) bool {
	if slices.ContainsFunc(lane, func(h *held) bool { return h.index >= 0 }) {
		return true
	}
	k.batch = k.broker.state.lastGeneration + 1
	for _, h := range lane {
		if k.full() || !k.fits(h.stored) {
			return false
		}
		k.add(c, h)
	}
	return c.takeNew(k, number, matches)
}

// order makes the cursor an ordered one, or takes that back. Nobody of the group is there.
func (c *cursor) order(ordered bool) {
	if c.ordered == ordered {
		return
	}
	c.ready = nil
	for _, lane := range c.lanes() { // it was ordered
		for _, h := range lane {
			if h.index < 0 {
				c.ready = append(c.ready, h)
			}
		}
	}
	c.ordered = ordered
}

// wakeOrdered tells those who wait that a queue may be free.
func (c *cursor) wakeOrdered() {
	if c.ordered {
		c.wake()
	}
}
