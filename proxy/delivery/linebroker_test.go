// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// lineBroker is a small working consumer of an ordered group. It keeps for each queue what a broker of RocketMQ 5.5.0 keeps (QueueLevelConsumerManager): the
// last pop with what is acknowledged of it. So it has the broker's traps: what is acknowledged behind something that is not comes again, acknowledgements of
// an older pop do nothing, and without a record they move the position behind whatever lies in front.
type lineBroker struct {
	mu      sync.Mutex
	queues  []*lineQueue
	turn    int
	pops    int64
	batch   uint64
	changed chan struct{}
	dead    map[string]int // dead letters by id, and after how many attempts
	asked   map[string]int // calls by name
	on      func(ctx context.Context, call string, handles []driver.Handle) error
}

type lineQueue struct {
	size     int64
	position int64
	pop      *linePop
	counts   map[int64]int
	returned map[int64]int
}

type linePop struct {
	number  int64
	offsets []int64
	acked   map[int64]bool
	visible map[int64]time.Time
}

func newLineBroker(queues, messages int) *lineBroker {
	b := &lineBroker{changed: make(chan struct{}), dead: map[string]int{}, asked: map[string]int{}}
	for range queues {
		b.queues = append(b.queues, &lineQueue{size: int64(messages), counts: map[int64]int{}, returned: map[int64]int{}})
	}
	return b
}

func lineID(queue int, offset int64) string { return fmt.Sprintf("%d/%d", queue, offset) }

// lineAt reads an id.
func lineAt(id string) (queue int, offset int64) {
	if _, err := fmt.Sscanf(id, "%d/%d", &queue, &offset); err != nil {
		panic(err)
	}
	return queue, offset
}

func (b *lineBroker) signalLocked() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *lineBroker) begin(ctx context.Context, call string, handles ...driver.Handle) error {
	b.mu.Lock()
	b.asked[call]++
	on := b.on
	b.mu.Unlock()
	if on == nil {
		return nil
	}
	return on(ctx, call, handles)
}

// blocked is until when the queue is held back.
func (q *lineQueue) blocked(now time.Time) (until time.Time) {
	if q.pop == nil {
		return until
	}
	for _, o := range q.pop.offsets {
		if v := q.pop.visible[o]; !q.pop.acked[o] && v.After(now) && v.After(until) {
			until = v
		}
	}
	return until
}

