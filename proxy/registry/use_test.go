// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// pair makes two consumers of one group; the first is older.
func pair() (older, younger Spec) {
	older, younger = consumer("older", "uid-1"), consumer("younger", "uid-2")
	older.Group, younger.Group = "g", "g"
	younger.Created = epoch.Add(time.Minute)
	return older, younger
}

func wantInUse(t *testing.T, status Status, other string) {
	t.Helper()
	var inUse *GroupInUseError
	if !errors.As(status.Err, &inUse) || inUse.Other != other || ReasonOf(status.Err) != ReasonGroupInUse {
		t.Errorf("err is %v, want the group in use by %q", status.Err, other)
	}
	if !status.NextTry.IsZero() {
		t.Error("a next try is promised although it waits for the other object")
	}
}

func TestGroup_TheYoungerIsRefusedAndStartsWhenTheOlderHasGone(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		older, younger := pair()
		r.acquire(older)
		wantInUse(t, r.acquire(younger), "shop/older")
		r.w.onDrain = func(context.Context, *fakeClient) DrainReport { time.Sleep(10 * time.Second); return DrainReport{} }
		r.Release(older.Key, "deleted")
		after(9 * time.Second)
		r.wantState(younger.Key, Starting)
		if r.w.opened() != 1 {
			t.Error("the younger opened while the older was draining")
		}
		after(time.Second)
		r.wantState(younger.Key, Running)
	})
}

func TestGroup_TheOlderArrivesLaterAndTheYoungerDrainsFirst(t *testing.T) {
	for _, kind := range []Kind{Producer, Consumer} {
		t.Run(string(kind), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				older, younger := of(kind, "older", "uid-1"), of(kind, "younger", "uid-2")
				older.Group, younger.Group = "g", "g"
				younger.Created = epoch.Add(time.Minute)
				r.acquire(younger)
				u := r.use(kind, "younger")
				r.acquire(older)
				<-u.Done()
				r.wantState(younger.Key, Draining)
				r.wantState(older.Key, Starting)
				u.Release()
				r.wantState(older.Key, Running)
				wantInUse(t, r.wantState(younger.Key, Failed), "shop/older")
				if r.l.notices(younger.Key) < 2 {
					t.Error("the loser was not notified")
				}
				r.Release(older.Key, "deleted")
				r.wantState(younger.Key, Running)
			})
		})
	}
}

func TestGroup_AnOlderThatTheAPIServerDoesNotConfirmEvictsNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		older, younger := pair()
		older.Confirm = func(context.Context) error { return errors.New("timeout") }
		r.acquire(younger)
		r.acquire(older)
		after(5 * time.Minute)
		if got := r.wantState(older.Key, Failed); ReasonOf(got.Err) != ReasonNotConfirmed {
			t.Errorf("status %+v", got)
		}
		r.wantState(younger.Key, Running)
		if r.w.opened() != 1 {
			t.Errorf("opened %d times", r.w.opened())
		}
	})
}

func TestGroup_OfTheSameAgeTheSmallerUIDWins(t *testing.T) {
	inBubble(t, func(_ *testing.T, r *rig) {
		a, b := pair()
		b.Created = a.Created
		r.acquire(b)
		r.acquire(a)
		r.wantState(a.Key, Running)
		r.wantState(b.Key, Failed)
	})
}

func TestGroup_ObjectsOfOtherNamespacesAreNotNamed(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		older, younger := pair()
		older.Namespace = "secret-project"
		r.acquire(older)
		got := r.acquire(younger)
		wantInUse(t, got, "")
		if strings.Contains(got.Err.Error(), "secret-project") {
			t.Errorf("the error names the other namespace: %v", got.Err)
		}
	})
}

func TestGroup_OtherBrokersNamespacesAndKindsAreOtherGroups(t *testing.T) {
	inBubble(t, func(_ *testing.T, r *rig) {
		a, b := pair()
		c, p := consumer("third", "uid-3"), producer("fourth", "uid-4")
		c.Group, p.Group = "g", "g"
		c.Consumer.Config.Connection.Namespace = "tenant"
		for _, s := range []Spec{a, at(b, 1, "other:9876"), c, p} {
			r.acquire(s)
		}
		for _, s := range []Spec{a, b, c, p} {
			r.wantState(s.Key, Running)
		}
	})
}

