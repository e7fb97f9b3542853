// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func TestAnIdleWindowHasNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	g := newRig(t, Settings{})
	g.broker.put("m", 10, 1)
	want(t, "goroutines with no receiver", runtime.NumGoroutine(), before)
	want(t, "fetches with no receiver", g.broker.counts().fetches, 0)
}

func TestWithoutCreditNothingIsFetchedAndNoGoroutineWaits(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 100})
		g.broker.put("m", 10, 1)
		r := g.attach(t, ReceiverOptions{MaxMessages: 3})
		receive(t, r, 3)
		synctest.Wait()
		want(t, "leased", g.broker.counts().leased, 3)
		g.mu.Lock()
		want(t, "dispatching", g.dispatching, false)
		g.mu.Unlock()
	})
}

// The report's accident: a full channel dropped messages. Here a full window stops the fetching.
func TestSeedReport_FullWindowStopsFetchingAndDropsNothing(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 10, AckDeadline: time.Hour})
		g.broker.put("m", 1000, 100)
		r := g.attach(t, ReceiverOptions{})
		first := receive(t, r, 10)
		synctest.Wait()
		fetches := g.broker.counts().fetches
		time.Sleep(10 * time.Minute)
		want(t, "fetches while full", g.broker.counts().fetches, fetches)
		want(t, "window-full events", g.seen.get(&g.seen.full), 1)
		n, _ := g.InFlight()
		want(t, "in flight", n, 10)

		g.ack(t, first...)
		for range 99 {
			g.ack(t, receive(t, r, 10)...)
		}
		c := g.broker.counts()
		want(t, "acknowledged", c.acked, 1000)
		want(t, "delivered more than once", g.seen.get(&g.seen.redelivered), 0)
		want(t, "most leased at once", g.broker.most(), 10)
	})
}

// Issue 3: maxInFlight 10, 1,000 waiting, a receiver that stops acking for 150 s.
func TestASilentReceiverNeverHoldsMoreThanMaxInFlightAndGetsAllOnceItAcks(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 10, AckDeadline: 60 * time.Second})
		g.broker.put("m", 1000, 1024)
		r := g.attach(t, ReceiverOptions{})
		last := map[string]time.Time{}
		silent := time.Now().Add(150 * time.Second)
		for time.Now().Before(silent) {
			time.Sleep(time.Second)
			for _, d := range takeAll(r) {
				if before, again := last[d.ID]; again && time.Now().Before(before) {
					t.Errorf("%s came again %s before its deadline", d.ID, time.Until(before))
				}
				last[d.ID] = d.Deadline
			}
			if n, _ := g.InFlight(); n > 10 {
				t.Fatalf("%d in flight, at most 10", n)
			}
		}
		want(t, "most leased at once", g.broker.most(), 10)
		for g.broker.counts().acked < 1000 {
			ds := takeAll(r)
			if len(ds) == 0 {
				time.Sleep(time.Second)
			}
			g.ack(t, ds...)
		}
		want(t, "most leased at once, to the end", g.broker.most(), 10)
	})
}

func TestReceiversGetMessagesInTurn(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 100})
		a, b, c := g.attach(t, ReceiverOptions{MaxMessages: 10}), g.attach(t, ReceiverOptions{MaxMessages: 10}), g.attach(t, ReceiverOptions{MaxMessages: 2})
		synctest.Wait()
		g.broker.put("m", 12, 1)
		want(t, "first", len(takeAll(a)), 5)
		want(t, "second", len(takeAll(b)), 5)
		want(t, "third, limited by its credit", len(takeAll(c)), 2)
	})
}