func (b *lineBroker) Fetch(ctx context.Context, req driver.FetchRequest) ([]*driver.Received, error) {
	if err := b.begin(ctx, "Fetch"); err != nil {
		return nil, err
	}
	for {
		b.mu.Lock()
		got, next := b.takeLocked(req)
		changed := b.changed
		b.mu.Unlock()
		if len(got) > 0 {
			return got, nil
		}
		timer := time.NewTimer(time.Until(next))
		if next.IsZero() {
			timer.Reset(time.Hour)
		}
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

func (b *lineBroker) takeLocked(req driver.FetchRequest) (got []*driver.Received, next time.Time) {
	now := time.Now()
	b.turn++
	for i := range b.queues {
		number := (b.turn + i) % len(b.queues)
		q := b.queues[number]
		if until := q.blocked(now); !until.IsZero() {
			if next.IsZero() || until.Before(next) {
				next = until
			}
			continue
		}
		n := min(q.size-q.position, int64(req.MaxMessages-len(got)))
		if n <= 0 {
			continue
		}
		b.pops++
		b.batch++
		p := &linePop{number: b.pops, acked: map[int64]bool{}, visible: map[int64]time.Time{}}
		counts := map[int64]int{}
		for o := q.position; o < q.position+n; o++ {
			p.offsets = append(p.offsets, o)
			p.visible[o] = now.Add(req.Lease)
			if q.pop != nil && slices.Contains(q.pop.offsets, o) {
				counts[o] = q.counts[o] + 1
			}
			q.returned[o] = min(q.returned[o], counts[o]) // it may have forgotten
			got = append(got, &driver.Received{
				Message: driver.Message{ID: lineID(number, o), Topic: "t", Body: []byte("x"), ShardingKey: "k"}, Handle: b.handle(number, o, p), Broker: "b",
				Queue: number, Offset: o, Attempt: counts[o] + 1 - q.returned[o], Deadline: p.visible[o], Batch: b.batch,
			})
		}
		q.pop, q.counts = p, counts
	}
	return got, next
}

func (b *lineBroker) handle(queue int, offset int64, p *linePop) driver.Handle {
	return driver.Handle(fmt.Sprintf("%d/%d/%d/%d", queue, offset, p.number, p.visible[offset].UnixNano()))
}

// find is what a handle names; over = its lease has ended, which drivers see by the handle.
func (b *lineBroker) find(h driver.Handle) (q *lineQueue, queue int, offset int64, current, over bool) {
	var pop, ends int64
	if _, err := fmt.Sscanf(string(h), "%d/%d/%d/%d", &queue, &offset, &pop, &ends); err != nil {
		panic(err)
	}
	q = b.queues[queue]
	return q, queue, offset, q.pop != nil && q.pop.number == pop, time.Now().UnixNano() >= ends
}

func (b *lineBroker) Ack(ctx context.Context, handles []driver.Handle) []error {
	err := b.begin(ctx, "Ack", handles...)
	errs := make([]error, len(handles))
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, h := range handles {
		q, _, offset, current, over := b.find(h)
		switch {
		case err != nil:
			errs[i] = err
		case over:
			errs[i] = driver.ErrLeaseExpired
		case q.pop == nil && offset >= q.position:
			q.position = offset + 1 // it has lost its record
		case current && offset >= q.position:
			q.pop.acked[offset] = true
			for q.position = q.pop.offsets[0]; q.pop.acked[q.position]; q.position++ {
			}
		}
	}
	b.signalLocked()
	return errs
}

// change is what Nack, Extend and GiveBack have in common.
func (b *lineBroker) change(h driver.Handle, d time.Duration) (driver.Handle, time.Time, error) {
	q, queue, offset, current, over := b.find(h)
	switch {
	case over, offset < q.position:
		return "", time.Time{}, driver.ErrLeaseExpired
	case !current:
		return h, time.Now().Add(d), nil // it answers all the same
	}
	q.pop.visible[offset] = time.Now().Add(d)
	b.signalLocked()
	return b.handle(queue, offset, q.pop), q.pop.visible[offset], nil
}

func (b *lineBroker) Nack(ctx context.Context, h driver.Handle, delay time.Duration) (time.Duration, error) {
	if err := b.begin(ctx, "Nack", h); err != nil {
		return 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	_, _, err := b.change(h, delay)
	return delay, err
}

func (b *lineBroker) Extend(ctx context.Context, h driver.Handle, lease time.Duration) (driver.Handle, time.Time, error) {
	if err := b.begin(ctx, "Extend", h); err != nil {
		return "", time.Time{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.change(h, lease)
}

func (b *lineBroker) GiveBack(ctx context.Context, handles []driver.Handle) []error {
	err := b.begin(ctx, "GiveBack", handles...)
	errs := make([]error, len(handles))
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, h := range handles {
		if errs[i] = err; err == nil {
			if _, _, errs[i] = b.change(h, 0); errs[i] == nil {
				q, _, offset, _, _ := b.find(h)
				q.returned[offset]++
			}
		}
	}
	return errs
}

func (b *lineBroker) DeadLetter(ctx context.Context, m *driver.Received, _ string) error {
	if err := b.begin(ctx, "DeadLetter", m.Handle); err != nil {
		return err
	}
	if err := b.Ack(ctx, []driver.Handle{m.Handle})[0]; err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead[m.ID] = m.Attempt - 1
	return nil
}

func (b *lineBroker) Lag(context.Context) ([]driver.Lag, error) { return nil, nil }
func (b *lineBroker) Seek(context.Context, driver.Target) (string, error) {
	return "", driver.Errorf(driver.Unsupported, "", "a fake")
}
func (b *lineBroker) SetMark(string)                {}
func (b *lineBroker) Superseded(driver.Handle) bool { return false }
func (b *lineBroker) Err() error                    { return nil }
func (b *lineBroker) Close(context.Context) error   { return nil }

// crash loses the records of what is lent, as a kill does within 5 s.
func (b *lineBroker) crash() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, q := range b.queues {
		q.pop, q.counts = nil, map[int64]int{}
	}
	b.signalLocked()
}

func (b *lineBroker) position(queue int) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.queues[queue].position
}

func (b *lineBroker) setOn(on func(ctx context.Context, call string, handles []driver.Handle) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.on = on
}

func (b *lineBroker) calls(name string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked[name]
}

// lineRig is an ordered window over a lineBroker.
type lineRig struct {
	*Window
	broker *lineBroker
	seen   *watcher
}

func newLineRig(t testing.TB, queues, messages int, s Settings) *lineRig {
	t.Helper()
	sealer, err := NewSealer(testKey)
	must(t, err)
	g := &lineRig{broker: newLineBroker(queues, messages), seen: newWatcher()}
	g.Window = NewWindow(g.broker, Options{
		Settings: s, Origin: Origin{ConsumerUID: "uid-1", Host: "host-a", Incarnation: "inc-1"}, Ordered: true,
		Capabilities: driver.Capabilities{MaxLease: 12 * time.Hour, AckFromAnyHost: true, Ordered: true}, Sealer: sealer, Observer: g.seen,
	})
	t.Cleanup(g.Close)
	return g
}

func (g *lineRig) attach(t testing.TB, o ReceiverOptions) *Receiver {
	t.Helper()
	r, err := g.Attach(o)
	must(t, err)
	t.Cleanup(r.Close)
	return r
}

func (g *lineRig) ack(t testing.TB, ds ...Delivery) {
	t.Helper()
	for i, r := range g.Ack(t.Context(), tokens(ds)) {
		wantOutcome(t, "ack of "+ds[i].ID, r, OK)
	}
}

func wantIDs(t testing.TB, what string, ds []Delivery, want string) {
	t.Helper()
	if got := strings.Join(ids(ds), " "); got != want {
		t.Fatalf("%s: %q, want %q", what, got, want)
	}
}
