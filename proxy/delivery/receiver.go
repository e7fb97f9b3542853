// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"sync"
	"time"
)

// Receiver takes deliveries within its credit: a stream, a long poll or a push worker. Take, Written, Unwritten and Close may be called from
// different goroutines; the one that ends the transport calls Close, after its last Written or Unwritten.
type Receiver struct {
	w       *Window
	options ReceiverOptions
	ready   chan struct{}
	// draining is closed by announceDrain, at most once.
	draining chan struct{}
	closing  sync.Once

	// The rest is guarded by w.mu.
	closed, told     bool
	maxMessages      int
	maxBytes         int64
	outstanding      int
	outstandingBytes int64
	class            *class
	queue, taken     flightList
	// prev and next link it in its class's ring while it has credit.
	prev, next *Receiver
	inRing     bool
}

// class is the receivers whose deliveries have the same lease: one Fetch has one lease.
type class struct {
	lease     time.Duration
	receivers int
	// ring are the receivers with credit, the next one to get a message first.
	head, tail *Receiver
	held       flightList
}

func (w *Window) classLocked(lease time.Duration) *class {
	c := w.classes[lease]
	if c == nil {
		c = &class{lease: lease}
		w.classes[lease] = c
		w.order = append(w.order, c)
	}
	return c
}

func (w *Window) joinLocked(r *Receiver, c *class) {
	r.class = c
	c.receivers++
	r.updateRing()
}

// leaveLocked takes r out of its class. What the class held for its receivers goes back when none is left.
func (w *Window) leaveLocked(r *Receiver, e *effects) {
	c := r.class
	c.ringRemove(r)
	r.class = nil
	if c.receivers--; c.receivers > 0 {
		return
	}
	now := w.now()
	for _, f := range c.held.all() {
		w.returnLocked(f, now, e)
	}
	delete(w.classes, c.lease)
	for i := range w.order {
		if w.order[i] == c {
			w.order = append(w.order[:i:i], w.order[i+1:]...)
			break
		}
	}
}

func (r *Receiver) lease(s Settings) time.Duration {
	d := r.options.AckDeadline
	if d <= 0 {
		d = s.AckDeadline
	}
	return min(max(d, minLease), s.MaxLease)
}

func (r *Receiver) applyLimits(s Settings) {
	r.maxMessages, r.maxBytes = r.options.MaxMessages, r.options.MaxBytes
	if r.maxMessages <= 0 || r.maxMessages > s.MaxInFlight {
		r.maxMessages = s.MaxInFlight
	}
	if r.maxBytes <= 0 || r.maxBytes > s.MaxInFlightBytes {
		r.maxBytes = s.MaxInFlightBytes
	}
}

func (r *Receiver) hasCredit() bool {
	return !r.closed && r.outstanding < r.maxMessages && r.outstandingBytes < r.maxBytes
}

// fits: within the byte credit, or alone when it is larger than all of it.
func (r *Receiver) fits(f *flight) bool {
	return f.bytes <= r.maxBytes-r.outstandingBytes || r.outstanding == 0
}

// updateRing puts r at the end of its class's ring when it has credit, and takes it out when not.
func (r *Receiver) updateRing() {
	switch {
	case r.class == nil:
	case r.hasCredit() && !r.inRing:
		r.class.ringPush(r)
	case !r.hasCredit() && r.inRing:
		r.class.ringRemove(r)
	}
}

func (c *class) ringPush(r *Receiver) {
	r.prev, r.next, r.inRing = c.tail, nil, true
	if c.tail != nil {
		c.tail.next = r
	} else {
		c.head = r
	}
	c.tail = r
}

func (c *class) ringRemove(r *Receiver) {
	if !r.inRing {
		return
	}
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		c.head = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		c.tail = r.prev
	}
	r.prev, r.next, r.inRing = nil, nil, false
}

// place gives f, which is held, to the next receiver in turn whose credit takes it, and reports whether there was one.
func (c *class) place(f *flight) bool {
	if f.lane != nil {
		return f.lane.place(c, f)
	}
	for r := c.head; r != nil; r = r.next {
		if r.fits(f) {
			r.give(f)
			return true
		}
	}
	return false
}

// give places f, which is held, with r.
func (r *Receiver) give(f *flight) {
	f.class.held.remove(f)
	f.state, f.recv = queued, r
	r.queue.push(f)
	r.outstanding++
	r.outstandingBytes += f.bytes
	r.class.ringRemove(r)
	r.updateRing()
	r.signal()
}

func (r *Receiver) signal() {
	select {
	case r.ready <- struct{}{}:
	default:
	}
}

func (r *Receiver) announceDrain() {
	if !r.told {
		r.told = true
		close(r.draining)
	}
}

// Ready signals that Take may have something. After a signal call Take until it answers nothing, or as often as the transport can write;
// what is left signals again.
func (r *Receiver) Ready() <-chan struct{} { return r.ready }

// Draining is closed when the window begins to drain: finish what is in hand and go to another host.
func (r *Receiver) Draining() <-chan struct{} { return r.draining }