func TestFetchAsksForTheSumOfCreditsWithinTheWindow(t *testing.T) {
	cases := []struct {
		name      string
		window    Settings
		receivers []ReceiverOptions
		n         int
		bytes     int64
	}{
		{"one receiver asks for its credit", Settings{MaxInFlight: 100, MaxInFlightBytes: 1000}, []ReceiverOptions{{MaxMessages: 7, MaxBytes: 70}}, 7, 70},
		{"two receivers ask for both", Settings{MaxInFlight: 100, MaxInFlightBytes: 1000}, []ReceiverOptions{{MaxMessages: 7, MaxBytes: 70}, {MaxMessages: 5, MaxBytes: 50}}, 12, 120},
		{"the window's room is the limit", Settings{MaxInFlight: 10, MaxInFlightBytes: 100}, []ReceiverOptions{{MaxMessages: 7, MaxBytes: 70}, {MaxMessages: 5, MaxBytes: 50}}, 10, 100},
		{"no credit named means the window's", Settings{MaxInFlight: 10, MaxInFlightBytes: 100}, []ReceiverOptions{{}}, 10, 100},
		{"too large a credit is the window's", Settings{MaxInFlight: 10, MaxInFlightBytes: 100}, []ReceiverOptions{{MaxMessages: 1000, MaxBytes: 1 << 40}}, 10, 100},
		{"a negative credit is the window's", Settings{MaxInFlight: 10, MaxInFlightBytes: 100}, []ReceiverOptions{{MaxMessages: -1, MaxBytes: -1}}, 10, 100},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, c.window)
				gate := make(chan struct{})
				g.broker.setOn(func(context.Context, string) error { <-gate; return driver.ErrUnavailable })
				for _, o := range c.receivers {
					g.attach(t, o)
				}
				synctest.Wait()
				g.broker.setOn(nil)
				close(gate)
				// The first Fetch began with the first receiver only; the one after its back-off sees all.
				time.Sleep(time.Second)
				req := g.broker.lastFetch()
				want(t, "messages", req.MaxMessages, c.n)
				want(t, "bytes", req.MaxBytes, c.bytes)
			})
		})
	}
}

func TestAMessageThatFitsNoByteCreditIsHeldAndPlacedFirst(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 100})
		g.broker.put("small", 1, 100)
		g.broker.put("big", 1, 900)
		g.broker.put("late", 1, 10)
		r := g.attach(t, ReceiverOptions{MaxMessages: 10, MaxBytes: 950})
		first := takeAll(r)
		want(t, "fits", len(first), 1)
		n, _ := g.InFlight()
		want(t, "in flight with the held one", n, 2)
		g.ack(t, first...)
		next := takeAll(r)
		if got := ids(next); len(got) == 0 || got[0] != "big-0" {
			t.Errorf("after the ack came %v, want big-0 first", got)
		}
		g.ack(t, next...)
		g.ack(t, takeAll(r)...)
		c := g.broker.counts()
		want(t, "acknowledged", c.acked, 3)
		want(t, "given back", c.givenBack, 0)
	})
}

func TestAHeldMessageGoesBackWhenHalfItsLeaseIsGone(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 100, AckDeadline: 40 * time.Second})
		g.broker.put("small", 1, 100)
		g.broker.put("big", 1, 900)
		r := g.attach(t, ReceiverOptions{MaxMessages: 10, MaxBytes: 950})
		ds := takeAll(r)
		time.Sleep(19 * time.Second)
		synctest.Wait()
		want(t, "given back before the half", g.broker.counts().givenBack, 0)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		want(t, "given back after the half", g.broker.counts().givenBack, 1)
		g.ack(t, ds...)
		big := takeAll(r)
		if len(big) != 1 || big[0].Attempt != 1 {
			t.Errorf("the big message came as %v, want it once with attempt 1", big)
		}
	})
}

// Sequence of the accident: a big message fits nobody, and a receiver that prolongs a small one for ever would stop everything.
func TestAHeldMessageStopsTheOthersForAQuarterOfItsLeaseAtMost(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 100, AckDeadline: 40 * time.Second})
		g.broker.put("small", 1, 100)
		g.broker.put("big", 1, 900)
		r := g.attach(t, ReceiverOptions{MaxMessages: 10, MaxBytes: 950})
		takeAll(r)
		g.broker.put("late", 3, 10)
		time.Sleep(9 * time.Second)
		want(t, "late ones within the quarter", len(takeAll(r)), 0)
		time.Sleep(2 * time.Second)
		want(t, "late ones after the quarter", len(takeAll(r)), 3)
	})
}

