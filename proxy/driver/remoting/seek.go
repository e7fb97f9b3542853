// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// propertyFirstPop is when a message that was popped before was popped first (ms, the broker's clock); brokers put it on retries.
const propertyFirstPop = "1ST_POP_TIME"

// move is a queue and the offset that the group is moved to in it.
type move struct {
	queue  wire.Queue
	offset int64
}

// Seek implements driver.Consumer. The positions are reset (code 222): unlike a position that is set (code 15) that acts on the next pop, whatever the
// broker still has in memory of earlier ones. Retry topics go to their ends in any case: what waits there comes again from its own queue, or is older than
// the target.
//
// The rest is told apart by the broker's clock. A retry says when it was first popped, and a lease when it was popped; what is older than the last time of
// the broker that was known before its queues moved is dropped when it comes, by every member that knows the mark. What was popped in the milliseconds
// between is not: it comes once more rather than being lost.
func (c *consumer) Seek(ctx context.Context, to driver.Target) (string, error) {
	if err := to.Validate(); err != nil {
		return "", err
	}
	if !c.gate.Enter() {
		return "", errClosed()
	}
	defer c.gate.Leave()
	ctx, cancel := c.bound(ctx)
	defer cancel()
	mark, err := c.seek(ctx, to)
	switch {
	case err != nil && c.gate.Shut():
		return "", errClosed()
	case err != nil:
		return "", wire.Errorf(err, "move group %q to %s", c.cfg.Group, to)
	}
	return mark, nil
}

func (c *consumer) seek(ctx context.Context, to driver.Target) (string, error) {
	moves, err := c.planMoves(ctx, to)
	if err != nil {
		return "", err
	}
	queues := make([]wire.Queue, len(moves))
	for i, m := range moves {
		queues[i] = m.queue
	}
	times := c.brokerTimes(ctx, proof.Brokers(queues))
	err = proof.All(ctx, len(moves), func(ctx context.Context, i int) error {
		q := moves[i].queue
		err := c.cluster.wire.ResetOffset(ctx, q, c.group, moves[i].offset)
		if code, ok := wire.CodeOf(err); ok && code == wire.CodeNoPermission {
			return driver.Errorf(driver.Unauthorized, "", "broker %s does not let these credentials move a group: grant Update on topic %q and group %q (RocketMQ's ACL): %w",
				q.Broker, q.Topic, c.group, err)
		}
		return wrapped(err, "move to offset %d in queue %d of %q", moves[i].offset, q.ID, q.Topic)
	})
	if err != nil {
		return "", err
	}
	c.SetMark(formatMark(times))
	c.state.Lock()
	c.state.askAnew() // also where no clock is known
	c.state.Unlock()
	return c.marked.text(), nil
}

// planMoves finds where each queue's position goes: of the subscribed topics as to says, of the group's retry topics to the end.
func (c *consumer) planMoves(ctx context.Context, to driver.Target) ([]move, error) {
	type topic struct {
		name  string
		retry bool
	}
	topics := []topic{{c.sources[0].topic, true}}
	for _, src := range c.sources[1:] {
		topics = append(topics, topic{src.topic, false}, topic{wire.RetryV1.Topic(c.group, src.topic), true}, topic{wire.RetryV2.Topic(c.group, src.topic), true})
	}
	var mu sync.Mutex
	var moves []move // guarded by mu
	return moves, proof.All(ctx, len(topics), func(ctx context.Context, i int) error {
		t := topics[i]
		route, err := c.cluster.wire.Route(ctx, t.name) // not one that is known: each queue there is now has to move
		if code, ok := wire.CodeOf(err); ok && code == wire.CodeTopicNotExist && t.retry {
			return nil
		}
		if err != nil {
			return wire.Errorf(err, "find topic %q", t.name)
		}
		target := to
		if t.retry {
			target = driver.Target{To: driver.Latest}
		}
		for _, q := range route.Readable(t.name) {
			offset, err := c.placeOf(ctx, q, target)
			if err != nil {
				return wire.Errorf(err, "look for %s in queue %d of %q", to, q.ID, q.Topic)
			}
			mu.Lock()
			moves = append(moves, move{q, offset})
			mu.Unlock()
		}
		return nil
	})
}

func (c *consumer) placeOf(ctx context.Context, q wire.Queue, to driver.Target) (int64, error) {
	if to.To == driver.Timestamp {
		return c.cluster.wire.FirstAt(ctx, q, c.group, to.Time)
	}
	oldest, next, err := c.cluster.wire.Bounds(ctx, q, c.group)
	if to.To == driver.Latest {
		return next, err
	}
	return oldest, err
}

// brokerTimes is what each broker's clock has surely shown by now. A broker whose clock nobody here has heard lately is asked by a pop; what that brings is
// older than the seek, so that it is dropped or, when the seek fails, comes again.
func (c *consumer) brokerTimes(ctx context.Context, brokers []wire.Queue) map[string]int64 {
	times := make(map[string]int64, len(brokers))
	for _, q := range brokers {
		if _, known := c.clocks.atLeast(q.Broker, time.Now()); !known {
			c.hearClock(ctx, q.Broker)
		}
		if at, known := c.clocks.atLeast(q.Broker, time.Now()); known {
			times[q.Broker] = at
		}
	}
	return times
}

