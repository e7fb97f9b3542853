// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"container/list"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	library "github.com/apache/rocketmq-client-go/v2/consumer"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// leases is the table of everything that the library has handed to this process and that has no verdict yet. The library acknowledges by the
// return of a callback, so each message's callback waits here until the message is acknowledged, sent back, dead-lettered, or the client ends.
//
// The way of a message: the inlet (in the library's pull loop, in order) -> its callback claims it -> waiting -> leased by Fetch -> verdict.
// A lease that ends makes the message wait again with its attempt raised; the broker does not see that.
//
// No call leaves this file while mu is held.
type leases struct {
	group  uint32
	client uint64

	mu    sync.Mutex
	state leaseState

	// released is closed when the library has been shut down: whoever is parked or waits for a verdict leaves.
	released chan struct{}
	// sooner tells the reaper that an earlier deadline exists.
	sooner chan struct{}
	reaper sync.WaitGroup
	// inside counts the library's goroutines that are in the inlet or wait for a verdict.
	inside sync.WaitGroup
}

// leaseState is what mu guards.
type leaseState struct {
	closed   bool
	gone     bool // released is closed
	arrivals map[uint64]*arrival
	lastID   uint64
	line     *list.List // of *arrival, the next to lease in front
	deadline deadlines
	// voided are arrivals whose handles have ended without an acknowledgement, until their last handle's deadline.
	voided map[uint64]time.Time
	purged time.Time // when voided was last cleared of what is over
	// changed is closed when something new waits; nil when nobody wants to know.
	changed chan struct{}
	queues  map[loop]*queue
	current map[queueKey]*queue
	// throttled: a pull was let through because it could not be parked any longer, and the library was told to stop pulling.
	throttled bool
	throttle  func(stop bool)
}

// newLeases starts the reaper; close and release end it. throttle stops and starts the library's pulling; it must not block.
func newLeases(group string, throttle func(stop bool)) *leases {
	t := &leases{group: hash([]byte(group)), client: rand.Uint64(), released: make(chan struct{}), sooner: make(chan struct{}, 1)}
	t.state = leaseState{
		arrivals: make(map[uint64]*arrival), line: list.New(), voided: make(map[uint64]time.Time),
		queues: make(map[loop]*queue), current: make(map[queueKey]*queue), throttle: throttle,
	}
	t.reaper.Go(t.reap)
	return t
}