func TestAMessageLargerThanAWholeCreditIsDeliveredAlone(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 100})
		g.broker.put("huge", 2, 5000)
		r := g.attach(t, ReceiverOptions{MaxMessages: 10, MaxBytes: 100})
		for range 2 {
			ds := takeAll(r)
			want(t, "at once", len(ds), 1)
			g.ack(t, ds...)
		}
	})
}

func TestTakeStaysWithinBytesButForTheFirst(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 100})
		g.broker.put("m", 5, 100)
		r := g.attach(t, ReceiverOptions{})
		synctest.Wait()
		<-r.Ready()
		for _, c := range []struct {
			messages int
			bytes    int64
			n        int
		}{{10, 1, 1}, {10, 250, 2}, {1, 0, 1}, {0, 0, 1}, {0, 0, 0}} {
			ds := r.Take(c.messages, c.bytes)
			want(t, "taken", len(ds), c.n)
			r.Written(ds)
			if g.mu.Lock(); r.queue.n > 0 {
				select {
				case <-r.Ready():
				default:
					t.Error("something is left and Ready does not say so")
				}
			}
			g.mu.Unlock()
		}
	})
}

func TestWhatAReceiverNeverTookGoesToOthersWhenItLeaves(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 100})
		a, b := g.attach(t, ReceiverOptions{MaxMessages: 5}), g.attach(t, ReceiverOptions{MaxMessages: 10})
		g.broker.put("m", 10, 1)
		synctest.Wait()
		a.Close()
		ds := takeAll(b)
		want(t, "with the one that stays", len(ds), 10)
		for _, d := range ds {
			want(t, "attempt", d.Attempt, 1)
		}
		want(t, "given back", g.broker.counts().givenBack, 0)
	})
}

// The report's accident: stream clean-up started goroutines that nobody waited for. Here Close returns when the clean-up is done.
func TestSeedReport_StreamCleanUpIsSynchronousAndGivesBackWhatWasNeverWritten(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 100})
		g.broker.put("m", 5, 1)
		r := g.attach(t, ReceiverOptions{})
		synctest.Wait()
		lost := r.Take(3, 0)
		r.Written(lost[:1])
		r.Unwritten(lost[1:2])
		// The one that was refused is back at once, for the same receiver.
		synctest.Wait()
		want(t, "given back by Unwritten", g.broker.counts().givenBack, 1)
		r.Close()
		c := g.broker.counts()
		want(t, "ready again", c.ready, 4)
		want(t, "leased: only the written one", c.leased, 1)

		next := g.attach(t, ReceiverOptions{})
		for _, d := range takeAll(next) {
			want(t, "attempt of "+d.ID, d.Attempt, 1)
		}
		wantOutcome(t, "ack of the written one", g.Ack(t.Context(), tokens(lost[:1]))[0], OK)
		wantOutcome(t, "ack of the refused one", g.Ack(t.Context(), tokens(lost[1:2]))[0], Expired)
		wantOutcome(t, "ack of the unwritten one", g.Ack(t.Context(), tokens(lost[2:]))[0], Expired)
	})
}

func TestWhatIsNotTakenForHalfItsLeaseGoesBack(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 100, AckDeadline: 60 * time.Second})
		g.broker.put("m", 2, 1)
		r := g.attach(t, ReceiverOptions{})
		time.Sleep(31 * time.Second)
		synctest.Wait()
		want(t, "given back", g.broker.counts().givenBack, 2)
		for _, d := range takeAll(r) {
			want(t, "attempt", d.Attempt, 1)
			if left := time.Until(d.Deadline); left < 30*time.Second {
				t.Errorf("handed out with %s left of 60 s", left)
			}
		}
	})
}

