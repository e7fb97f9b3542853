// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// The rows of the seed report (design.md section 4) that this package answers, one test each.

// Row 1: producers were created and never released.
func TestSeedReport_ProducersAreReleasedOnDeleteIdleDisconnectAndStop(t *testing.T) {
	cases := []struct {
		name string
		end  func(r *rig, s Spec)
	}{
		{"delete", func(r *rig, s Spec) { r.Release(s.Key, "deleted") }},
		{"idle time-out", func(*rig, Spec) { after(time.Minute) }},
		{"lost connection", func(r *rig, s Spec) {
			r.w.onOpen = func(context.Context, Spec) error { return errDown }
			r.w.running(s.Key)[0].fail(driver.ErrClosed)
			after(15 * time.Second)
		}},
		{"process stop", func(r *rig, _ Spec) { r.Close(r.t.Context()) }},
		{"object lost", func(r *rig, _ Spec) { r.audit(objects()) }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				s := producer("orders", "uid-1")
				s.IdleTimeout = time.Minute
				r.acquire(s)
				r.use(Producer, "orders").Release()
				if r.w.count() != 1 {
					t.Fatal("no producer runs")
				}
				c.end(r, s)
				synctest.Wait()
				if n := r.w.count(); n != 0 {
					t.Errorf("%d producers are left", n)
				}
			})
		})
	}
}

// Row 1, the measure: a thousand producers come and go and nothing accumulates.
func TestSeedReport_ProducersAreReleasedAThousandTimesWithoutARest(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		for i := range 1000 {
			s := producer("orders", fmt.Sprint(i))
			r.acquire(s)
			r.wantState(s.Key, Running)
			r.Release(s.Key, "deleted")
			synctest.Wait()
			r.Forget(s.Key)
		}
		st := &r.Registry.state
		if n := len(st.entries) + len(st.names) + len(st.groups) + len(st.slots) + len(st.receipts); n != 0 || st.health != nil {
			t.Errorf("%d rows are left in the books, health timer %v", n, st.health)
		}
	})
}

// Row 2: clean-up ran in goroutines that nobody waited for. Real time and real goroutines here.
func TestSeedReport_EveryGoroutineIsJoinedWhenCloseReturns(t *testing.T) {
	before := goleak.IgnoreCurrent()
	r := newRig(t)
	r.w.onDrain = func(context.Context, *fakeClient) DrainReport { time.Sleep(time.Millisecond); return DrainReport{} }
	for i := range 200 {
		s := of([]Kind{Producer, Consumer}[i%2], name("o", i), name("o", i))
		s.IdleTimeout = time.Duration(i%3) * time.Millisecond
		r.Acquire(s)
		if i%5 == 0 {
			r.Release(s.Key, "deleted")
		}
	}
	r.finish()
	goleak.VerifyNone(t, before)
}

// Row 3: unlock, clean, lock again. Everything that is called calls back into the registry, which would deadlock under the lock.
func TestSeedReport_NothingIsCalledUnderTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		back := &callsBack{t: t, l: newLedger()}
		w := newWorld()
		r := &rig{t: t, w: w, l: back.l}
		r.Registry = New(Options{Opener: w, Incarnation: "inc1", Notify: back.notify, Observer: back})
		back.r = r.Registry
		w.onOpen = func(context.Context, Spec) error { back.call("Open"); return nil }
		w.onProbe = func(context.Context, Spec) error { back.call("Probe"); return nil }
		w.onDrain = func(context.Context, *fakeClient) DrainReport { back.call("Drain"); return DrainReport{} }
		w.onClose = func(context.Context, *fakeClient) error { back.call("Close"); return nil }
		w.update = func(*fakeClient, Spec) bool { back.call("Update"); return false }
		for _, kind := range []Kind{Producer, Consumer} {
			s := of(kind, "orders", "uid-"+string(kind))
			s.IdleTimeout = time.Hour
			s.Confirm = func(context.Context) error { back.call("Confirm"); return nil }
			r.acquire(s)
			r.acquire(at(s, 2, "other:9876"))
			r.acquire(tuned(at(s, 3, "other:9876"), 3, 77))
			r.audit(func(context.Context) (map[Key]struct{}, error) {
				back.call("List")
				return map[Key]struct{}{s.Key: {}}, nil
			})
			after(2 * time.Hour)
			r.use(kind, "orders").Release()
			r.audit(objects())
		}
		r.finish()
		for _, what := range []string{"Open", "Probe", "Drain", "Close", "Update", "Confirm", "List", "Notify", "StateChanged", "Opened", "Drained", "LeakDetected"} {
			if back.seen[what] == 0 {
				t.Errorf("%s was never called, so nothing is proven about it", what)
			}
		}
	})
}

// callsBack enters the registry by every door from inside of a callback.
type callsBack struct {
	t    *testing.T
	r    *Registry
	l    *ledger
	mu   sync.Mutex
	seen map[string]int
}

func (b *callsBack) call(what string) {
	b.mu.Lock()
	if b.seen == nil {
		b.seen = map[string]int{}
	}
	b.seen[what]++
	b.mu.Unlock()
	other := producer("another", "uid-other")
	b.r.List()
	b.r.Status(other.Key)
	b.r.Release(other.Key, "never there")
	b.r.Forget(other.Key)
	if u, err := b.r.Use(context.Background(), Producer, "shop", "another"); err == nil {
		b.t.Error("an object that is not there was used")
		u.Release()
	}
	if !b.locked() {
		b.t.Errorf("the lock is held while %s is called", what)
	}
}

