// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Fetch implements driver.Consumer. It asks brokers for no more than req has room for, and returns with the first that comes. Polls that still wait
// at a broker then are left there; the next Fetch adopts them and counts them against its own credit. While no Fetch runs, nothing is asked; what
// a poll brings after the last one is given back, uncounted, when no Fetch takes it within a second.
func (c *consumer) Fetch(ctx context.Context, req driver.FetchRequest) ([]*driver.Received, error) {
	if !c.gate.Enter() {
		return nil, errClosed()
	}
	defer c.gate.Leave()
	c.beginFetch()
	defer c.endFetch()
	lease := min(max(req.Lease, minLease), maxLease)
	for {
		c.decodeArrived(req.MaxMessages)
		got, ask, changed, wakeAt := c.step(ctx, req, lease)
		c.launch(ask)
		c.lookAfter()
		switch {
		case len(got) > 0:
			return got, nil
		case c.gate.Shut():
			return nil, errClosed()
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
		timer := time.NewTimer(time.Until(wakeAt))
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		case <-c.gate.Life().Done():
		}
		timer.Stop()
	}
}

// minLease is the shortest lease; a message could not be handed on in less.
const minLease = 100 * time.Millisecond

// step takes what is there and plans what to ask for.
func (c *consumer) step(ctx context.Context, req driver.FetchRequest, lease time.Duration) (got []*driver.Received, ask []*poll, changed <-chan struct{}, wakeAt time.Time) {
	s := &c.state
	s.Lock()
	defer s.Unlock()
	if s.closed || c.gate.Shut() {
		return nil, nil, nil, time.Now()
	}
	got, size := s.takeSpare(req)
	now := time.Now()
	req.MaxMessages -= len(got)
	req.MaxBytes -= size
	if ctx.Err() == nil && req.MaxMessages > 0 && req.MaxBytes > 0 {
		ask = s.plan(req, lease, now)
	}
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	changed = s.changed
	if len(s.arrived) > 0 {
		s.wake() // it came between decoding and here
	}
	return got, ask, changed, s.wakeAt(now)
}

// takeSpare takes decoded messages as far as req allows; the first one always.
func (s *polls) takeSpare(req driver.FetchRequest) (got []*driver.Received, size int64) {
	for len(got) < len(s.spare) && len(got) < req.MaxMessages {
		m := s.spare[len(got)]
		if n := m.Bytes(); len(got) > 0 && size+n > req.MaxBytes {
			break
		} else {
			size += n
		}
		got = s.spare[:len(got)+1]
	}
	if len(got) == 0 {
		return nil, 0
	}
	s.spareBytes -= size
	if s.spare = s.spare[len(got):]; len(s.spare) == 0 {
		s.spare = nil
	}
	return slices.Clip(got), size
}

// launch sends polls. No lock is held.
func (c *consumer) launch(polls []*poll) {
	for _, m := range polls {
		m.sent = time.Now()
		cmd, timeout := c.command(m)
		c.cluster.wire.Go(m.address, cmd, timeout, func(answer *wire.Command, err error) { c.answered(m, answer, err) })
	}
}

func (c *consumer) command(m *poll) (*wire.Command, time.Duration) {
	src := &c.sources[m.pair.source]
	r := wire.PopRequest{
		Group: c.group, Topic: src.topic, Queue: -1, Max: m.count, Invisible: m.lease, Filter: src.filter, Broker: m.pair.broker, Poll: m.wait,
		// Also for groups that start at the latest message: their positions were written when they were opened, and a queue without one was added
		// since, so that all it has is new to them.
		Earliest: true,
		// Of the classic retry topic never without order. A pop leaves a check point at the broker, and when it was of %RETRY%group and is not acknowledged in time, the service
		// that delivers again breaks on the topic's name (PopReviveService.mergeAndRevive -> KeyBuilder.parseNormalTopic throws
		// StringIndexOutOfBounds, 5.5.0), again and again: then nothing that went to its queue, of any group of the broker, is ever delivered again.
		// Pops in order have no check point; the queue itself is held back until what was popped is acknowledged or its lease has ended.
		Order: src.classic || c.cfg.Ordered, AttemptID: m.attempt,
	}
	if r.Order && r.AttemptID == "" {
		r.AttemptID = strconv.FormatUint(rand.Uint64(), 36)
	}
	if m.kind == question {
		return wire.NotificationCommand(r), m.wait + pollMargin
	}
	return r.Command(), m.wait + pollMargin
}

