// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package batching

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// part is a stretch of one call's messages in a request.
type part struct {
	call     *call
	from, to int
}

func messagesOf(parts []part) int {
	n := 0
	for _, p := range parts {
		n += p.to - p.from
	}
	return n
}

// batch is a request made of waiting calls. live and cancel: when all its callers have left, the request is told to end.
type batch struct {
	parts  []part
	ctx    context.Context
	cancel context.CancelFunc
	live   int
}

func (b *batch) leave() {
	if b.live--; b.live == 0 {
		b.cancel()
	}
}

// run sends what waits for t, request by request, and ends when nothing is left. It holds one of t's slots.
func (q *Queue) run(t *line) {
	defer q.wg.Done()
	for {
		q.mu.Lock()
		var b *batch
		if q.mayFlyLocked(t, t.inAir-1) {
			b = q.gatherLocked(t)
		}
		if b == nil {
			q.freeSlotLocked(t)
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		q.sendParts(b.ctx, t.topic, b.parts)
		b.cancel()
		q.settle(t, b)
	}
}

// gatherLocked makes the next request, in the order in which the calls came. nil = nothing can go in this slot.
func (q *Queue) gatherLocked(t *line) *batch {
	q.dropGivenUpLocked(t)
	limits := q.producer.Limits()
	b := &batch{parts: make([]part, 0, len(t.calls))}
	n, size := 0, int64(0)
	kept := t.calls[:0]
	full := false
	for _, c := range t.calls {
		var k int
		var fit int64
		if !full && !c.inAir {
			k, fit = c.fitting(limits, n, size)
			full = k < len(c.msgs)-c.next || !q.settings.Enabled
		}
		if k > 0 {
			t.addReady(-(len(c.msgs) - c.next), -c.restBytes()) // what does not fit waits for the answer
			b.parts = append(b.parts, part{c, c.next, c.next + k})
			c.next += k
			c.inAir, c.batch = true, b
			n, size = n+k, size+fit
		}
		if c.next < len(c.msgs) {
			kept = append(kept, c)
		}
	}
	clear(t.calls[len(kept):])
	t.calls = kept
	if n == 0 {
		return nil
	}
	q.waiting -= n
	q.waitingBytes -= size
	q.countLocked(t, n)
	b.live = len(b.parts)
	b.ctx, b.cancel = q.batchContext(b.parts)
	return b
}

// dropGivenUpLocked answers the callers whose time has ended. They do so themselves, but may not have come to it: a request made now must
// not carry their messages.
func (q *Queue) dropGivenUpLocked(t *line) {
	var over []*call
	now := time.Now() // once: under the lock, and for each call that waits
	for _, c := range t.calls {
		if ended(c.ctx, now) != nil {
			over = append(over, c)
		}
	}
	for _, c := range over {
		q.dropLocked(t, c, q.givenUp(c.ctx))
	}
}

// batchContext lives as long as the most patient caller.
func (q *Queue) batchContext(parts []part) (context.Context, context.CancelFunc) {
	var latest time.Time
	for _, p := range parts {
		d, ok := p.call.ctx.Deadline()
		if !ok {
			return context.WithCancel(q.life)
		}
		if d.After(latest) {
			latest = d
		}
	}
	return context.WithDeadline(q.life, latest)
}

// settle ends the calls that are decided; the others wait for their next request.
func (q *Queue) settle(t *line, b *batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range b.parts {
		c := p.call
		c.inAir, c.batch = false, nil
		if c.next < len(c.msgs) {
			n, size := c.passBehind(p.from)
			q.waiting -= n
			q.waitingBytes -= size
			if c.next == len(c.msgs) {
				q.unqueueLocked(t, c)
			} else {
				t.addReady(len(c.msgs)-c.next, c.restBytes())
			}
		}
		if c.decided += p.to - p.from; !c.left && c.decided == len(c.msgs) {
			q.finishLocked(c)
		}
	}
}

// sendParts makes one request of parts and writes the answers into the calls' results. A definite refusal for the content of a message is
// narrowed down by halves, in order, so that only the bad message fails.
func (q *Queue) sendParts(ctx context.Context, topic string, parts []part) {
	var msgs []*driver.Message
	if len(parts) == 1 {
		msgs = parts[0].call.msgs[parts[0].from:parts[0].to]
	} else {
		msgs = make([]*driver.Message, 0, messagesOf(parts))
		for _, p := range parts {
			msgs = append(msgs, p.call.msgs[p.from:p.to]...)
		}
	}
	results := q.narrow(ctx, topic, msgs, len(parts))
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range parts {
		n := p.to - p.from
		if !p.call.left {
			copy(p.call.results[p.from:p.to], results[:n])
		}
		results = results[n:]
	}
}

func (q *Queue) narrow(ctx context.Context, topic string, msgs []*driver.Message, callers int) []driver.SendResult {
	results := q.request(ctx, topic, msgs, callers)
	if len(msgs) == 1 || !refusedForContent(results) {
		return results
	}
	half := len(msgs) / 2
	first := q.narrow(ctx, topic, msgs[:half:half], callers)
	var failed driver.FailedKeys
	for i := range first {
		failed.Note(msgs[i], first[i].Err)
	}
	return append(first[:half:half], q.narrowRest(ctx, topic, msgs[half:], &failed, callers)...)
}

// narrowRest is narrow for what no message of a failed sharding key is in front of; the others are answered.
func (q *Queue) narrowRest(ctx context.Context, topic string, msgs []*driver.Message, failed *driver.FailedKeys, callers int) []driver.SendResult {
	results := make([]driver.SendResult, len(msgs))
	var kept []*driver.Message
	var places []int
	for i, m := range msgs {
		if err := failed.Behind(m); err != nil {
			results[i] = driver.SendResult{MessageID: m.ID, Queue: -1, Offset: -1, Err: err}
			continue
		}
		kept, places = append(kept, m), append(places, i)
	}
	if len(kept) > 0 {
		for i, r := range q.narrow(ctx, topic, kept, callers) {
			results[places[i]] = r
		}
	}
	return results
}

// refusedForContent: every message has the definite answer that a message cannot be stored, which may be meant for one of them only.
func refusedForContent(results []driver.SendResult) bool {
	for i := range results {
		if results[i].Err == nil || driver.ReasonOf(results[i].Err) != driver.InvalidMessage {
			return false
		}
	}
	return true
}

// request calls the driver and answers exactly one result per message, whatever the driver does.
func (q *Queue) request(ctx context.Context, topic string, msgs []*driver.Message, callers int) []driver.SendResult {
	began := time.Now()
	results, err := q.guardedSend(ctx, topic, msgs)
	if err == nil && len(results) != len(msgs) {
		err = driver.Errorf(driver.Unavailable, "", "the driver answered %d results for %d messages; they may or may not be stored", len(results), len(msgs))
		q.log.Error(err, "driver broke its contract", "topic", topic)
	}
	if err != nil {
		results = make([]driver.SendResult, len(msgs))
		for i, m := range msgs {
			results[i] = driver.SendResult{MessageID: m.ID, Queue: -1, Offset: -1, Err: err}
		}
	}
	q.obs.RequestSent(len(msgs), callers, time.Since(began))
	return results
}

// guardedSend turns a panic of the driver, or of the library behind it, into an error of its messages: the other Producers live on.
func (q *Queue) guardedSend(ctx context.Context, topic string, msgs []*driver.Message) (results []driver.SendResult, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = driver.Errorf(driver.Unavailable, "", "the driver panicked in Send, the messages may or may not be stored: %v", p)
			q.log.Error(err, "driver panicked", "call", "Send", "topic", topic, "stack", string(debug.Stack()))
			q.obs.DriverPanicked()
		}
	}()
	return q.producer.Send(ctx, topic, msgs), nil
}
