// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// TestTransitions walks every arrow of the diagram in doc.go, for both kinds.
func TestTransitions(t *testing.T) {
	hang := func(ctx context.Context, _ Spec) error { <-ctx.Done(); return ctx.Err() }
	down := func(context.Context, Spec) error { return errDown }
	idle := func(r *rig, s Spec) Spec {
		s.IdleTimeout = time.Minute
		r.acquire(s)
		after(time.Minute)
		r.wantState(s.Key, Idle)
		return s
	}
	cases := []struct {
		name string
		do   func(r *rig, s Spec)
		want State
	}{
		{"an acquired object starts before anything was asked", func(r *rig, s Spec) {
			s.Confirm = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			r.acquire(s)
		}, Starting},
		{"it is starting while it opens", func(r *rig, s Spec) { r.w.onOpen = hang; r.acquire(s) }, Starting},
		{"it runs when it was opened", func(r *rig, s Spec) { r.acquire(s) }, Running},
		{"it has failed when opening failed", func(r *rig, s Spec) { r.w.onOpen = down; r.acquire(s) }, Failed},
		{"it has failed when the API server could not be asked", func(r *rig, s Spec) {
			s.Confirm = func(context.Context) error { return errors.New("connection refused") }
			r.acquire(s)
		}, Failed},
		{"it is gone when the object is not live", func(r *rig, s Spec) {
			s.Confirm = func(context.Context) error { return ErrNotLive }
			r.acquire(s)
		}, Stopped},
		{"it runs after a failure when a later try works", func(r *rig, s Spec) {
			r.w.onOpen = down
			r.acquire(s)
			r.w.onOpen = nil
			after(2 * time.Second)
		}, Running},
		{"it stays failed while a try after a failure is under way", func(r *rig, s Spec) {
			r.w.onOpen = down
			r.acquire(s)
			r.w.onOpen = hang
			after(2 * time.Second)
		}, Failed},
		{"a failed one is tried at once when its spec changes", func(r *rig, s Spec) {
			r.w.onOpen = down
			r.acquire(s)
			r.w.onOpen = nil
			r.acquire(at(s, 2, "other:9876"))
		}, Running},
		{"it idles after its time-out without use", func(r *rig, s Spec) { idle(r, s) }, Idle},
		{"it does not idle while it is used", func(r *rig, s Spec) {
			s.IdleTimeout = time.Minute
			r.acquire(s)
			u := r.use(s.Kind, s.Name)
			after(time.Hour)
			r.wantState(s.Key, Running)
			u.Release()
		}, Running},
		{"it stays idle when the same spec is acquired again", func(r *rig, s Spec) { s = idle(r, s); r.acquire(s) }, Idle},
		{"a changed spec is proven although it was idle", func(r *rig, s Spec) { s = idle(r, s); r.acquire(at(s, 2, "other:9876")) }, Running},
		{"a use starts an idle one", func(r *rig, s Spec) { s = idle(r, s); r.use(s.Kind, s.Name).Release() }, Running},
		{"it drains when it is released", func(r *rig, s Spec) {
			r.acquire(s)
			r.w.onDrain = func(ctx context.Context, _ *fakeClient) DrainReport { <-ctx.Done(); return DrainReport{} }
			r.Release(s.Key, "deleted")
		}, Draining},
		{"it is gone when it was drained and closed", func(r *rig, s Spec) { r.acquire(s); r.Release(s.Key, "deleted") }, Stopped},
		{"an idle one is gone when it is released", func(r *rig, s Spec) { s = idle(r, s); r.Release(s.Key, "deleted") }, Stopped},
		{"a failed one is gone when it is released", func(r *rig, s Spec) {
			r.w.onOpen = down
			r.acquire(s)
			r.Release(s.Key, "deleted")
		}, Stopped},
		{"a starting one is gone when it is released", func(r *rig, s Spec) {
			r.w.onOpen = hang
			r.acquire(s)
			r.Release(s.Key, "deleted")
		}, Stopped},
		{"it starts anew when it is acquired after a release", func(r *rig, s Spec) {
			r.acquire(s)
			r.Release(s.Key, "suspended")
			synctest.Wait()
			r.acquire(s)
		}, Running},
		{"it drains on when it is acquired before the release has ended", func(r *rig, s Spec) {
			r.acquire(s)
			r.w.onDrain = func(ctx context.Context, _ *fakeClient) DrainReport { <-ctx.Done(); return DrainReport{} }
			r.Release(s.Key, "suspended")
			if got := r.acquire(s); got.State != Draining {
				r.t.Errorf("Acquire answers %s", got.State)
			}
		}, Draining},
		{"a client that stays closed is opened again", func(r *rig, s Spec) {
			r.acquire(s)
			after(2 * time.Minute)
			r.w.running(s.Key)[0].fail(driver.ErrClosed)
			after(15 * time.Second)
			if r.w.opened() != 2 {
				r.t.Errorf("opened %d times", r.w.opened())
			}
		}, Running},
		{"a client that was closed for a moment is kept", func(r *rig, s Spec) {
			r.acquire(s)
			c := r.w.running(s.Key)[0]
			c.fail(driver.ErrClosed)
			after(6 * time.Second)
			c.fail(nil)
			after(time.Minute)
			if r.w.opened() != 1 {
				r.t.Errorf("opened %d times", r.w.opened())
			}
		}, Running},
		{"the gate ends a start", func(r *rig, s Spec) { r.w.onOpen = hang; r.acquire(s); r.CloseGate() }, Failed},
		{"the gate leaves what runs", func(r *rig, s Spec) { r.acquire(s); r.CloseGate() }, Running},
	}
	for _, kind := range []Kind{Producer, Consumer} {
		for _, c := range cases {
			t.Run(string(kind)+"/"+c.name, func(t *testing.T) {
				inBubble(t, func(_ *testing.T, r *rig) {
					spec := of(kind, "orders", "uid-1")
					c.do(r, spec)
					r.wantState(spec.Key, c.want)
				})
			})
		}
	}
}