// fetch leases what waits, or waits until something does. See driver.Consumer.
func (t *leases) fetch(ctx context.Context, req driver.FetchRequest) ([]*driver.Received, error) {
	lease := min(req.Lease, maxLease)
	if lease <= 0 || req.MaxMessages <= 0 {
		return nil, driver.Errorf(driver.Invalid, "", "Fetch of %d messages with a lease of %v: both must be positive", req.MaxMessages, req.Lease)
	}
	for {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		taken, changed, err := t.take(req, lease)
		if err != nil {
			return nil, err
		}
		if len(taken) > 0 {
			return taken, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// take leases what waits at this moment. Without anything it returns a channel that is closed when there is something.
func (t *leases) take(req driver.FetchRequest, lease time.Duration) ([]*driver.Received, <-chan struct{}, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.state
	if s.closed {
		return nil, nil, errClosed()
	}
	var taken []*driver.Received
	var bytes int64
	end := time.Now().Add(lease)
	for e := s.line.Front(); e != nil && len(taken) < req.MaxMessages; e = s.line.Front() {
		a := e.Value.(*arrival)
		if bytes += a.size; bytes > req.MaxBytes && len(taken) > 0 {
			break
		}
		s.unline(a)
		taken = append(taken, t.grant(a, end))
	}
	if len(taken) > 0 {
		s.relax()
		return taken, nil, nil
	}
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return nil, s.changed, nil
}

// grant makes a lease of an arrival and the copy that goes out with it.
func (t *leases) grant(a *arrival, deadline time.Time) *driver.Received {
	a.status = leased
	h := t.renew(a, deadline)
	r := a.content
	r.Message = cloneMessage(&a.content.Message)
	r.Handle, r.Attempt, r.Deadline = h, a.attempt, deadline
	return &r
}

// renew gives an arrival a new lease with a new handle.
func (t *leases) renew(a *arrival, deadline time.Time) driver.Handle {
	a.lease++
	a.deadline = deadline
	if deadline.After(a.latest) {
		a.latest = deadline
	}
	t.state.deadline.put(a)
	if t.state.deadline[0] == a {
		t.hurry()
	}
	return ticket{group: t.group, client: t.client, arrival: a.id, lease: a.lease, deadline: deadline}.handle()
}

// unline takes an arrival off the line and wakes its queue's inlet when there is room.
func (s *leaseState) unline(a *arrival) {
	s.line.Remove(a.inLine)
	a.inLine = nil
	a.queue.count(a, -1)
	if q := a.queue; q.parked != nil {
		close(q.parked)
		q.parked = nil
	}
}

// queueUp makes an arrival wait. One that was delivered before goes in front.
func (s *leaseState) queueUp(a *arrival, front bool) {
	a.status = waiting
	if front {
		a.inLine = s.line.PushFront(a)
	} else {
		a.inLine = s.line.PushBack(a)
	}
	s.tell()
}

// tell wakes every Fetch that waits.
func (s *leaseState) tell() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// relax lets the library pull again once every queue is back within its bound.
func (s *leaseState) relax() {
	if !s.throttled {
		return
	}
	for _, q := range s.queues {
		if !q.dead && q.waiting > prefetchMessages {
			return
		}
	}
	s.throttled = false
	s.throttle(false)
}

// find returns the leased arrival that a handle names. Without one the error says what to answer; acked says that the arrival has been
// acknowledged already, inside the deadline that the handle says.
func (t *leases) find(h driver.Handle) (a *arrival, acked bool, err error) {
	if t.state.closed {
		return nil, false, errClosed()
	}
	ticket, ok := parseHandle(h)
	if !ok || ticket.group != t.group {
		return nil, false, driver.Errorf(driver.InvalidHandle, "", "the handle was not made by this driver for this group")
	}
	if ticket.client != t.client {
		return nil, false, driver.Errorf(driver.LeaseExpired, "", "the client that made the delivery has been stopped; the message comes again")
	}
	if a := t.state.arrivals[ticket.arrival]; a != nil {
		if a.status == leased && a.lease == ticket.lease && time.Now().Before(a.deadline) {
			return a, false, nil
		}
		return nil, false, errExpired()
	}
	if _, voided := t.state.voided[ticket.arrival]; voided || ticket.arrival > t.state.lastID || !time.Now().Before(ticket.deadline) {
		return nil, false, errExpired()
	}
	return nil, true, nil
}

func errExpired() error {
	return driver.Errorf(driver.LeaseExpired, "", "the lease has ended or was replaced; the message comes or came again")
}

func errClosed() error { return driver.Errorf(driver.Closed, "", "the client is closed") }

// ack acknowledges. Again inside the lease is fine.
func (t *leases) ack(h driver.Handle) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, acked, err := t.find(h)
	if err != nil || acked {
		return err
	}
	t.finish(a, library.ConsumeSuccess)
	return nil
}

// extend replaces the lease.
func (t *leases) extend(h driver.Handle, lease time.Duration) (driver.Handle, time.Time, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, acked, err := t.find(h)
	switch {
	case err != nil:
		return "", time.Time{}, err
	case acked:
		return "", time.Time{}, driver.Errorf(driver.LeaseExpired, "", "the message is acknowledged already")
	case lease <= 0:
		return "", time.Time{}, driver.Errorf(driver.Invalid, "", "a lease of %v: it must be positive", lease)
	}
	h = t.renew(a, time.Now().Add(lease))
	t.hurry() // it may have been the first and be later now
	return h, a.deadline, nil
}

// giveBack makes the message wait again as if it had not been delivered.
func (t *leases) giveBack(h driver.Handle) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, acked, err := t.find(h)
	if err != nil {
		return err
	}
	if acked {
		return errExpired()
	}
	t.putBack(a)
	return nil
}

// putBack ends a lease without counting it.
func (t *leases) putBack(a *arrival) {
	t.state.deadline.remove(a)
	a.queue.count(a, 1)
	t.state.queueUp(a, true)
}

// settle reserves a leased arrival for a nack or a dead letter; settled or unsettled must follow.
func (t *leases) settle(h driver.Handle) (*arrival, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, acked, err := t.find(h)
	if err != nil {
		return nil, err
	}
	if acked {
		return nil, errExpired()
	}
	a.status = settling
	return a, nil
}

// settled ends an arrival whose copy is stored in the broker. again says that the copy comes to this group, so that an acknowledgement
// with the old handle must not be answered as if it had an effect.
func (t *leases) settled(a *arrival, again bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.status != settling {
		return // the queue was lost meanwhile
	}
	if again {
		t.state.voided[a.id] = a.latest
	}
	t.finish(a, library.ConsumeSuccess)
}

// unsettled gives the lease back to its holder: the copy is not stored, or nobody knows.
func (t *leases) unsettled(a *arrival) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.status != settling || a.queue.lost {
		return
	}
	a.status = leased
	t.hurry() // the deadline may have passed
}