func TestGroup_TheOrderOfNameServersMakesNoOtherGroup(t *testing.T) {
	inBubble(t, func(_ *testing.T, r *rig) {
		a, b := pair()
		r.acquire(at(a, 1, "x:1", "y:2"))
		r.acquire(at(b, 1, "y:2", "x:1"))
		r.wantState(b.Key, Failed)
	})
}

func TestGroup_AnIdleOlderKeepsItsGroup(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		older, younger := pair()
		older.IdleTimeout = time.Minute
		r.acquire(older)
		after(time.Minute)
		r.wantState(older.Key, Idle)
		wantInUse(t, r.acquire(younger), "shop/older")
		r.use(Consumer, "older").Release()
		r.wantState(older.Key, Running)
	})
}

func TestGroup_AnIdleYoungerLosesItsGroupToAnOlder(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		older, younger := pair()
		younger.IdleTimeout = time.Minute
		r.acquire(younger)
		after(time.Minute)
		r.wantState(younger.Key, Idle)
		r.acquire(older)
		r.wantState(older.Key, Running)
		wantInUse(t, r.wantState(younger.Key, Failed), "shop/older")
	})
}

func TestGroup_TheYoungerStartsWhenTheOlderMovesAway(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		older, younger := pair()
		r.w.onOpen = func(_ context.Context, s Spec) error {
			if s.Key == older.Key {
				return errDown
			}
			return nil
		}
		r.acquire(older)
		wantInUse(t, r.acquire(younger), "shop/older")
		r.acquire(at(older, 2, "other:9876"))
		r.wantState(younger.Key, Running)
	})
}

func TestGroup_TheOlderDoesNotWaitForAnOpenOfTheYounger(t *testing.T) {
	inBubble(t, func(_ *testing.T, r *rig) {
		older, younger := pair()
		r.w.onOpen = func(ctx context.Context, s Spec) error {
			if s.Key == older.Key {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		r.acquire(younger)
		r.acquire(older)
		r.wantState(older.Key, Running)
		r.wantState(younger.Key, Failed)
	})
}

// One that lost its group while it was first in the queue for a slot must not stand in the way of those behind it.
func TestGroup_ALoserLeavesTheQueue(t *testing.T) {
	inBubble(t, func(_ *testing.T, r *rig) {
		free := make(chan struct{})
		r.w.onOpen = until(free)
		for i := range defaultOpens {
			r.acquire(producer(name("p", i), name("p", i)))
		}
		older, younger := pair()
		r.acquire(younger)
		r.wantState(younger.Key, Starting)
		r.acquire(older)
		r.wantState(younger.Key, Failed)
		close(free)
		r.wantState(older.Key, Running)
	})
}

func TestGroup_MovingToATakenPlaceKeepsTheOldClient(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		older, younger := pair()
		r.acquire(older)
		r.acquire(at(younger, 1, "other:9876"))
		r.wantState(younger.Key, Running)
		r.acquire(at(younger, 2, "ns:9876"))
		got := r.wantState(younger.Key, Running)
		wantInUse(t, got, "shop/older")
		if got.State != Running || got.Generation != 1 || r.w.probes != 0 {
			t.Errorf("status %+v, %d probes", got, r.w.probes)
		}
		r.Release(older.Key, "deleted")
		if got := r.wantState(younger.Key, Running); got.Generation != 2 || got.Err != nil {
			t.Errorf("status %+v", got)
		}
	})
}

func TestUse_CountsAreExactAndReleaseTwiceIsOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := producer("orders", "uid-1")
		r.acquire(s)
		a, b := r.use(Producer, "orders"), r.use(Producer, "orders")
		if n := r.List()[0].Uses; n != 2 {
			t.Errorf("%d uses", n)
		}
		a.Release()
		a.Release()
		if n := r.List()[0].Uses; n != 1 {
			t.Errorf("%d uses after one was released twice", n)
		}
		b.Release()
		if a.Client() != Client(r.w.running(s.Key)[0]) {
			t.Error("another client was handed out")
		}
	})
}

