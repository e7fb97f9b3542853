// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

const (
	// backOffMin and backOffMax bound the pause after a failed Fetch or dead-letter write; it doubles, with jitter of a half.
	backOffMin = 100 * time.Millisecond
	backOffMax = 10 * time.Second
	// errGrace: a Fetch that has waited this long without an error works.
	errGrace = 3 * time.Second
	// maxInLine bounds one Fetch of an ordered Consumer. RocketMQ lends no more than that in one pop.
	maxInLine = 32
	// emptyPause follows a Fetch that returned nothing and no error before its end, against its contract.
	emptyPause = 10 * time.Millisecond
)

// backOff is the pause after n failures in a row.
func backOff(n int) time.Duration {
	d := backOffMax
	if n < 8 {
		d = min(backOffMin<<max(n-1, 0), backOffMax)
	}
	return d/2 + rand.N(d)
}

// fetchPlan is one step of the dispatcher, decided under the lock and done outside it.
type fetchPlan struct {
	ctx    context.Context
	cancel context.CancelFunc
	class  *class
	req    driver.FetchRequest
	// pause comes instead of a Fetch: the back-off is not over, or, paced, the rate limit is used up.
	pause time.Duration
	paced bool
}

// refillLocked follows each change that frees credit: held messages are placed first, then the dispatcher looks for more.
func (w *Window) refillLocked() {
	for _, c := range w.order {
		for again := true; again; {
			again = false
			for f := c.held.head; f != nil; {
				next := f.next
				again = c.place(f) && f.lane != nil || again // the next in its lane may stand before it in the list
				f = next
			}
		}
	}
	if w.draining {
		return
	}
	if w.dispatching || !w.anyWantLocked() {
		return
	}
	w.dispatching = true
	w.wg.Add(1)
	go w.dispatch()
}

// dispatch fetches as long as some receiver has credit. It is the window's only goroutine that waits for messages; there is none while
// nobody wants any.
func (w *Window) dispatch() {
	defer w.wg.Done()
	for {
		p, ok := w.planFetch()
		if !ok {
			return
		}
		if p.pause > 0 {
			began := time.Now()
			driver.Sleep(p.ctx, p.pause)
			p.cancel()
			if p.paced {
				w.obs.Paced(time.Since(began))
			}
			continue
		}
		msgs, err := w.callFetch(p.ctx, p.req)
		over := p.ctx.Err() != nil
		p.cancel()
		w.arrived(p, msgs, err, over)
	}
}

// planFetch decides the next step, or ends the dispatcher.
func (w *Window) planFetch() (fetchPlan, bool) {
	w.mu.Lock()
	e := effects{joined: true}
	p, ok := w.planFetchLocked()
	if !ok {
		w.dispatching, w.cut, w.fetching = false, nil, nil
		e.windowFull = w.noticeFullLocked()
	}
	w.unlockAnd(&e)
	return p, ok
}

func (w *Window) planFetchLocked() (fetchPlan, bool) {
	if w.draining {
		return fetchPlan{}, false
	}
	var p fetchPlan
	now := w.now()
	for i, c := range w.order {
		n, size := w.wantLocked(c, now)
		if n <= 0 || size <= 0 {
			continue
		}
		p.class, p.req = c, driver.FetchRequest{MaxMessages: n, MaxBytes: size, Lease: c.lease}
		// In rotation: this class is the last to be looked at the next time.
		copy(w.order[i:], w.order[i+1:])
		w.order[len(w.order)-1] = c
		break
	}
	if p.class == nil {
		return fetchPlan{}, false
	}
	if room, _ := w.roomLocked(); room > w.settings.MaxInFlight/2 {
		w.full = false
	}
	p.ctx, p.cancel = context.WithCancel(w.life)
	if p.pause = time.Duration(w.retryAt - now); p.pause <= 0 {
		w.paceLocked(&p, now)
	}
	if p.pause <= 0 {
		w.fetching, w.waitingSince = p.class, now
	}
	w.cut = p.cancel
	return p, true
}

// paceLocked keeps p to the rate limit. It decides before the Fetch: a message that waits for the limit waits in RocketMQ, and no lease of it runs.
func (w *Window) paceLocked(p *fetchPlan, now int64) {
	n, size, wait := w.pace.Offer(time.Duration(now))
	if p.pause = wait; wait > 0 {
		p.paced = true
		return
	}
	p.req.MaxMessages, p.req.MaxBytes = min(p.req.MaxMessages, n), min(p.req.MaxBytes, size)
}

// roomLocked is what the window still takes. Dead letters have the same room again for themselves.
func (w *Window) roomLocked() (int, int64) {
	return w.settings.MaxInFlight - (len(w.flights) - w.buryingN), w.settings.MaxInFlightBytes - (w.bytes - w.buryingBytes)
}