// Take hands out deliveries that wait for this receiver, without waiting itself: at most maxMessages and maxBytes (0 = no bound), but
// always the first one. Each must be given to Written or Unwritten, or is given back by Close.
func (r *Receiver) Take(maxMessages int, maxBytes int64) []Delivery {
	flights, contents := r.takeLocked(maxMessages, maxBytes)
	if len(flights) == 0 {
		return nil
	}
	out := make([]Delivery, 0, len(flights))
	for i, f := range flights {
		token, err := r.w.sealer.sealContent(r.w.origin.prefix, &contents[i].content)
		if err != nil {
			r.w.log.Error(err, "could not make an ack token; the message is given back", "messageID", f.msg.ID, "topic", f.msg.Topic)
			r.Unwritten([]Delivery{{flight: f}})
			continue
		}
		out = append(out, Delivery{Received: f.msg, Token: token, Deadline: contents[i].deadline, Attempt: f.msg.Attempt, flight: f})
	}
	return out
}

// taking is what Take needs to know of a flight once the lock is gone.
type taking struct {
	content
	deadline time.Time
}

func (r *Receiver) takeLocked(maxMessages int, maxBytes int64) (flights []*flight, contents []taking) {
	w := r.w
	w.mu.Lock()
	n := r.queue.n
	if maxMessages > 0 {
		n = min(n, maxMessages)
	}
	var e effects
	if n > 0 {
		flights, contents = make([]*flight, 0, n), make([]taking, 0, n)
		now, size := w.now(), int64(0)
		for f := r.queue.head; f != nil && len(flights) < n; f = r.queue.head {
			if f.until <= now {
				w.lapseLocked(f, now, &e)
				if f.state == queued {
					break // its deadline is being moved
				}
				continue
			}
			size += f.bytes
			if maxBytes > 0 && size > maxBytes && len(flights) > 0 {
				break
			}
			r.queue.remove(f)
			f.state = taken
			r.taken.push(f)
			f.tokenUntil = f.until
			flights = append(flights, f)
			contents = append(contents, taking{content{id: f.id, generation: f.generation, attempt: f.msg.Attempt, deadline: f.until, handle: f.handle}, f.deadline})
		}
	}
	if r.queue.n > 0 {
		r.signal()
	}
	w.unlockAnd(&e)
	return flights, contents
}

// Written says that the transport took ds: from now on they stay leased to their deadlines, even when the receiver goes away.
func (r *Receiver) Written(ds []Delivery) {
	redelivered := 0
	r.w.mu.Lock()
	for i := range ds {
		if f := ds[i].flight; f != nil && f.recv == r && f.state == taken {
			r.taken.remove(f)
			f.state = written
		}
		if ds[i].Attempt > 1 {
			redelivered++
		}
	}
	r.w.mu.Unlock()
	if len(ds) > 0 {
		r.w.obs.Delivered(len(ds), redelivered)
	}
}

// Unwritten says that the transport refused ds: they go back at once, with their attempt unchanged, and their tokens are void. It returns
// when the driver has them, or after 5 s.
func (r *Receiver) Unwritten(ds []Delivery) {
	w := r.w
	w.mu.Lock()
	var e effects
	now := w.now()
	for i := range ds {
		if f := ds[i].flight; f != nil && f.recv == r && f.state == taken {
			w.unwrittenLocked(f, now, &e)
		}
	}
	w.refillLocked()
	w.unlockAnd(&e)
}

// unwrittenLocked gives a taken delivery back. When its token is being answered at this moment, the application has it, whatever the transport
// thinks.
func (w *Window) unwrittenLocked(f *flight, now int64, e *effects) {
	if f.op != nil {
		f.recv.taken.remove(f)
		f.state = written
		return
	}
	w.returnLocked(f, now, e)
}

// Close takes the receiver away and returns when what it never wrote is with another receiver or given back (or after 5 s). What was written
// stays leased to its deadline, in the window's account only. It works twice and from two goroutines; both return when it is done.
func (r *Receiver) Close() {
	r.closing.Do(r.close)
}

func (r *Receiver) close() {
	w := r.w
	w.mu.Lock()
	var e effects
	now := w.now()
	r.closed = true
	delete(w.receivers, r)
	c := r.class
	w.leaveLocked(r, &e)
	for _, f := range r.taken.all() {
		w.unwrittenLocked(f, now, &e)
	}
	for _, f := range append(r.queue.all(), c.held.all()...) {
		if f.lane != nil && f.lane.recv == r && f.open() {
			w.leaveLaneLocked(f, now, &e)
		}
	}
	for _, f := range r.queue.all() {
		w.detachLocked(f)
		f.state, f.class = held, c
		c.held.push(f)
		if f.stale <= now || w.draining || !c.place(f) {
			w.returnLocked(f, now, &e)
		}
	}
	w.refillLocked()
	w.cutUnwantedLocked()
	w.unlockAnd(&e)
}