// locked takes the lock without waiting; with one active goroutine at a time in the bubble nobody else has it for long.
func (b *callsBack) locked() bool {
	for range 1000 {
		if b.r.state.mu.TryLock() {
			b.r.state.mu.Unlock()
			return true
		}
		runtime.Gosched()
	}
	return false
}

func (b *callsBack) notify(Key) { b.call("Notify") }
func (b *callsBack) LeakDetected(kind string, n int) {
	b.call("LeakDetected")
	b.l.LeakDetected(kind, n)
}
func (b *callsBack) Drained(k Kind, d string, r Receipt) { b.call("Drained"); b.l.Drained(k, d, r) }
func (b *callsBack) StateChanged(k Kind, from, to State) {
	b.call("StateChanged")
	b.l.StateChanged(k, from, to)
}

func (b *callsBack) Opened(k Kind, d string, took time.Duration, err error) {
	b.call("Opened")
	b.l.Opened(k, d, took, err)
}

// Row 4: a full channel dropped what came. A storm of changes in one instant loses nothing: every entry ends as last asked for.
func TestSeedReport_NoChangeIsDroppedInAStorm(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		const many = 300
		for g := int64(1); g <= 20; g++ {
			for i := range many {
				r.Acquire(at(producer(name("o", i), name("o", i)), g, fmt.Sprintf("ns-%d:1", g%3)))
			}
		}
		for i := 0; i < many; i += 3 {
			r.Release(Key{Producer, name("o", i)}, "deleted")
		}
		after(time.Minute)
		for i := range many {
			key := Key{Producer, name("o", i)}
			if i%3 == 0 {
				r.wantState(key, Stopped)
			} else if got := r.wantState(key, Running); got.Generation != 20 {
				t.Errorf("%s runs generation %d", key, got.Generation)
			}
		}
		if n := r.w.count(); n != many*2/3 {
			t.Errorf("%d clients", n)
		}
	})
}

// Row 5: clients were looked at every 30 s and closed after a minute without use. Here the time-out is the object's, and exact.
func TestSeedReport_IdleClientsAreClosedExactlyAtTheirTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := producer("orders", "uid-1")
		s.IdleTimeout = 90 * time.Second
		r.acquire(s)
		for range 10 { // used every minute: it stays
			after(time.Minute)
			r.use(Producer, "orders").Release()
		}
		after(90*time.Second - time.Millisecond)
		r.wantState(s.Key, Running)
		after(time.Millisecond)
		if got := r.wantState(s.Key, Idle); got.Generation != 1 || r.w.count() != 0 {
			t.Errorf("status %+v, %d clients", got, r.w.count())
		}
		if r.w.opened() != 1 {
			t.Errorf("opened %d times", r.w.opened())
		}
	})
}

// Row 6: leaks were asked for as a metric; here the audit finds, counts and repairs them.
func TestSeedReport_LeaksAreCountedAndRepairedByTheAudit(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		p, c, fine := producer("orders", "uid-1"), consumer("orders", "uid-2"), producer("fine", "uid-3")
		for _, s := range []Spec{p, c, fine} {
			r.acquire(s)
		}
		report := r.audit(objects(fine))
		if len(report.EntriesWithoutObject) != 2 || r.l.leaksOf("Producer") != 1 || r.l.leaksOf("Consumer") != 1 {
			t.Errorf("report %+v, counted %v", report, r.l.leaks)
		}
		r.wantState(p.Key, Stopped)
		r.wantState(c.Key, Stopped)
		r.wantState(fine.Key, Running)
	})
}

// Row 7 asks for stress: 5,000 producers and 5,000 consumers run, or have failed, with fewer than 100 goroutines.
func TestSeedReport_TenThousandEntriesNeedFewerThanAHundredGoroutines(t *testing.T) {
	r := newRig(t)
	before := runtime.NumGoroutine()
	for i := range 5000 {
		p, c := producer(name("p", i), name("p", i)), consumer(name("c", i), name("c", i))
		p.IdleTimeout = time.Hour
		r.Acquire(p)
		r.Acquire(c)
		if n := runtime.NumGoroutine() - before; n >= 100 {
			t.Fatalf("%d goroutines while %d entries start", n, 2*i)
		}
	}
	eventually(t, "all run", func() bool { return r.l.sum(Running) == 10000 })
	for i := range 5000 { // half of them fail now and wait for their next try
		r.w.setOpen(func(context.Context, Spec) error { return errDown })
		r.Acquire(at(producer(name("p", i), name("p", i)), 2, "dead:1"))
	}
	eventually(t, "half have a failed change", func() bool { return r.l.failures() >= 5000 })
	if n := runtime.NumGoroutine() - before; n >= 100 {
		t.Errorf("%d goroutines at rest", n)
	}
	r.finish()
}

func (l *ledger) sum(state State) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.states[state]
}

func (l *ledger) failures() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

func (w *world) setOpen(f func(context.Context, Spec) error) {
	hooks.Lock()
	defer hooks.Unlock()
	w.onOpen = f
}

func eventually(t *testing.T, what string, fact func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
