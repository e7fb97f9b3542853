// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// fakeBroker is a small working consumer: messages, leases that end by time, attempts, delays, a dead-letter list. It can fail or hang each
// call, and keeps the ledger that the tests compare with.
type fakeBroker struct {
	unmoved
	mu      sync.Mutex
	ready   []*stored
	delayed []*stored
	leases  map[driver.Handle]*leased
	serial  int
	changed chan struct{}

	acked, dead map[string]int
	reasons     []string       // of dead letters
	delivered   map[string]int // by Fetch
	givenBack   int
	ackCalls    int
	ackHandles  int
	fetches     []driver.FetchRequest
	maxLeased   int

	maxLease     time.Duration
	minNackDelay time.Duration
	// on is called at the start of each call, outside mu; an error is the call's answer.
	on func(ctx context.Context, call string) error
	// afterFetch changes what a Fetch answers.
	afterFetch func([]*driver.Received)
	err        error
}

type stored struct {
	msg     driver.Message
	attempt int // deliveries so far
	at      time.Time
}

type leased struct {
	*stored
	until time.Time
	bytes int64
}

func newBroker() *fakeBroker {
	return &fakeBroker{
		leases: map[driver.Handle]*leased{}, changed: make(chan struct{}), acked: map[string]int{}, dead: map[string]int{},
		delivered: map[string]int{}, maxLease: 12 * time.Hour,
	}
}

// put stores n messages with bodies of size bytes; ids are prefix-number.
func (b *fakeBroker) put(prefix string, n, size int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.putLocked(prefix, n, size, 0)
}

func (b *fakeBroker) putLocked(prefix string, n, size, tries int) {
	for i := range n {
		b.ready = append(b.ready, &stored{
			msg: driver.Message{ID: fmt.Sprintf("%s-%d", prefix, i), Topic: "t", Body: []byte(strings.Repeat("x", size))}, attempt: tries,
		})
	}
	b.signalLocked()
}

func (b *fakeBroker) signalLocked() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *fakeBroker) begin(ctx context.Context, call string) error {
	b.mu.Lock()
	on := b.on
	b.mu.Unlock()
	if on == nil {
		return nil
	}
	return on(ctx, call)
}

func (b *fakeBroker) setOn(on func(ctx context.Context, call string) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.on = on
}

// tickLocked moves expired leases and passed delays to ready, and answers when the next one is due.
func (b *fakeBroker) tickLocked() (next time.Time) {
	now := time.Now()
	earliest := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	var back []*stored
	for h, l := range b.leases {
		if l.until.After(now) {
			earliest(l.until)
			continue
		}
		delete(b.leases, h)
		back = append(back, l.stored)
	}
	b.delayed = slices.DeleteFunc(b.delayed, func(s *stored) bool {
		if s.at.After(now) {
			earliest(s.at)
			return false
		}
		back = append(back, s)
		return true
	})
	slices.SortFunc(back, func(x, y *stored) int { return strings.Compare(x.msg.ID, y.msg.ID) })
	b.ready = append(back, b.ready...)
	return next
}