// A count that came back from zero would hand out a client that is being closed.
func TestUse_TheCountCannotComeBackFromZero(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := producer("orders", "uid-1")
		r.acquire(s)
		u := r.use(Producer, "orders")
		closing := make(chan struct{})
		r.w.onClose = func(context.Context, *fakeClient) error { <-closing; return nil }
		r.Release(s.Key, "deleted")
		u.Release()
		synctest.Wait()
		if _, err := r.Use(t.Context(), Producer, "shop", "orders"); !errors.Is(err, ErrDraining) {
			t.Errorf("use answers %v", err)
		}
		if _, err := r.UseDraining(Producer, "shop", "orders"); !isNotFound(err) {
			t.Errorf("use of the closing client answers %v", err)
		}
		close(closing)
		r.wantState(s.Key, Stopped)
	})
}

func isNotFound(err error) bool {
	var notFound *NotFoundError
	return errors.As(err, &notFound)
}

func TestUse_SaysWhyThereIsNoClient(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		if _, err := r.Use(t.Context(), Producer, "shop", "nobody"); !isNotFound(err) {
			t.Errorf("unknown name: %v", err)
		}
		r.w.onOpen = func(context.Context, Spec) error { return errDown }
		r.acquire(producer("orders", "uid-1"))
		var notReady *NotReadyError
		_, err := r.Use(t.Context(), Producer, "shop", "orders")
		if !errors.As(err, &notReady) || notReady.State != Failed || notReady.Reason != "BrokerUnavailable" || !errors.Is(err, driver.ErrUnavailable) {
			t.Errorf("failed: %v", err)
		}
		r.w.onOpen = func(ctx context.Context, _ Spec) error { <-ctx.Done(); return ctx.Err() }
		r.acquire(producer("slow", "uid-2"))
		_, err = r.Use(t.Context(), Producer, "shop", "slow")
		if !errors.As(err, &notReady) || notReady.State != Starting || notReady.Reason != ReasonStarting {
			t.Errorf("starting: %v", err)
		}
	})
}

// Idle start needs no API server: Confirm would fail here.
func TestUse_StartsAnIdleClientOnceForAllWithoutTheAPIServer(t *testing.T) {
	for _, kind := range []Kind{Producer, Consumer} {
		t.Run(string(kind), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				s := of(kind, "orders", "uid-1")
				s.IdleTimeout = time.Minute
				asked := 0
				s.Confirm = func(context.Context) error {
					if asked++; asked > 1 {
						return errors.New("the API server is away")
					}
					return nil
				}
				r.acquire(s)
				after(time.Minute)
				r.wantState(s.Key, Idle)
				if r.w.count() != 0 {
					t.Fatal("an idle client is open")
				}
				r.w.onOpen = func(context.Context, Spec) error { time.Sleep(time.Second); return nil }
				results := make(chan error)
				for range 50 {
					go func() {
						u, err := r.Use(t.Context(), kind, "shop", "orders")
						if err == nil {
							u.Release()
						}
						results <- err
					}()
				}
				for range 50 {
					if err := <-results; err != nil {
						t.Errorf("use: %v", err)
					}
				}
				if r.w.opened() != 2 || asked != 1 {
					t.Errorf("opened %d times, asked %d times", r.w.opened(), asked)
				}
			})
		})
	}
}

func TestUse_WaitsForAnIdleStartOnlyWithinItsContext(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := producer("orders", "uid-1")
		s.IdleTimeout = time.Minute
		r.acquire(s)
		after(time.Minute)
		r.w.onOpen = func(ctx context.Context, _ Spec) error { <-ctx.Done(); return ctx.Err() }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := r.Use(ctx, Producer, "shop", "orders")
		var notReady *NotReadyError
		if !errors.As(err, &notReady) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// The use arrives in the moment in which the idle client is being closed: it waits, and it is not refused.
func TestUse_ArrivesWhileTheIdleClientIsClosing(t *testing.T) {
	for _, kind := range []Kind{Producer, Consumer} {
		t.Run(string(kind), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				s := of(kind, "orders", "uid-1")
				s.IdleTimeout = time.Minute
				r.w.onClose = func(context.Context, *fakeClient) error { time.Sleep(time.Second); return nil }
				r.acquire(s)
				after(time.Minute)
				r.wantState(s.Key, Draining)
				results := make(chan error, 2)
				for range 2 {
					go func() {
						u, err := r.Use(t.Context(), kind, "shop", "orders")
						if err == nil {
							u.Release()
						}
						results <- err
					}()
				}
				for range 2 {
					if err := <-results; err != nil {
						t.Errorf("use: %v", err)
					}
				}
			})
		})
	}
}