// hearClock pops once, without waiting. What comes goes the way of every answer that no Fetch waits for.
func (c *consumer) hearClock(ctx context.Context, broker string) {
	s := &c.state
	s.Lock()
	var m *poll
	for _, p := range s.pairs {
		if p.broker == broker && !p.gone && !c.sources[p.source].classic && !s.closed {
			m = &poll{pair: p, address: p.address, kind: short, count: 1, bytes: firstSize, lease: holdLease}
			s.lend(m)
			break
		}
	}
	s.Unlock()
	if m == nil {
		return
	}
	m.sent = time.Now()
	cmd, timeout := c.command(m)
	done := make(chan struct{})
	c.cluster.wire.Go(m.address, cmd, timeout, func(answer *wire.Command, err error) {
		c.answered(m, answer, err)
		close(done)
	})
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// holdLease is the lease of what hearClock brings: it is given back within holdTime when no Fetch takes it.
const holdLease = 30 * time.Second

// SetMark implements driver.Consumer.
func (c *consumer) SetMark(mark string) {
	if !c.marked.raise(parseMark(mark)) {
		return
	}
	s := &c.state
	s.Lock()
	var dropped []driver.Handle
	s.spare = slices.DeleteFunc(s.spare, func(m *driver.Received) bool {
		if !c.Superseded(m.Handle) {
			return false
		}
		s.spareBytes -= m.Bytes()
		dropped = append(dropped, m.Handle)
		return true
	})
	s.askAnew()
	s.Unlock()
	c.giveBackLater(dropped)
}

// askAnew makes whoever fetches ask at once: a poll that waits at a broker does not notice that a position has moved.
func (s *polls) askAnew() {
	now := time.Now()
	for _, p := range s.pairs {
		p.ready, p.width, p.blanks, p.lively = true, max(p.width, p.pops+1), 0, now
	}
	s.wake()
}

// Superseded implements driver.Consumer.
func (c *consumer) Superseded(h driver.Handle) bool {
	l, ok := parseHandle(h, c.marks)
	return ok && c.superseded(&l)
}

func (c *consumer) superseded(l *lease) bool { return l.pop.PopTime < c.marked.of(l.pop.Broker) }

// outdated reports whether what was popped is from before the last seek: popped before it, or a retry of what was.
func (c *consumer) outdated(l *lease, stored *wire.PoppedMessage) bool {
	mark := c.marked.of(l.pop.Broker)
	if mark == 0 {
		return false
	}
	if l.pop.PopTime < mark {
		return true
	}
	if l.pop.Kind == wire.Normal {
		return false
	}
	first, err := strconv.ParseInt(stored.Properties[propertyFirstPop], 10, 64)
	return err == nil && first < mark
}

// drop acknowledges what a seek has left behind, and waits for nothing: what fails comes as a retry and is dropped then. One that was popped in order has no
// check point to acknowledge, and the broker would take the answer for a position (ConsumerOrderInfoManager.commitAndNext, 5.5.0).
func (c *consumer) drop(l lease, address string) {
	if !l.pop.Ordered() {
		c.sendAcks(l.pop.Broker, address, []lease{l}, func(time.Time, error) {})
	}
}

// seekMarks are the brokers' times of the last seek. The zero value is ready; all methods are safe for concurrent use.
type seekMarks struct {
	mu    sync.Mutex
	times map[string]int64 // ms by the broker's clock; mu guards it
}

// of is broker's time, 0 = there was no seek.
func (s *seekMarks) of(broker string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.times[broker]
}

// raise takes over what is later, and reports whether anything was.
func (s *seekMarks) raise(times map[string]int64) (raised bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for broker, at := range times {
		if at > s.times[broker] {
			if s.times == nil {
				s.times = make(map[string]int64, len(times))
			}
			s.times[broker], raised = at, true
		}
	}
	return raised
}

func (s *seekMarks) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return formatMark(s.times)
}

// markPrefix tells our marks from others'. A mark is the brokers' times in ms: "rm1:broker-a=1795409694166,broker-b=1795409694170". Names of brokers have
// neither sign.
const markPrefix = "rm1:"

func formatMark(times map[string]int64) string {
	parts := make([]string, 0, len(times))
	for _, broker := range slices.Sorted(maps.Keys(times)) {
		parts = append(parts, broker+"="+strconv.FormatInt(times[broker], 10))
	}
	return markPrefix + strings.Join(parts, ",")
}

// parseMark reads what formatMark made, and nothing else.
func parseMark(mark string) map[string]int64 {
	rest, ours := strings.CutPrefix(mark, markPrefix)
	if !ours {
		return nil
	}
	times := make(map[string]int64)
	for part := range strings.SplitSeq(rest, ",") {
		broker, text, _ := strings.Cut(part, "=")
		at, err := strconv.ParseInt(text, 10, 64)
		if broker == "" || err != nil || at <= 0 || at > maxHandleTime {
			continue
		}
		times[broker] = at
	}
	return times
}