// finish gives the verdict. The callback takes it now or when it begins.
func (t *leases) finish(a *arrival, verdict library.ConsumeResult) {
	s := &t.state
	switch a.status {
	case arriving:
		a.queue.count(a, -1)
	case waiting:
		s.unline(a)
	case leased, settling:
		s.deadline.remove(a)
	case finished:
		return
	}
	a.status = finished
	delete(s.arrivals, a.id)
	if a.claimed {
		delete(a.queue.open, a.content.Offset)
	}
	if verdict == library.ConsumeSuccess {
		a.queue.acked = max(a.queue.acked, a.content.Offset+1)
	}
	a.verdict <- verdict // has room for one, and is sent once
}

// hurry makes the reaper look at the deadlines.
func (t *leases) hurry() {
	select {
	case t.sooner <- struct{}{}:
	default:
	}
}

// reap ends leases at their deadline.
func (t *leases) reap() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(t.expire(time.Now()))
		select {
		case <-timer.C:
		case <-t.sooner:
		case <-t.released:
			return
		}
	}
}

// expire makes everything wait again whose lease has ended, and returns how long to sleep.
func (t *leases) expire(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.state
	var settlingNow []*arrival
	for len(s.deadline) > 0 && !s.deadline[0].deadline.After(now) {
		a := s.deadline[0]
		s.deadline.remove(a)
		if a.status == settling {
			settlingNow = append(settlingNow, a)
			continue
		}
		a.attempt++
		a.queue.count(a, 1)
		s.queueUp(a, true)
	}
	s.purge(now)
	sleep := time.Minute
	if len(s.deadline) > 0 {
		sleep = s.deadline[0].deadline.Sub(now)
	}
	// Those being settled stay in the heap, so that unsettled finds them; they need no wake-up of their own.
	for _, a := range settlingNow {
		s.deadline.put(a)
	}
	return sleep
}

// purgeEvery bounds how often voided is gone through.
const purgeEvery = 10 * time.Second

// purge forgets voided arrivals that no handle can mean any more.
func (s *leaseState) purge(now time.Time) {
	if now.Sub(s.purged) < purgeEvery {
		return
	}
	s.purged = now
	for id, until := range s.voided {
		if !until.After(now) {
			delete(s.voided, id)
		}
	}
}

// close ends leasing: Fetch and all calls with handles answer ErrClosed from now on, and nothing passes the inlet any more.
func (t *leases) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.closed {
		return
	}
	t.state.closed = true
	t.state.tell()
}

// release lets the library's goroutines go, after it has been shut down. It returns when they have left.
func (t *leases) release() {
	t.mu.Lock()
	if !t.state.gone {
		t.state.gone = true
		close(t.released)
	}
	t.mu.Unlock()
	t.inside.Wait()
	t.reaper.Wait()
}

// leftOpen lists the queues that brought something and are still ours, for what Close has to do.
func (t *leases) leftOpen() []*queue {
	t.mu.Lock()
	defer t.mu.Unlock()
	var open []*queue
	for _, q := range t.state.queues {
		if !q.dead && !q.lost && q.next >= 0 {
			open = append(open, q)
		}
	}
	return open
}

// holes, committable and givenAway are for Close; see queue.
func (t *leases) holes(q *queue) []*arrival {
	t.mu.Lock()
	defer t.mu.Unlock()
	return q.holes()
}

func (t *leases) committable(q *queue) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return q.committable()
}

// givenAway counts an arrival as done because a copy of it is stored in the broker.
func (t *leases) givenAway(a *arrival) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.finish(a, library.ConsumeSuccess)
}

func cloneMessage(m *driver.Message) driver.Message {
	c := *m
	c.Body, c.Keys = slices.Clone(m.Body), slices.Clone(m.Keys)
	if m.Properties != nil {
		c.Properties = make(map[string]string, len(m.Properties))
		for name, value := range m.Properties {
			c.Properties[name] = value
		}
	}
	return c
}