func TestWrittenDeliveriesOfAClosedReceiverCountForTheWindowOnly(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 10, AckDeadline: 30 * time.Second})
		g.broker.put("m", 30, 1)
		a := g.attach(t, ReceiverOptions{MaxMessages: 6})
		gone := receive(t, a, 6)
		a.Close()
		b := g.attach(t, ReceiverOptions{MaxMessages: 10})
		want(t, "room that the window has left", len(takeAll(b)), 4)
		g.ack(t, gone[:3]...)
		want(t, "room after acks by the unary call", len(takeAll(b)), 3)
		time.Sleep(31 * time.Second)
		want(t, "room after the deadline", len(takeAll(b)) > 0, true)
		want(t, "most leased", g.broker.most(), 10)
	})
}

func TestAReceiverThatLeavesDuringAFetchLeavesItsShareToOthersOrGivesItBack(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 100})
		arrive := make(chan struct{})
		a := g.attach(t, ReceiverOptions{MaxMessages: 5})
		b := g.attach(t, ReceiverOptions{MaxMessages: 3})
		synctest.Wait()
		g.broker.mu.Lock()
		g.broker.afterFetch = func([]*driver.Received) { <-arrive }
		g.broker.mu.Unlock()
		g.broker.put("m", 1, 1) // ends the Fetch that began with a only
		synctest.Wait()
		arrive <- struct{}{}
		synctest.Wait()
		g.broker.put("m", 7, 1)
		synctest.Wait()
		a.Close()
		close(arrive)
		ds := takeAll(b)
		want(t, "with the one that stays", len(ds), 3)
		for _, d := range ds {
			want(t, "attempt", d.Attempt, 1)
		}
		c := g.broker.counts()
		want(t, "leased", c.leased, 3)
		want(t, "ready again", c.ready, 5)
	})
}

func TestAReceiverThatComesInPlaceOfAnotherGetsWhatItsFetchBrings(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 100})
		arrive := make(chan struct{})
		g.broker.afterFetch = func([]*driver.Received) { <-arrive }
		g.broker.put("m", 5, 1)
		first := g.attach(t, ReceiverOptions{})
		synctest.Wait()
		first.Close()
		next := g.attach(t, ReceiverOptions{})
		close(arrive)
		want(t, "delivered", len(takeAll(next)), 5)
		want(t, "given back", g.broker.counts().givenBack, 0)
	})
}

// generous answers more than it was asked for.
type generous struct{ *fakeBroker }

func (b generous) Fetch(ctx context.Context, req driver.FetchRequest) ([]*driver.Received, error) {
	req.MaxMessages *= 2
	return b.fakeBroker.Fetch(ctx, req)
}

func TestADriverThatBringsTooMuchGetsItBack(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 10})
		g.consumer = generous{g.broker}
		gate := make(chan struct{})
		g.broker.setOn(func(context.Context, string) error { <-gate; return nil })
		g.broker.put("m", 20, 1)
		r := g.attach(t, ReceiverOptions{})
		other := g.attach(t, ReceiverOptions{})
		close(gate)
		want(t, "delivered", len(takeAll(r))+len(takeAll(other)), 10)
		n, _ := g.InFlight()
		want(t, "in flight", n, 10)
		if c := g.broker.counts(); c.leased != 10 || c.givenBack == 0 {
			t.Errorf("%d leased and %d given back, want 10 and some", c.leased, c.givenBack)
		}
	})
}

func TestTheLastReceiverToLeaveEndsTheFetch(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		r := g.attach(t, ReceiverOptions{})
		synctest.Wait()
		r.Close()
		synctest.Wait()
		g.broker.put("m", 3, 1)
		synctest.Wait()
		want(t, "leased to nobody", g.broker.counts().leased, 0)
		want(t, "fetched for nobody", g.broker.fetched(), 0)
		g.mu.Lock()
		want(t, "dispatching", g.dispatching, false)
		g.mu.Unlock()
	})
}