func (b *fakeBroker) Fetch(ctx context.Context, req driver.FetchRequest) ([]*driver.Received, error) {
	if err := b.begin(ctx, "Fetch"); err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.fetches = append(b.fetches, req)
	b.mu.Unlock()
	for {
		b.mu.Lock()
		next := b.tickLocked()
		out := b.leaseLocked(req)
		changed, after := b.changed, b.afterFetch
		b.mu.Unlock()
		if len(out) > 0 {
			if after != nil {
				after(out)
			}
			return out, nil
		}
		if next.IsZero() {
			next = time.Now().Add(time.Hour)
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		timer.Stop()
	}
}

func (b *fakeBroker) leaseLocked(req driver.FetchRequest) (out []*driver.Received) {
	if req.MaxMessages < 1 || req.MaxBytes < 1 || req.Lease <= 0 {
		panic(fmt.Sprintf("a Fetch without room: %+v", req))
	}
	size := int64(0)
	for len(b.ready) > 0 && len(out) < req.MaxMessages {
		s := b.ready[0]
		if size += s.msg.Bytes(); size > req.MaxBytes && len(out) > 0 {
			break
		}
		b.ready = b.ready[1:]
		s.attempt++
		b.delivered[s.msg.ID]++
		b.serial++
		h := driver.Handle(fmt.Sprintf("h%d", b.serial))
		l := &leased{stored: s, until: time.Now().Add(min(req.Lease, b.maxLease)), bytes: s.msg.Bytes()}
		b.leases[h] = l
		out = append(out, &driver.Received{Message: s.msg, Handle: h, Attempt: s.attempt, Deadline: l.until})
	}
	b.maxLeased = max(b.maxLeased, len(b.leases))
	return out
}

// takeLocked ends a lease and answers its message, or ErrLeaseExpired.
func (b *fakeBroker) takeLocked(h driver.Handle) (*stored, error) {
	l := b.leases[h]
	if l == nil {
		return nil, driver.ErrLeaseExpired
	}
	delete(b.leases, h)
	return l.stored, nil
}

func (b *fakeBroker) Ack(ctx context.Context, handles []driver.Handle) []error {
	errs := make([]error, len(handles))
	err := b.begin(ctx, "Ack")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tickLocked()
	b.ackCalls++
	b.ackHandles += len(handles)
	for i, h := range handles {
		if errs[i] = err; err != nil {
			continue
		}
		var s *stored
		if s, errs[i] = b.takeLocked(h); errs[i] == nil {
			b.acked[s.msg.ID]++
		}
	}
	return errs
}

func (b *fakeBroker) Nack(ctx context.Context, h driver.Handle, delay time.Duration) (time.Duration, error) {
	if err := b.begin(ctx, "Nack"); err != nil {
		return 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tickLocked()
	s, err := b.takeLocked(h)
	if err != nil {
		return 0, err
	}
	delay = max(delay, b.minNackDelay)
	s.at = time.Now().Add(delay)
	b.delayed = append(b.delayed, s)
	b.signalLocked()
	return delay, nil
}

func (b *fakeBroker) Extend(ctx context.Context, h driver.Handle, lease time.Duration) (driver.Handle, time.Time, error) {
	if err := b.begin(ctx, "Extend"); err != nil {
		return "", time.Time{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tickLocked()
	s, err := b.takeLocked(h)
	if err != nil {
		return "", time.Time{}, err
	}
	b.serial++
	renewed := driver.Handle(fmt.Sprintf("h%d", b.serial))
	l := &leased{stored: s, until: time.Now().Add(min(lease, b.maxLease)), bytes: s.msg.Bytes()}
	b.leases[renewed] = l
	b.signalLocked()
	return renewed, l.until, nil
}

func (b *fakeBroker) GiveBack(ctx context.Context, handles []driver.Handle) []error {
	errs := make([]error, len(handles))
	err := b.begin(ctx, "GiveBack")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tickLocked()
	var back []*stored
	for i, h := range handles {
		if errs[i] = err; err != nil {
			continue
		}
		var s *stored
		if s, errs[i] = b.takeLocked(h); errs[i] == nil {
			s.attempt--
			b.givenBack++
			back = append(back, s)
		}
	}
	b.ready = append(back, b.ready...)
	b.signalLocked()
	return errs
}

func (b *fakeBroker) DeadLetter(ctx context.Context, m *driver.Received, reason string) error {
	if err := b.begin(ctx, "DeadLetter"); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tickLocked()
	s, err := b.takeLocked(m.Handle)
	if err == nil {
		b.dead[s.msg.ID]++
		b.reasons = append(b.reasons, reason)
	}
	return err
}

func (b *fakeBroker) Lag(context.Context) ([]driver.Lag, error) { return nil, nil }

func (b *fakeBroker) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *fakeBroker) Close(context.Context) error { return nil }

// counts is a consistent look at the ledger.
type counts struct{ ready, delayed, leased, acked, dead, givenBack, fetches, ackCalls, ackHandles int }

func (b *fakeBroker) counts() counts {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tickLocked()
	return counts{len(b.ready), len(b.delayed), len(b.leases), len(b.acked), len(b.dead), b.givenBack, len(b.fetches), b.ackCalls, b.ackHandles}
}

func (b *fakeBroker) lastFetch() driver.FetchRequest {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fetches[len(b.fetches)-1]
}

// most is the largest number of leases that there have been at once.
func (b *fakeBroker) most() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.maxLeased
}

// fetched is the number of different messages that Fetch has answered.
func (b *fakeBroker) fetched() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.delivered)
}

// watcher is an Observer that counts.
type watcher struct {
	mu                                       sync.Mutex
	delivered, redelivered, full             int
	endings                                  map[Ending]int
	fetchFailed, backFailed, deadFailed, pan int
	paced                                    time.Duration
}

func newWatcher() *watcher { return &watcher{endings: map[Ending]int{}} }

func (o *watcher) Delivered(n, redelivered int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.delivered += n
	o.redelivered += redelivered
}

func (o *watcher) Ended(e Ending, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endings[e] += n
}

func (o *watcher) count(n *int, by int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	*n += by
}

func (o *watcher) WindowFull() { o.count(&o.full, 1) }
func (o *watcher) Paced(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.paced += d
}
func (o *watcher) FetchFailed(error)             { o.count(&o.fetchFailed, 1) }
func (o *watcher) GiveBackFailed(n int, _ error) { o.count(&o.backFailed, n) }
func (o *watcher) DeadLetterFailed(error)        { o.count(&o.deadFailed, 1) }
func (o *watcher) DriverPanicked(string)         { o.count(&o.pan, 1) }

func (o *watcher) get(n *int) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return *n
}

func (o *watcher) ended(e Ending) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.endings[e]
}