// answered is called by the connection's reader, or by whoever fails the request. It does not block.
func (c *consumer) answered(m *poll, answer *wire.Command, err error) {
	now := time.Now()
	m.received = now
	if err == nil && m.kind != question {
		c.heard(m.pair.broker, answer, m.sent, now)
	}
	o := m.judge(answer, err)
	s := &c.state
	s.Lock()
	recovered := m.pair.failures > 0 && o.err == nil
	s.landed(m, o, now)
	orphan := s.closed && o.found
	switch {
	case orphan:
		s.forget(m)
	case o.found:
		m.answer = answer
		s.arrived = append(s.arrived, m)
		c.armHold()
	}
	s.wake()
	s.Unlock()
	c.report(m, o, recovered)
	if orphan {
		// The consumer is gone, and the connection, which others use, is not: what came goes back.
		m.answer = answer
		msgs, _, _, err := c.decode(m)
		c.logUndecoded(m, err)
		c.giveBackLater(handlesOf(msgs))
	}
}

// heard keeps what an answer says about the broker's clock.
func (c *consumer) heard(broker string, answer *wire.Command, sent, received time.Time) {
	if at, err := strconv.ParseInt(answer.Fields["popTime"], 10, 64); err == nil {
		c.clocks.heard(broker, at, sent, received)
	}
}

// report tells the cluster about a broker that fails or works again.
func (c *consumer) report(m *poll, o outcome, recovered bool) {
	topic := c.sources[m.pair.source].topic
	switch {
	case errors.Is(o.err, driver.ErrClosed):
	case o.err != nil && o.code == 0:
		c.cluster.trouble(m.pair.broker, o.err)
		c.cluster.stale(topic)
	case o.code == wire.CodeTopicNotExist || o.code == wire.CodeServiceNotAvailable:
		c.cluster.stale(topic)
	case recovered:
		c.cluster.well(m.pair.broker)
	}
}

// decodeArrived decodes answers until there is enough for one Fetch.
func (c *consumer) decodeArrived(enough int) {
	s := &c.state
	for {
		s.Lock()
		if len(s.arrived) == 0 || len(s.spare) >= enough || s.closed {
			s.Unlock()
			return
		}
		m := s.arrived[0]
		s.arrived[0] = nil
		if s.arrived = s.arrived[1:]; len(s.arrived) == 0 {
			s.arrived = nil
		}
		s.Unlock()
		c.takeIn(m)
	}
}

// takeIn decodes one answer into spare.
func (c *consumer) takeIn(m *poll) {
	msgs, size, rest, err := c.decode(m)
	c.logUndecoded(m, err)
	m.answer.Free()
	m.answer = nil
	s := &c.state
	s.Lock()
	defer s.Unlock()
	s.forget(m)
	if err != nil {
		m.pair.failures++
		m.pair.err = err
		m.pair.retryAt = time.Now().Add(backOff(m.pair.failures))
		return
	}
	m.pair.learned(len(msgs), size, rest)
	s.spare = append(s.spare, msgs...)
	s.spareBytes += size
}

func (c *consumer) beginFetch() {
	c.state.Lock()
	defer c.state.Unlock()
	c.state.fetches++
	c.disarmHold()
}

func (c *consumer) endFetch() {
	c.state.Lock()
	defer c.state.Unlock()
	c.state.fetches--
	c.armHold()
}

// armHold starts the time after which what nobody fetches goes back, if that is the case. The state is locked. The timer counts as a call
// inside the gate, so that Close joins it.
func (c *consumer) armHold() {
	s := &c.state
	if s.fetches > 0 || s.hold != nil || s.closed || len(s.arrived)+len(s.spare) == 0 || !c.gate.Enter() {
		return
	}
	s.holds++
	n := s.holds // not the timer itself: it may fire before AfterFunc has returned it
	s.hold = time.AfterFunc(holdTime, func() { c.onHold(n) })
}

// disarmHold stops it. The state is locked.
func (c *consumer) disarmHold() {
	if c.state.hold != nil && c.state.hold.Stop() {
		c.gate.Leave()
	}
	c.state.hold = nil
}

// onHold gives back what nobody has fetched, unless the n-th hold was given up while its timer fired.
func (c *consumer) onHold(n int) {
	defer c.gate.Leave()
	s := &c.state
	s.Lock()
	if s.hold == nil || s.holds != n || s.closed {
		s.Unlock()
		return
	}
	s.hold = nil
	arrived, spare := s.takeAll()
	s.Unlock()
	c.giveBackLater(c.allHandles(arrived, spare))
}

// takeAll empties what came.
func (s *polls) takeAll() (arrived []*poll, spare []*driver.Received) {
	arrived, spare = s.arrived, s.spare
	s.arrived, s.spare, s.spareBytes = nil, nil, 0
	for _, m := range arrived {
		s.forget(m)
	}
	return arrived, spare
}

// allHandles decodes what is not decoded.
func (c *consumer) allHandles(arrived []*poll, spare []*driver.Received) []driver.Handle {
	for _, m := range arrived {
		msgs, _, _, err := c.decode(m)
		c.logUndecoded(m, err)
		spare = append(spare, msgs...)
	}
	return handlesOf(spare)
}

func handlesOf(msgs []*driver.Received) []driver.Handle {
	handles := make([]driver.Handle, len(msgs))
	for i, m := range msgs {
		handles[i] = m.Handle
	}
	return handles
}