func TestFetchErrorsBackOffAreReportedAndRecover(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		down := driver.Errorf(driver.Unavailable, "", "the broker is down")
		tries := 0
		g.broker.setOn(func(_ context.Context, call string) error {
			if call == "Fetch" {
				tries++
				return down
			}
			return nil
		})
		g.broker.put("m", 1, 1)
		r := g.attach(t, ReceiverOptions{})
		time.Sleep(time.Minute)
		synctest.Wait()
		if tries < 8 || tries > 30 {
			t.Errorf("%d tries in a minute, want a back-off from 0.1 s to 10 s", tries)
		}
		want(t, "observed", g.seen.get(&g.seen.fetchFailed), tries)
		if err := g.Err(); !errors.Is(err, down) {
			t.Errorf("Err: %v, want the Fetch's error", err)
		}
		g.broker.setOn(nil)
		receive(t, r, 1)
		if err := g.Err(); err != nil {
			t.Errorf("Err after recovery: %v", err)
		}
	})
}

func TestErrIsGoneWhenAFetchWaitsAgainOrNobodyAsks(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		g.broker.setOn(func(_ context.Context, call string) error { return driver.ErrUnavailable })
		r := g.attach(t, ReceiverOptions{})
		time.Sleep(time.Second)
		if g.Err() == nil {
			t.Fatal("no error although Fetch fails")
		}
		g.broker.setOn(nil)
		time.Sleep(20 * time.Second)
		if err := g.Err(); err != nil {
			t.Errorf("Fetch has waited without an error for long: %v", err)
		}
		g.broker.setOn(func(_ context.Context, call string) error { return driver.ErrUnavailable })
		g.broker.put("m", 1, 1)
		receive(t, r, 1) // of the Fetch that waited; the next one fails
		time.Sleep(time.Second)
		if g.Err() == nil {
			t.Error("no error although Fetch fails again")
		}
		r.Close()
		time.Sleep(2 * time.Minute)
		if err := g.Err(); err != nil {
			t.Errorf("nobody has asked for two minutes: %v", err)
		}
	})
}

func TestErrIsTheClientsOwnWhenNoFetchFails(t *testing.T) {
	g := newRig(t, Settings{})
	g.broker.err = driver.ErrUnavailable
	want(t, "Err", g.Err(), error(driver.ErrUnavailable))
}

func TestReceiversWithDifferentLeasesAreServedInRotation(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 100, AckDeadline: 60 * time.Second})
		short := g.attach(t, ReceiverOptions{MaxMessages: 50, AckDeadline: 10 * time.Second})
		synctest.Wait()
		long := g.attach(t, ReceiverOptions{MaxMessages: 50})
		got := map[*Receiver]int{}
		for range 40 {
			time.Sleep(333 * time.Millisecond)
			g.broker.put("m", 1, 1)
			for r, lease := range map[*Receiver]time.Duration{short: 10 * time.Second, long: 60 * time.Second} {
				for _, d := range takeAll(r) {
					got[r]++
					want(t, "lease", time.Until(d.Deadline), lease)
					g.ack(t, d)
				}
			}
		}
		if got[short] < 19 || got[long] < 19 || got[short]+got[long] != 40 {
			t.Errorf("%d and %d of 40 messages, want the same share for both", got[short], got[long])
		}
	})
}

func TestWhenTheReceiversOfOneLeaseLeaveTheOthersDoNotWaitForTheirFetch(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 100, AckDeadline: 60 * time.Second})
		short := g.attach(t, ReceiverOptions{AckDeadline: 10 * time.Second})
		synctest.Wait()
		long := g.attach(t, ReceiverOptions{})
		synctest.Wait()
		short.Close()
		synctest.Wait()
		want(t, "lease of the Fetch under way", g.broker.lastFetch().Lease, 60*time.Second)
		g.broker.put("m", 3, 1)
		want(t, "delivered", len(takeAll(long)), 3)
		want(t, "given back", g.broker.counts().givenBack, 0)
	})
}

func TestLeasesAreClamped(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{AckDeadline: time.Minute, MaxLease: 10 * time.Minute})
		g.broker.put("m", 2, 1)
		long := g.attach(t, ReceiverOptions{MaxMessages: 1, AckDeadline: time.Hour})
		want(t, "longest", time.Until(receive(t, long, 1)[0].Deadline), 10*time.Minute)
		short := g.attach(t, ReceiverOptions{MaxMessages: 1, AckDeadline: time.Nanosecond})
		want(t, "shortest", time.Until(receive(t, short, 1)[0].Deadline), time.Second)
	})
}