// wantLocked is how much a Fetch for c may ask for: the credits of its receivers within the window's room.
func (w *Window) wantLocked(c *class, now int64) (n int, size int64) {
	if h := c.held.head; h != nil && now < h.crowded {
		return 0, 0
	}
	room, byteRoom := w.roomLocked()
	if room <= 0 || byteRoom <= 0 {
		return 0, 0
	}
	for r := c.head; r != nil && (n < room || size < byteRoom); r = r.next {
		if w.ordered {
			// A batch goes to one receiver, and what it has no credit for yet waits here while its lease runs.
			n = min(max(n, r.maxMessages-r.outstanding), maxInLine)
			size = max(size, r.maxBytes-r.outstandingBytes)
			continue
		}
		n += r.maxMessages - r.outstanding
		size += r.maxBytes - r.outstandingBytes
	}
	return min(n, room), min(size, byteRoom)
}

func (w *Window) anyWantLocked() bool {
	now := w.now()
	return slices.ContainsFunc(w.order, func(c *class) bool {
		n, size := w.wantLocked(c, now)
		return n > 0 && size > 0
	})
}

// cutUnwantedLocked ends a Fetch, or a back-off, whose receivers have left: it would bring messages for nobody, and keep the receivers with
// another lease waiting.
func (w *Window) cutUnwantedLocked() {
	if w.cut == nil {
		return
	}
	wanted := w.fetching == nil && w.anyWantLocked()
	if w.fetching != nil {
		n, size := w.wantLocked(w.fetching, w.now())
		wanted = n > 0 && size > 0
	}
	if !wanted {
		w.cut()
	}
}

// noticeFullLocked reports once that the window has no room; again only after it was half empty in between.
func (w *Window) noticeFullLocked() bool {
	room, byteRoom := w.roomLocked()
	if w.full || w.draining || len(w.receivers) == 0 || room > 0 && byteRoom > 0 {
		return false
	}
	w.full = true
	return true
}

// arrived hands out what a Fetch brought and keeps account of its failure. over: the Fetch was ended by us.
func (w *Window) arrived(p fetchPlan, msgs []*driver.Received, err error, over bool) {
	if over && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		err = nil
	}
	w.mu.Lock()
	e := effects{joined: true}
	if len(msgs) > 0 {
		w.sweepLocked(&e) // a redelivery may be faster than the timer of the lease that ended for it
	}
	now := w.now()
	// The class may have been left and made anew while the Fetch ran.
	c := p.class
	if current := w.classes[c.lease]; current != nil {
		c = current
	}
	size := int64(0)
	for i, m := range msgs {
		size += m.Bytes()
		w.receiveLocked(c, m, i >= p.req.MaxMessages, now, &e)
	}
	w.pace.Take(time.Duration(now), len(msgs), size)
	failed := w.fetchErr != nil
	w.accountLocked(len(msgs), err, over, now)
	e.fetchFailed = err
	recovered := failed && w.fetchErr == nil
	w.waitingSince, w.fetching = 0, nil
	w.unlockAnd(&e)
	if err != nil && !failed {
		w.log.Info("fetching from RocketMQ fails; the window tries again by itself", "error", err.Error())
	}
	if recovered {
		w.log.Info("fetching from RocketMQ works again")
	}
}

// accountLocked sets the back-off and Err after a Fetch. One that we ended ourselves says something only when it had waited for a while.
func (w *Window) accountLocked(n int, err error, over bool, now int64) {
	switch {
	case err != nil:
		w.failures++
		w.fetchErr, w.fetchErrAt = err, now
		w.retryAt = now + int64(backOff(w.failures))
	case n > 0 || !over || now-w.waitingSince >= int64(errGrace):
		w.failures, w.retryAt, w.fetchErr = 0, 0, nil
		if n == 0 && !over {
			w.retryAt = now + int64(emptyPause)
		}
	}
}

// receiveLocked takes one leased message into the window: to a receiver, to the dead-letter topic, or back.
func (w *Window) receiveLocked(c *class, m *driver.Received, tooMany bool, now int64, e *effects) {
	if m.Batch != 0 {
		w.receiveInLineLocked(c, m, tooMany, now, e)
		return
	}
	until := w.steady(m.Deadline)
	switch {
	case until <= now:
		// The lease ended on the way: it is not ours any more.
		e.ended(Lapsed, 1)
		return
	case w.draining || tooMany:
		e.giveBack = append(e.giveBack, m.Handle)
		return
	}
	w.lastID++
	dead := w.settings.MaxDeliveryAttempts > 0 && m.Attempt > w.settings.MaxDeliveryAttempts
	if !dead {
		w.reasons.annotate(m)
	}
	f := &flight{id: w.lastID, msg: m, bytes: m.Bytes(), class: c, handle: m.Handle, deadline: m.Deadline, until: until, slot: -1}
	f.stale, f.crowded = now+(until-now)/2, now+(until-now)/4
	if dead {
		w.buryLocked(f, e)
		return
	}
	w.flights[f.id] = f
	w.bytes += f.bytes
	f.state = held
	c.held.push(f)
	switch {
	case c.place(f):
		w.heap.push(f, f.stale)
	case c.head != nil:
		w.heap.push(f, f.crowded)
	default:
		// Whoever wanted it is gone.
		w.returnLocked(f, now, e)
	}
}
