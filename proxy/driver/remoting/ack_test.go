// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/gate"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// ackRig is the gathering of one consumer with a broker that answers after delay.
type ackRig struct {
	c     *consumer
	delay time.Duration
	fail  error

	mu       sync.Mutex
	requests [][]lease
	air, top int
}

func newAckRig(delay time.Duration) *ackRig {
	r := &ackRig{delay: delay, c: &consumer{clocks: newClocks(), gate: gate.New(), marks: testMarks}}
	r.c.state.ackers = map[string]*acker{}
	for _, broker := range []string{"a", "b"} {
		r.c.state.ackers[broker] = &acker{send: r.send}
	}
	return r
}

func (r *ackRig) send(_ string, leases []lease, done func(time.Time, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, leases)
	r.air++
	r.top = max(r.top, r.air)
	time.AfterFunc(r.delay, func() {
		r.mu.Lock()
		r.air--
		r.mu.Unlock()
		done(time.Now(), r.fail)
	})
}

// ack acknowledges one lease at each broker, as Ack does when it knows the addresses.
func (r *ackRig) ack(ctx context.Context, offset int64, lasts time.Duration, brokers ...string) []error {
	errs := make([]error, len(brokers))
	events := make(chan ackEvent, eventsPerPart*len(brokers))
	open := map[*ackPart]struct{}{}
	for i, broker := range brokers {
		l := lease{source: 1, pop: wire.PopHandle{Broker: broker, Offset: offset, PopTime: time.Now().UnixMilli(), Invisible: lasts.Milliseconds()}}
		p := &ackPart{acker: r.c.ackerOf(broker), leases: []lease{l}, places: []int{i}, events: events}
		open[p] = struct{}{}
		p.acker.add(p)
	}
	r.c.awaitAcks(ctx, events, open, errs)
	return errs
}

func (r *ackRig) sent() (requests, acks int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, leases := range r.requests {
		acks += len(leases)
	}
	return len(r.requests), acks
}

// idle demands that nothing waits and nothing is in the air.
func (r *ackRig) idle(t *testing.T) {
	t.Helper()
	synctest.Wait()
	for broker, a := range r.c.state.ackers {
		a.mu.Lock()
		if a.air != 0 || len(a.waiting) != 0 {
			t.Errorf("broker %s: %d in the air, %d wait", broker, a.air, len(a.waiting))
		}
		a.mu.Unlock()
	}
}

func TestALoneAckGoesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAckRig(time.Millisecond)
		start := time.Now()
		if err := r.ack(t.Context(), 1, time.Minute, "a")[0]; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != time.Millisecond {
			t.Errorf("it took %v", took)
		}
		r.idle(t)
	})
}

func TestAcksOfManyCallsShareRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAckRig(time.Millisecond)
		const calls = 3000
		var wg sync.WaitGroup
		for i := range calls {
			wg.Go(func() {
				if err := r.ack(t.Context(), int64(i), time.Minute, "a")[0]; err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		requests, acks := r.sent()
		if acks != calls || requests > 6 || r.top > ackRequests {
			t.Errorf("%d acks in %d requests, %d at once", acks, requests, r.top)
		}
		r.idle(t)
	})
}

func TestACallThatGivesUpIsToldWhetherItsAckWasSentAndHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAckRig(time.Second)
		var wg sync.WaitGroup
		impatient, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		for i := range 100 {
			ctx := t.Context()
			if i%2 == 1 {
				ctx = impatient
			}
			wg.Go(func() {
				err := r.ack(ctx, int64(i), time.Minute, "a")[0]
				if ctx == t.Context() && err != nil {
					t.Errorf("call %d: %v", i, err)
				}
				if err != nil && driver.ReasonOf(err) != driver.Timeout {
					t.Errorf("call %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		r.idle(t)
		if _, acks := r.sent(); acks < 50 {
			t.Errorf("%d acks were sent, 50 calls waited for theirs", acks)
		}
	})
}

func TestOneBrokersTroubleDoesNotDelayAnothersAcks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAckRig(time.Millisecond)
		stuck := make(chan func(time.Time, error), 100)
		r.c.state.ackers["b"].send = func(_ string, _ []lease, done func(time.Time, error)) { stuck <- done }
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				errs := r.ack(ctx, int64(i), time.Minute, "a", "b")
				if errs[0] != nil || driver.ReasonOf(errs[1]) != driver.Timeout {
					t.Errorf("call %d: %v", i, errs)
				}
			})
			wg.Go(func() {
				start := time.Now()
				if err := r.ack(t.Context(), int64(1000+i), time.Minute, "a")[0]; err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took > 5*time.Millisecond {
					t.Errorf("an ack at the good broker took %v", took)
				}
			})
		}
		wg.Wait()
		for len(stuck) > 0 {
			(<-stuck)(time.Now(), nil)
		}
		r.idle(t)
	})
}

func TestAnAnswerAfterTheLeasesEndIsNotOK(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAckRig(2 * time.Second)
		if err := r.ack(t.Context(), 1, 3*time.Second, "a")[0]; err != nil {
			t.Errorf("in time: %v", err)
		}
		err := r.ack(t.Context(), 2, time.Second, "a")[0]
		if driver.ReasonOf(err) != driver.Timeout || !driver.Retryable(err) {
			t.Errorf("too late: %v", err)
		}
	})
}

func TestAFailedRequestFailsAllItsAcks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAckRig(time.Millisecond)
		r.fail = errors.New("reset by peer")
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				if err := r.ack(t.Context(), int64(i), time.Minute, "a")[0]; !driver.Retryable(err) {
					t.Errorf("%v is not retryable", err)
				}
			})
		}
		wg.Wait()
		r.idle(t)
	})
}

func TestAcksEndWhenTheConsumerCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAckRig(time.Hour)
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				if err := r.ack(t.Context(), int64(i), time.Minute, "a")[0]; !errors.Is(err, driver.ErrClosed) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if err := r.c.gate.Close(t.Context(), func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
	})
}

func TestOnlyTheLastAcksAreRemembered(t *testing.T) {
	var r recentAcks
	at := func(i int) *lease {
		return &lease{source: 1, pop: wire.PopHandle{Broker: "b", Offset: int64(i), PopTime: 1}}
	}
	for i := range 3 * recentMost {
		r.add(at(i))
	}
	for i := range 3 * recentMost {
		if got, want := r.has(at(i)), i >= 2*recentMost; got != want {
			t.Fatalf("ack %d of %d is remembered: %v", i, 3*recentMost, got)
		}
	}
	if len(r.keys) != recentMost {
		t.Errorf("%d are kept", len(r.keys))
	}
}
