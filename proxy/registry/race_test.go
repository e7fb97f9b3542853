// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func name(prefix string, i int) string { return fmt.Sprintf("%s-%04d", prefix, i) }

// The entry must be there before the look: a remover that reads this host between look and open must find it.
func TestRace_TheEntryIsVisibleBeforeTheObjectIsLookedAt(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := producer("orders", "uid-1")
		var seen Status
		s.Confirm = func(context.Context) error {
			seen, _ = r.Status(s.Key)
			if r.w.opened() != 0 {
				t.Error("opened before it was confirmed")
			}
			return nil
		}
		r.acquire(s)
		if seen.State != Starting {
			t.Errorf("during the look the state is %q", seen.State)
		}
		r.wantState(s.Key, Running)
	})
}

// 1. the look says live; 2. the object is deleted and the reconciler releases; 3. the open that was on its way ends.
func TestRace_DeleteBetweenLookAndOpen(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := consumer("orders", "uid-1")
		s.Confirm = func(context.Context) error {
			if done, _ := r.Release(s.Key, "deleted"); done {
				t.Error("released although the start is under way")
			}
			return nil
		}
		r.acquire(s)
		r.wantState(s.Key, Stopped)
		if r.w.opened() != 0 {
			t.Error("a client was opened for a deleted object")
		}
	})
}

func TestRace_DeleteWhileTheLookHangs(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := consumer("orders", "uid-1")
		s.Confirm = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		r.acquire(s)
		r.Release(s.Key, "deleted")
		r.wantState(s.Key, Stopped)
		if done, _ := r.Release(s.Key, "deleted"); !done || r.w.opened() != 0 {
			t.Errorf("done %v, opened %d", done, r.w.opened())
		}
	})
}

func TestRace_OpenEndsLateAfterRelease(t *testing.T) {
	for _, kind := range []Kind{Producer, Consumer} {
		t.Run(string(kind), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				s := of(kind, "orders", "uid-1")
				opened, closed := make(chan struct{}), make(chan struct{})
				r.w.onOpen = until(opened)
				r.w.onClose = func(context.Context, *fakeClient) error { <-closed; return nil }
				r.acquire(s)
				r.Release(s.Key, "deleted")
				after(time.Minute)
				r.wantState(s.Key, Draining)
				close(opened)
				after(time.Second)
				r.wantState(s.Key, Draining)
				if done, _ := r.Release(s.Key, "deleted"); done {
					t.Fatal("released although the late client has not been closed")
				}
				if _, err := r.Use(t.Context(), kind, "shop", "orders"); !errors.Is(err, ErrDraining) {
					t.Errorf("the late client is handed out: %v", err)
				}
				close(closed)
				r.wantState(s.Key, Stopped)
				if done, receipt := r.Release(s.Key, "again"); !done || receipt.Reason != "deleted" || receipt.Took != time.Minute+time.Second {
					t.Errorf("done %v, receipt %+v", done, receipt)
				}
			})
		})
	}
}

// Two UIDs with one name live side by side until the old one has been closed; the name means the new one.
func TestRace_DeleteAndRecreateOfOneName(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		old, fresh := consumer("orders", "uid-1"), consumer("orders", "uid-2")
		fresh.Created = epoch.Add(time.Second)
		r.acquire(old)
		held := r.use(Consumer, "orders")
		r.Release(old.Key, "deleted")
		r.acquire(fresh)
		r.wantState(old.Key, Draining)
		if got := r.wantState(fresh.Key, Starting); got.Err != nil {
			t.Errorf("the new object waits with %v", got.Err)
		}
		if _, err := r.Use(t.Context(), Consumer, "shop", "orders"); errors.Is(err, ErrDraining) {
			t.Error("the draining entry was found by name")
		}
		held.Release()
		r.wantState(old.Key, Stopped)
		r.wantState(fresh.Key, Running)
		u := r.use(Consumer, "orders")
		if u.Spec().UID != "uid-2" {
			t.Errorf("the name means %s", u.Spec().UID)
		}
		u.Release()
	})
}

// The old object's delete was not seen, only the new one: when the API server confirms the new UID, the old one is gone for certain.
func TestRace_RecreatedWithoutTheDeleteBeingSeen(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		old, fresh := consumer("orders", "uid-1"), consumer("orders", "uid-2")
		fresh.Created = epoch.Add(time.Second)
		r.acquire(old)
		r.acquire(fresh)
		r.wantState(old.Key, Stopped)
		r.wantState(fresh.Key, Running)
		if r.l.notices(old.Key) == 0 {
			t.Error("nobody was told that the old entry went")
		}
	})
}

// A cache that is behind shows the old UID again while the new one runs. It must not cost the new one its client.
func TestRace_AStaleViewOfTheOldObjectEvictsNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		old, fresh := consumer("orders", "uid-1"), consumer("orders", "uid-2")
		fresh.Created = epoch.Add(time.Second)
		old.Confirm = func(context.Context) error { return fmt.Errorf("orders: %w", ErrNotLive) }
		r.acquire(fresh)
		r.acquire(old)
		r.wantState(old.Key, Stopped)
		r.wantState(fresh.Key, Running)
		if r.w.opened() != 1 || r.l.notices(old.Key) != 0 {
			t.Errorf("opened %d times; told %d times of an entry that never ran", r.w.opened(), r.l.notices(old.Key))
		}
	})
}