func TestUse_TheDrainWaitsForUsersAndThenClosesAnyway(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := consumer("orders", "uid-1")
		r.acquire(s)
		u := r.use(Consumer, "orders")
		r.Release(s.Key, "deleted")
		<-u.Done()
		after(30*time.Second - time.Millisecond)
		select {
		case <-u.Closing():
			t.Fatal("told to let go before the deadline")
		default:
		}
		after(time.Millisecond)
		<-u.Closing()
		r.wantState(s.Key, Draining)
		after(useGrace)
		r.wantState(s.Key, Stopped)
		_, receipt := r.Release(s.Key, "deleted")
		if !receipt.Forced || receipt.Took != 32*time.Second || receipt.InFlight != 3 || receipt.Drained != 2 || receipt.GivenBack != 1 {
			t.Errorf("receipt %+v", receipt)
		}
		u.Release()
	})
}

func TestUseOpen_FindsWhatRunsOrDrainsByItsUIDAndStartsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := consumer("orders", "uid-1")
		s.IdleTimeout = time.Minute
		r.acquire(s)
		if _, found := r.UseOpen(Key{Consumer, "uid-2"}); found {
			t.Error("another object of the same name was found")
		}
		u, found := r.UseOpen(s.Key)
		if !found || u.Client() != Client(r.w.running(s.Key)[0]) {
			t.Fatalf("use of the running client: found %t", found)
		}
		after(time.Hour)
		r.wantState(s.Key, Running)
		u.Release()
		after(2 * time.Minute)
		r.wantState(s.Key, Idle)
		if _, found := r.UseOpen(s.Key); found || r.w.opened() != 1 {
			t.Errorf("an idle client: found %t, %d clients were opened", found, r.w.opened())
		}
		if u := r.use(Consumer, "orders"); u != nil {
			u.Release()
		}
		r.w.onDrain = func(context.Context, *fakeClient) DrainReport { time.Sleep(5 * time.Second); return DrainReport{} }
		r.Release(s.Key, "deleted")
		synctest.Wait()
		if u, found = r.UseOpen(s.Key); !found {
			t.Fatal("the draining client was not found")
		}
		after(5*time.Second + 500*time.Millisecond)
		if _, found := r.UseOpen(s.Key); found {
			t.Error("a call came in after the drain")
		}
		u.Release()
		r.wantState(s.Key, Stopped)
	})
}

func TestUse_LateAcknowledgementsReachTheDrainingClient(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := consumer("orders", "uid-1")
		r.acquire(s)
		if _, err := r.UseDraining(Consumer, "shop", "orders"); !isNotFound(err) {
			t.Errorf("nothing drains: %v", err)
		}
		c := r.w.running(s.Key)[0]
		r.w.onDrain = func(context.Context, *fakeClient) DrainReport { time.Sleep(5 * time.Second); return DrainReport{} }
		r.Release(s.Key, "deleted")
		synctest.Wait()
		u, err := r.UseDraining(Consumer, "shop", "orders")
		if err != nil || u.Client() != Client(c) {
			t.Fatalf("use of the draining client: %v", err)
		}
		after(5*time.Second + 500*time.Millisecond)
		r.wantState(s.Key, Draining)
		if _, err := r.UseDraining(Consumer, "shop", "orders"); !isNotFound(err) {
			t.Errorf("a call came in after the drain: %v", err)
		}
		u.Release()
		r.wantState(s.Key, Stopped)
		if _, receipt := r.Release(s.Key, "deleted"); receipt.Forced {
			t.Error("the stop was forced although the call let go")
		}
	})
}