func TestStatusTellsGenerationsClientAndNextTry(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := producer("orders", "0123456789")
		opens := make(chan struct{})
		r.w.onOpen = func(context.Context, Spec) error { <-opens; return nil }
		first := r.Acquire(s)
		close(opens)
		if first.State != Starting || first.Desired != 1 || first.Generation != 0 || first.ClientID != "" {
			t.Errorf("at first: %+v", first)
		}
		got := r.wantState(s.Key, Running)
		if got.Generation != 1 || got.ClientID != "shop_orders_01234567_inc1_1" || got.Err != nil || !got.NextTry.IsZero() {
			t.Errorf("running: %+v", got)
		}
		r.w.onOpen = func(context.Context, Spec) error { return errDown }
		r.acquire(at(s, 2, "other:9876"))
		got = r.wantState(s.Key, Running)
		wait := time.Until(got.NextTry)
		if got.Generation != 1 || got.Desired != 2 || !errors.Is(got.Err, driver.ErrUnavailable) || wait < time.Second || wait > 1500*time.Millisecond {
			t.Errorf("change that fails: %+v, next try in %s", got, wait)
		}
	})
}

func TestAGenerationThatOnlyTheRegistryNoticesIsAdoptedWithoutTheClient(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := producer("orders", "uid-1")
		r.acquire(s)
		s.Generation, s.DrainTimeout = 2, time.Minute
		if got := r.acquire(s); got.Generation != 2 || got.State != Running {
			t.Errorf("status %+v", got)
		}
		if c := r.w.running(s.Key)[0]; c.updates != 0 || r.w.opened() != 1 {
			t.Errorf("client was updated %d times, opened %d times", c.updates, r.w.opened())
		}
	})
}

func TestLiveSettingsReachTheRunningClient(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var seen int
		r.w.update = func(_ *fakeClient, spec Spec) bool { seen = spec.Consumer.MaxInFlight; return true }
		s := consumer("orders", "uid-1")
		r.acquire(s)
		c := *s.Consumer
		c.MaxInFlight = 99
		s.Consumer, s.Generation = &c, 2
		r.acquire(s)
		if got := r.wantState(s.Key, Running); got.Generation != 2 || seen != 99 || r.w.opened() != 1 || r.w.probes != 0 {
			t.Errorf("status %+v, client saw %d, opened %d, probed %d", got, seen, r.w.opened(), r.w.probes)
		}
	})
}

func TestAnOldGenerationChangesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := producer("orders", "uid-1")
		r.acquire(at(s, 5, "new:9876"))
		if got := r.acquire(at(s, 4, "old:9876")); got.Desired != 5 || r.w.opened() != 1 {
			t.Errorf("status %+v, opened %d", got, r.w.opened())
		}
	})
}

func TestASpecThatCannotBeIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		noUID, noConfirm, wrongPart, twoParts := producer("a", ""), producer("a", "u"), producer("a", "u"), producer("a", "u")
		noConfirm.Confirm = nil
		wrongPart.Kind = Consumer
		twoParts.Consumer = consumer("a", "u").Consumer
		for _, s := range []Spec{noUID, noConfirm, wrongPart, twoParts} {
			if got := r.Acquire(s); got.State != Failed || !errors.Is(got.Err, driver.ErrInvalid) {
				t.Errorf("status %+v", got)
			}
		}
		if len(r.List()) != 0 {
			t.Error("an entry was made")
		}
	})
}

func TestBackoffGrowsAndIsForgottenAfterStableRunning(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := producer("orders", "uid-1")
		r.w.onOpen = func(context.Context, Spec) error { return errDown }
		r.acquire(s)
		after(10 * time.Minute)
		tries := r.w.opened()
		if tries < 12 || tries > 30 {
			t.Errorf("%d tries in 10 min", tries)
		}
		r.w.onOpen = nil
		after(time.Minute)
		r.wantState(s.Key, Running)
		after(2 * time.Minute)
		r.w.onOpen = func(context.Context, Spec) error { return errDown }
		r.w.running(s.Key)[0].fail(driver.ErrClosed)
		after(10*time.Second + time.Millisecond)
		got := r.wantState(s.Key, Failed)
		if wait := time.Until(got.NextTry); wait > 1500*time.Millisecond {
			t.Errorf("the wait after stable running is %s", wait)
		}
	})
}

func TestAClientThatDiesAgainAndAgainBacksOff(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := consumer("orders", "uid-1")
		r.w.onOpen = nil
		r.acquire(s)
		for range 240 { // twenty minutes in which every client is dead at birth
			for _, c := range r.w.running(s.Key) {
				c.fail(driver.ErrClosed)
			}
			after(5 * time.Second)
		}
		if n := r.w.opened(); n < 10 || n > 45 {
			t.Errorf("opened %d times", n)
		}
		if n := len(r.w.running(s.Key)); n > 1 {
			t.Errorf("%d clients", n)
		}
	})
}

func TestTroubleOfARunningClientIsNotifiedOnceAndToldInItsStatus(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := producer("orders", "uid-1")
		r.acquire(s)
		before := r.l.notices(s.Key)
		r.w.running(s.Key)[0].fail(errDown)
		after(time.Minute)
		if got := r.wantState(s.Key, Running); !errors.Is(got.Err, driver.ErrUnavailable) || ReasonOf(got.Err) != "BrokerUnavailable" {
			t.Errorf("status %+v", got)
		}
		if n := r.l.notices(s.Key) - before; n != 1 {
			t.Errorf("notified %d times", n)
		}
		r.w.running(s.Key)[0].fail(nil)
		after(time.Minute)
		if got := r.wantState(s.Key, Running); got.Err != nil || r.l.notices(s.Key)-before != 2 {
			t.Errorf("status %+v, notified %d times", got, r.l.notices(s.Key)-before)
		}
	})
}

func TestOneDeadBrokerTakesOnlyItsOwnSlots(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.w.onOpen = func(ctx context.Context, s Spec) error {
			if s.Connection().NameServers[0] != "dead:9876" {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		for i := range 100 {
			r.Acquire(at(producer(name("dead", i), name("dead", i)), 1, "dead:9876"))
		}
		synctest.Wait()
		for i := range 100 {
			r.Acquire(producer(name("fine", i), name("fine", i)))
		}
		synctest.Wait()
		for i := range 100 {
			r.wantState(Key{Producer, name("fine", i)}, Running)
		}
		r.w.mu.Lock()
		pending := r.w.pending
		r.w.mu.Unlock()
		if pending != defaultOpens {
			t.Errorf("%d opens at the dead broker at the same time", pending)
		}
		queued := 0
		for _, e := range r.List() {
			if e.Status.Queued {
				queued++
			}
		}
		if queued != 100-defaultOpens {
			t.Errorf("%d objects say that they wait for their turn, want %d", queued, 100-defaultOpens)
		}
		after(5 * time.Minute)
		tried := map[string]bool{}
		for _, s := range r.w.opens {
			tried[s.UID] = true
		}
		if len(tried) != 200 {
			t.Errorf("%d of 200 objects had a turn", len(tried))
		}
	})
}