func TestRace_TheGateClosesWhileStarting(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		opened := make(chan struct{})
		r.w.onOpen = until(opened)
		s, late := producer("orders", "uid-1"), producer("late", "uid-2")
		r.acquire(s)
		r.CloseGate()
		close(opened)
		got := r.wantState(s.Key, Failed)
		if !errors.Is(got.Err, ErrGateClosed) || r.w.count() != 0 {
			t.Errorf("err %v, %d clients", got.Err, r.w.count())
		}
		if got := r.acquire(late); !errors.Is(got.Err, ErrGateClosed) || got.State != Stopped || len(r.List()) != 1 {
			t.Errorf("a new object is answered %+v", got)
		}
		if got := r.acquire(s); !errors.Is(got.Err, ErrGateClosed) {
			t.Errorf("a known object is answered %+v", got)
		}
	})
}

// Confirm's answer is used within 3 s. Here the older waits 10 s for the younger's drain, and in that time the older is deleted.
func TestRace_AnOldAnswerIsAskedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		young, old := consumer("young", "uid-2"), consumer("old", "uid-1")
		young.Group, old.Group = "g", "g"
		young.Created = epoch.Add(time.Hour)
		asked := 0
		old.Confirm = func(context.Context) error {
			if asked++; asked > 1 {
				return ErrNotLive
			}
			return nil
		}
		r.w.onDrain = func(context.Context, *fakeClient) DrainReport { time.Sleep(10 * time.Second); return DrainReport{} }
		r.acquire(young)
		r.acquire(old)
		r.wantState(young.Key, Draining)
		after(10 * time.Second)
		r.wantState(old.Key, Stopped)
		r.wantState(young.Key, Running)
		if asked != 2 {
			t.Errorf("asked %d times", asked)
		}
	})
}

func TestRace_AFreshAnswerIsNotAskedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var asked atomic.Int32
		s := producer("orders", "uid-1")
		s.Confirm = func(context.Context) error { asked.Add(1); return nil }
		r.w.onOpen = func(context.Context, Spec) error { return errDown }
		r.acquire(s)
		after(1500 * time.Millisecond) // the second try comes within 3 s of the answer
		if r.w.opened() != 2 || asked.Load() != 1 {
			t.Errorf("opened %d times, asked %d times", r.w.opened(), asked.Load())
		}
		after(20 * time.Second)
		if asked.Load() < 2 {
			t.Error("a try much later was not confirmed again")
		}
	})
}

func TestRace_ReplaceWithAFailingOpenKeepsTheOldClient(t *testing.T) {
	for _, kind := range []Kind{Producer, Consumer} {
		t.Run(string(kind), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				s := of(kind, "orders", "uid-1")
				r.acquire(s)
				u := r.use(kind, "orders")
				fails := func(context.Context, Spec) error { return errDown }
				r.w.onOpen, r.w.onProbe = fails, fails
				r.acquire(at(s, 2, "other:9876"))
				after(5 * time.Minute)
				got := r.wantState(s.Key, Running)
				if got.Generation != 1 || got.Desired != 2 || !errors.Is(got.Err, driver.ErrUnavailable) {
					t.Errorf("status %+v", got)
				}
				select {
				case <-u.Done():
					t.Fatal("the old client was taken away")
				default:
				}
				u.Release()
				r.w.onOpen, r.w.onProbe = nil, nil
				after(time.Minute)
				if got := r.wantState(s.Key, Running); got.Generation != 2 || got.Err != nil || r.w.count() != 1 {
					t.Errorf("status %+v, %d clients", got, r.w.count())
				}
			})
		})
	}
}

func TestRace_AProducersNewClientIsUpBeforeTheOldDrains(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := producer("orders", "uid-1")
		r.acquire(s)
		u := r.use(Producer, "orders")
		r.w.onDrain = func(context.Context, *fakeClient) DrainReport {
			v, err := r.Use(t.Context(), Producer, "shop", "orders")
			if err != nil || v.Spec().Generation != 2 {
				t.Errorf("while the old client drains: %v", err)
				return DrainReport{}
			}
			v.Release()
			return DrainReport{}
		}
		r.acquire(at(s, 2, "other:9876"))
		<-u.Done()
		if r.w.count() != 2 {
			t.Errorf("%d clients while the old one is used", r.w.count())
		}
		u.Release()
		synctest.Wait()
		if r.w.count() != 1 {
			t.Errorf("%d clients afterwards", r.w.count())
		}
		r.w.onDrain = nil
	})
}

