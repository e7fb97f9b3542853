// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"time"

	library "github.com/apache/rocketmq-client-go/v2/consumer"
)

// admit is the inlet: it runs in a pull loop of the library, between the answer of a pull and the queue's buffer, and parks the answer while
// enough of that queue waits. After close nothing passes: the loop stays parked until the library has been shut down, and admit answers false. That
// is one of the two reasons why a stop cannot panic in the library (upstream #1051, a send on a closed channel in just this loop).
//
// Except for that, what came in must pass sooner or later: the library goes on behind it, and would skip what the inlet swallowed.
func (t *leases) admit(l loop, batch []*arrival) bool {
	if !t.enter() {
		<-t.released
		return false
	}
	defer t.inside.Done()
	hold := time.NewTimer(holdFor)
	defer hold.Stop()
	overdue := false
	for {
		parked, passed := t.pass(l, batch, overdue)
		if passed {
			return true
		}
		select {
		case <-parked: // nil when the client is closed
		case <-hold.C:
			overdue = true
		case <-t.released:
			return false
		}
	}
}

// enter counts a goroutine of the library in. It refuses once everything has been released.
func (t *leases) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.gone {
		return false
	}
	t.inside.Add(1)
	return true
}

// pass lets a batch in if it fits or is overdue. Otherwise it returns a channel that is closed when it is worth another try.
func (t *leases) pass(l loop, batch []*arrival, overdue bool) (parked <-chan struct{}, passed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.state
	if s.closed {
		return nil, false
	}
	q := s.queues[l]
	if q == nil {
		q = newQueue(keyOf(l))
		s.queues[l] = q
	}
	if q.dead {
		return nil, true // the library drops the batch, or its callbacks send it back
	}
	var bytes int64
	for _, a := range batch {
		bytes += a.size
	}
	if !overdue && !q.fits(len(batch), bytes) {
		if q.parked == nil {
			q.parked = make(chan struct{})
		}
		return q.parked, false
	}
	if overdue {
		s.throttled = true
		s.throttle(true) // also when it was before: the library forgets it at a rebalance
	}
	for _, a := range batch {
		if q.open[a.content.Offset] == nil {
			t.welcome(q, a)
		}
	}
	return nil, true
}

// welcome enters an arrival that has passed.
func (t *leases) welcome(q *queue, a *arrival) {
	t.state.lastID++
	a.id, a.queue, a.inHeap = t.state.lastID, q, -1
	a.verdict = make(chan library.ConsumeResult, 1)
	t.state.arrivals[a.id] = a
	q.arriving = append(q.arriving, a)
	q.open[a.content.Offset] = a
	q.count(a, 1)
	q.next = max(q.next, a.content.Offset+1)
}

// await is the callback of one message: it claims the arrival and waits for the verdict. A message that did not pass the inlet, or whose
// queue is dead, is sent back by the library, or ignored when it has dropped the queue.
func (t *leases) await(l loop, offset int64) library.ConsumeResult {
	if !t.enter() {
		return library.ConsumeRetryLater
	}
	defer t.inside.Done()
	verdict := t.claim(l, offset)
	if verdict == nil {
		return library.ConsumeRetryLater
	}
	select {
	case v := <-verdict:
		return v
	case <-t.released:
		return library.ConsumeRetryLater
	}
}

// claim marks an arrival's callback as begun. The callback only begins while the library has not dropped the queue, so an older loop of
// the same queue is over.
func (t *leases) claim(l loop, offset int64) <-chan library.ConsumeResult {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.state
	q := s.queues[l]
	if q == nil || q.dead || q.open[offset] == nil || q.open[offset].claimed {
		return nil
	}
	if older := s.current[q.key]; older != q {
		if older != nil {
			t.bury(older)
		}
		s.current[q.key] = q
	}
	a := q.open[offset]
	a.claimed = true
	if a.status == finished {
		delete(q.open, offset)
	}
	for len(q.arriving) > 0 && (q.arriving[0].claimed || q.arriving[0].status == finished) {
		if first := q.arriving[0]; first.status == arriving {
			t.ready(first)
		}
		q.arriving[0] = nil
		q.arriving = q.arriving[1:]
	}
	return a.verdict
}

// ready makes an arrival wait to be leased; nothing of a lost queue is.
func (t *leases) ready(a *arrival) {
	if a.queue.lost {
		a.queue.count(a, -1)
		a.status = settling
		return
	}
	t.state.queueUp(a, false)
}

// bury ends everything of a queue that the library has dropped: its leases are void, since what it brought comes again. The verdict is the
// safe one: if the library should hear it after all, it sends the message back.
func (t *leases) bury(q *queue) {
	if q.dead {
		return
	}
	q.dead, q.since = true, time.Now()
	if q.parked != nil {
		close(q.parked)
		q.parked = nil
	}
	for _, a := range q.open {
		t.void(a)
		t.finish(a, library.ConsumeRetryLater)
	}
	q.open, q.arriving = make(map[int64]*arrival), nil
	if t.state.current[q.key] == q {
		delete(t.state.current, q.key)
	}
}

// void makes the handles of an arrival answer that their lease has ended.
func (t *leases) void(a *arrival) {
	if a.lease > 0 && a.status != finished {
		t.state.voided[a.id] = a.latest
	}
}

// forgetAfter is how long a dead queue is remembered: longer than a pull of its loop can still be under way.
const forgetAfter = 5 * time.Minute

// assigned tells what a rebalance gives this client of a topic, before the library acts on it. A queue that is missing is dropped by the library
// right after this call, so its messages are not leased any more; their callbacks are let go one rebalance later, when it is sure that their
// return means nothing.
func (t *leases) assigned(topic string, queues []queueKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.state
	ours := make(map[queueKey]bool, len(queues))
	for _, k := range queues {
		ours[k] = true
	}
	for l, q := range s.queues {
		switch {
		case q.dead && time.Since(q.since) > forgetAfter:
			delete(s.queues, l)
		case q.dead || q.key.topic != topic:
		case q.lost:
			t.bury(q)
		case !ours[q.key]:
			t.lose(q)
		}
	}
}

// lose takes a queue's messages off the line and voids their leases.
func (t *leases) lose(q *queue) {
	q.lost = true
	for _, a := range q.open {
		t.void(a)
		switch a.status {
		case waiting:
			t.state.unline(a)
			a.status = settling
		case leased, settling:
			t.state.deadline.remove(a)
			a.status = settling
		case arriving, finished:
		}
		delete(t.state.arrivals, a.id)
	}
	t.state.relax()
}
