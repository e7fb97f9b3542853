// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"context"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// maxOpen is how many checks one receiver may have without an answer. More go to others, or come again.
const maxOpen = 256

// Receiver is one application that is asked. It is safe for concurrent use; Close it.
type Receiver struct {
	hub   *Hub
	ready chan struct{}

	mu    sync.Mutex // guards state
	state struct {
		closed  bool
		waiting []*Check
		// open are those that wait or were taken and have no answer, by transaction.
		open map[string]*handed
	}
}

// handed is a check without an answer.
type handed struct {
	check *Check
	since time.Time
}

// put gives it a check, false when it has no room.
func (r *Receiver) put(c *Check) bool {
	late := r.expire(time.Now())
	r.mu.Lock()
	room := !r.state.closed && len(r.state.open) < maxOpen
	if room {
		r.state.waiting = append(r.state.waiting, c)
		r.state.open[c.Transaction] = &handed{check: c, since: time.Now()}
	}
	r.mu.Unlock()
	for _, c := range late {
		r.hub.ended(Unanswered, c)
	}
	if room {
		select {
		case r.ready <- struct{}{}:
		default:
		}
	}
	return room
}

// Ready signals that Take has something. One signal stands for any number.
func (r *Receiver) Ready() <-chan struct{} { return r.ready }

// Draining is closed when this host asks no more.
func (r *Receiver) Draining() <-chan struct{} { return r.hub.drained }

// Take is up to n checks that were not taken before.
func (r *Receiver) Take(n int) []*Check {
	r.mu.Lock()
	defer r.mu.Unlock()
	n = min(n, len(r.state.waiting))
	taken := r.state.waiting[:n:n]
	if r.state.waiting = r.state.waiting[n:]; len(r.state.waiting) > 0 {
		select {
		case r.ready <- struct{}{}:
		default:
		}
	}
	return taken
}

// Open is the number of checks without an answer.
func (r *Receiver) Open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.state.open)
}

// Resolve takes an answer, to any check of this Producer, whoever was asked. An empty decision says that the application cannot tell yet.
func (r *Receiver) Resolve(ctx context.Context, transaction string, d driver.Decision) (messageID string, err error) {
	r.mu.Lock()
	answered := r.state.open[transaction]
	delete(r.state.open, transaction) // nil after Close, which is no harm
	r.mu.Unlock()
	outcome := Unknown
	if d != "" {
		messageID, err = r.hub.resolve(ctx, transaction, d)
		outcome = outcomeOf(d, err)
	}
	if answered != nil {
		r.hub.ended(outcome, answered.check)
	}
	return messageID, err
}

// Expire counts the checks that got no answer in time.
func (r *Receiver) Expire() {
	for _, c := range r.expire(time.Now()) {
		r.hub.ended(Unanswered, c)
	}
}

func (r *Receiver) expire(now time.Time) (late []*Check) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for transaction, h := range r.state.open {
		if now.Sub(h.since) >= AnswerTime {
			delete(r.state.open, transaction)
			late = append(late, h.check)
		}
	}
	return late
}

// Close ends it. What was not taken goes to somebody else; what was, and has no answer, is unanswered.
func (r *Receiver) Close() {
	r.mu.Lock()
	closed, open, waiting := r.state.closed, r.state.open, r.state.waiting
	r.state.closed, r.state.open, r.state.waiting = true, nil, nil
	r.mu.Unlock()
	if closed {
		return
	}
	r.hub.detach(r)
	for _, c := range waiting {
		if open[c.Transaction] != nil {
			delete(open, c.Transaction)
			r.hub.place(c)
		}
	}
	for _, h := range open {
		r.hub.ended(Unanswered, h.check)
	}
}