func TestRace_AConsumerIsProbedThenDrainedThenOpened(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var order []string
		s := consumer("orders", "uid-1")
		r.acquire(s)
		r.w.onProbe = func(context.Context, Spec) error { order = append(order, "probe"); return nil }
		r.w.onDrain = func(context.Context, *fakeClient) DrainReport { order = append(order, "drain"); return DrainReport{} }
		r.w.onClose = func(context.Context, *fakeClient) error { order = append(order, "close"); return nil }
		r.w.onOpen = func(context.Context, Spec) error { order = append(order, "open"); return nil }
		r.acquire(at(s, 2, "other:9876"))
		if want := []string{"probe", "drain", "close", "open"}; !slices.Equal(order, want) {
			t.Errorf("order %v, want %v", order, want)
		}
	})
}

func TestRace_QuickChangesAreCoalescedAndTheLatestWins(t *testing.T) {
	for _, kind := range []Kind{Producer, Consumer} {
		t.Run(string(kind), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				s := of(kind, "orders", "uid-1")
				r.acquire(s)
				r.w.onOpen = func(ctx context.Context, _ Spec) error {
					select {
					case <-time.After(time.Second):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				r.w.onProbe = r.w.onOpen
				for g := int64(2); g <= 100; g++ {
					r.Acquire(at(s, g, fmt.Sprintf("ns-%d:9876", g)))
				}
				after(time.Minute)
				got := r.wantState(s.Key, Running)
				if got.Generation != 100 || r.w.count() != 1 || r.l.opened != 2 {
					t.Errorf("generation %d, %d clients, %d were opened", got.Generation, r.w.count(), r.l.opened)
				}
			})
		})
	}
}

// A wrong name server hangs until the open time-out. Its correction must not wait for that.
func TestRace_ACorrectionDoesNotWaitForTheMistake(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.w.onOpen = func(ctx context.Context, s Spec) error {
			if s.Generation > 1 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		s := producer("orders", "uid-1")
		r.acquire(s)
		r.acquire(at(s, 2, "right:9876"))
		if got := r.wantState(s.Key, Running); got.Generation != 2 {
			t.Errorf("status %+v", got)
		}
	})
}

func TestRace_AChangeTakenBackCostsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := producer("orders", "uid-1")
		r.acquire(s)
		r.w.onOpen = func(context.Context, Spec) error { return errDown }
		r.acquire(at(s, 2, "wrong:9876"))
		if got := r.acquire(at(s, 3, "ns:9876")); got.State != Running || got.Generation != 3 || got.Err != nil {
			t.Errorf("status %+v", got)
		}
		if r.w.opened() != 2 || r.w.count() != 1 {
			t.Errorf("opened %d times, %d clients", r.w.opened(), r.w.count())
		}
	})
}

func TestRace_ObjectFoundGoneWhileItsClientIsReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := consumer("orders", "uid-1")
		r.acquire(s)
		after(4 * time.Second) // the answer of the start is too old by then
		changed := at(s, 2, "other:9876")
		changed.Confirm = func(context.Context) error { return ErrNotLive }
		r.acquire(changed)
		r.wantState(s.Key, Stopped)
		if r.l.notices(s.Key) == 0 || r.w.count() != 0 {
			t.Errorf("notified %d times, %d clients", r.l.notices(s.Key), r.w.count())
		}
	})
}

// The model found it: a consumer's client died while its change was being probed, and the successful probe retired it a second time.
func TestRace_AClientDiesWhileItsChangeIsProbed(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.w.onProbe = func(context.Context, Spec) error { time.Sleep(14 * time.Second); return nil }
		s := consumer("orders", "uid-1")
		r.acquire(s)
		r.w.running(s.Key)[0].fail(driver.ErrClosed)
		r.acquire(at(s, 2, "other:9876"))
		after(time.Minute)
		if got := r.wantState(s.Key, Running); got.Generation != 2 || r.w.count() != 1 {
			t.Errorf("status %+v, %d clients", got, r.w.count())
		}
	})
}

// The model found it: a client that said yes to other name servers was taken to be in the group of the new ones.
func TestRace_AnUpdateCannotMoveAClientToOtherNameServers(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.w.update = func(*fakeClient, Spec) bool { return true }
		s := consumer("orders", "uid-1")
		r.acquire(s)
		r.acquire(at(s, 2, "other:9876"))
		if got := r.wantState(s.Key, Running); got.Generation != 2 || r.w.opened() != 2 {
			t.Errorf("status %+v, opened %d times", got, r.w.opened())
		}
	})
}

// The process stands still between the answer and the open (here in Notify, which tells that the namesake goes).
func TestRace_TheProcessStandsStillBetweenAnswerAndOpen(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		old, fresh := producer("orders", "uid-1"), producer("orders", "uid-2")
		old.Group, fresh.Created = "another", epoch.Add(time.Second)
		asked := 0
		var stalled atomic.Bool
		fresh.Confirm = func(context.Context) error {
			if asked++; asked > 1 {
				return ErrNotLive
			}
			return nil
		}
		r.acquire(old)
		r.Registry.opts.Notify = func(Key) {
			if stalled.CompareAndSwap(false, true) {
				time.Sleep(4 * time.Second)
			}
		}
		r.acquire(fresh)
		after(5 * time.Second)
		r.wantState(fresh.Key, Stopped)
		if asked != 2 || r.w.opened() != 1 {
			t.Errorf("asked %d times, opened %d times", asked, r.w.opened())
		}
	})
}