func TestDeadlinesFreeCredit(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 10, AckDeadline: 30 * time.Second})
		g.broker.put("m", 4, 1)
		r := g.attach(t, ReceiverOptions{MaxMessages: 4})
		receive(t, r, 4)
		time.Sleep(30 * time.Second)
		again := receive(t, r, 4)
		for _, d := range again {
			want(t, "attempt", d.Attempt, 2)
		}
		synctest.Wait() // observers are told outside the lock, so perhaps after the messages came again
		want(t, "expired", g.seen.ended(Lapsed), 4)
		want(t, "redelivered", g.seen.get(&g.seen.redelivered), 4)
	})
}

func TestSettingsChangeWhileRunning(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 5, AckDeadline: 30 * time.Second})
		g.broker.put("m", 100, 1)
		r := g.attach(t, ReceiverOptions{})
		ds := receive(t, r, 5)
		g.SetSettings(Settings{MaxInFlight: 8, AckDeadline: 50 * time.Second})
		more := takeAll(r)
		want(t, "after raising the limit", len(more), 3)
		want(t, "new lease", time.Until(more[0].Deadline), 50*time.Second)
		g.SetSettings(Settings{MaxInFlight: 2, AckDeadline: 50 * time.Second})
		g.ack(t, ds...)
		want(t, "above the lowered limit", len(takeAll(r)), 0)
		g.ack(t, more[:2]...)
		want(t, "below the lowered limit", len(takeAll(r)), 1)
	})
}

func TestAPanicOfTheDriverIsAnErrorOfThatCall(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		g.broker.put("m", 1, 1)
		var boom atomic.Bool
		boom.Store(true)
		g.broker.setOn(func(context.Context, string) error {
			if boom.Swap(false) {
				panic("boom")
			}
			return nil
		})
		r := g.attach(t, ReceiverOptions{})
		ds := receive(t, r, 1)
		want(t, "panics", g.seen.get(&g.seen.pan), 1)
		boom.Store(true)
		wantOutcome(t, "ack", g.Ack(t.Context(), tokens(ds))[0], Retry)
		wantOutcome(t, "ack again", g.Ack(t.Context(), tokens(ds))[0], OK)
	})
}

// tests.md D8.
func TestD8_AfterAThousandReceiversTheLastGetsEverything(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 10000})
		g.broker.put("m", 3000, 10)
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				r, err := g.Attach(ReceiverOptions{MaxMessages: 10})
				if err != nil {
					t.Error(err)
					return
				}
				defer r.Close()
				if i%2 == 0 {
					r.Take(i%7, 0)
				}
			})
		}
		wg.Wait()
		last := g.attach(t, ReceiverOptions{})
		began := time.Now()
		got := receive(t, last, 3000)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %s, at most 5 s", took)
		}
		all := ids(got)
		slices.Sort(all)
		want(t, "different messages", len(slices.Compact(all)), 3000)
		for _, d := range got {
			want(t, "attempt of "+d.ID, d.Attempt, 1)
		}
	})
}

// tests.md D9, the window's part: one receiver never reads, another one goes on; 10,000 acks come in one go before anything is read.
func TestD9_AReceiverThatNeverReadsStopsNobody(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 20000})
		g.broker.put("m", 20000, 1)
		g.attach(t, ReceiverOptions{MaxMessages: 100})
		busy := g.attach(t, ReceiverOptions{MaxMessages: 10000})
		batch := receive(t, busy, 10000)
		for range 10000 {
			batch = append(batch, batch[0]) // the same token again and again
		}
		g.ack(t, batch...)
		c := g.broker.counts()
		want(t, "acknowledged", c.acked, 10000)
		want(t, "driver calls", c.ackCalls, 1)
		want(t, "handles in it", c.ackHandles, 10000)
		if got := len(receive(t, busy, 9000)); got != 9000 {
			t.Errorf("%d more", got)
		}
	})
}
