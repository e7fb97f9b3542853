// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"sync"
	"time"
)

const (
	// clockPeriod is how long a reading of a broker's clock counts at least; it is forgotten after two. Clocks drift by some 10 ms in that time.
	clockPeriod = time.Minute
	// clockSlack bounds how far the estimate goes beyond what is proven when only answers of long polls are known, which took seconds. A broker on
	// which acknowledgements have no effect any more has been late for 2 s (see doc.go), so that it has room.
	clockSlack = 100 * time.Millisecond
	// clockJump is by how much a reading must contradict the estimate before the broker's clock counts as set back.
	clockJump = 20 * time.Millisecond
)

// clocks knows how far brokers' clocks are from ours. Leases end by the broker's clock, and it says nothing when an acknowledgement comes too late, so
// we must judge ourselves. All methods are safe for concurrent use and only compute.
//
// Each answer to a pop or to a change of the invisible time says when the broker worked on it (popTime, taken when the messages are lent, also in a
// long poll that waited). That moment lies between our sending and our receiving, so each answer bounds the difference from both sides. The
// truest bounds are those of the quickest answers: the highest lower and the lowest upper one of the last one or two periods are kept.
type clocks struct {
	// base makes a steady clock of ours: its wall time plus what has passed since.
	base time.Time

	mu      sync.Mutex
	brokers map[string]*brokerClock // mu guards it
}

// bounds of (broker's clock - ours), in ms; empty = nothing known.
type bounds struct {
	low, high int64
	known     bool
}

type brokerClock struct {
	current, before bounds
	since           time.Time
}

func newClocks() *clocks { return &clocks{base: time.Now(), brokers: make(map[string]*brokerClock)} }

func (c *clocks) steady(t time.Time) int64 { return c.base.UnixMilli() + t.Sub(c.base).Milliseconds() }

// heard takes a reading: the broker's clock showed at (in ms) at some moment between sent and received.
func (c *clocks) heard(broker string, at int64, sent, received time.Time) {
	if at <= 0 {
		return
	}
	r := bounds{low: at - c.steady(received), high: at + 1 - c.steady(sent), known: true}
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.brokers[broker]
	if b == nil {
		b = &brokerClock{since: received}
		c.brokers[broker] = b
	}
	if e := b.bounds(); e.known && (r.high < e.low-clockJump.Milliseconds() || r.low > e.high+clockJump.Milliseconds()) {
		// The broker's clock was set. Only what it shows now counts.
		b.current, b.before, b.since = bounds{}, bounds{}, received
	}
	if received.Sub(b.since) >= clockPeriod {
		b.before, b.current, b.since = b.current, bounds{}, received
	}
	b.current = b.current.with(r)
}

func (b bounds) with(o bounds) bounds {
	switch {
	case !b.known:
		return o
	case !o.known:
		return b
	default:
		return bounds{low: max(b.low, o.low), high: min(b.high, o.high), known: true}
	}
}

func (b *brokerClock) bounds() bounds { return b.current.with(b.before) }

// broker is what broker's clock shows at a moment of ours, in ms, rather too late than too early; known is false when nothing was heard of it.
func (c *clocks) broker(name string, at time.Time) (now int64, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.brokers[name]
	if b == nil {
		return 0, false
	}
	e := b.bounds()
	return c.steady(at) + max(e.low, min(e.high, e.low+clockSlack.Milliseconds())), true
}

// atLeast is what broker's clock has surely shown by a moment of ours, in ms; known is false when nothing was heard of it.
func (c *clocks) atLeast(name string, at time.Time) (ms int64, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.brokers[name]
	if b == nil {
		return 0, false
	}
	return c.steady(at) + b.bounds().low - 1, true
}

// skew is broker's clock less our wall clock, in ms.
func (c *clocks) skew(broker string, at time.Time) int64 {
	now, known := c.broker(broker, at)
	if !known {
		return 0
	}
	return now - at.UnixMilli()
}
