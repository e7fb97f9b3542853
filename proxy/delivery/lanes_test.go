// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

const lineLease = 30 * time.Second

func TestABatchGoesToOneReceiverInOrderAndTheNextWhenItIsDone(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newLineRig(t, 1, 9, Settings{AckDeadline: lineLease})
		a := g.attach(t, ReceiverOptions{MaxMessages: 4})
		first := takeAll(a)
		wantIDs(t, "the first batch", first, "0/0 0/1 0/2 0/3")
		b := g.attach(t, ReceiverOptions{MaxMessages: 4})
		want(t, "for another receiver", len(takeAll(b)), 0)
		g.ack(t, first[:3]...)
		want(t, "while one is not acknowledged", len(takeAll(a))+len(takeAll(b)), 0)
		g.ack(t, first[3])
		next := append(takeAll(a), takeAll(b)...)
		wantIDs(t, "the second batch", next, "0/4 0/5 0/6 0/7")
		g.ack(t, next...)
		g.ack(t, append(takeAll(a), takeAll(b)...)...)
		synctest.Wait()
		want(t, "position", g.broker.position(0), 9)
		want(t, "lanes that are left", len(g.lanes), 0)
	})
}

func TestABatchThatIsLargerThanTheCreditFollowsAsItIsSettled(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newLineRig(t, 1, 6, Settings{AckDeadline: lineLease})
		large := g.attach(t, ReceiverOptions{MaxMessages: 6})
		small := g.attach(t, ReceiverOptions{MaxMessages: 2})
		synctest.Wait()
		r, other := large, small
		if r.Take(0, 0) == nil {
			r, other = small, large
		}
		_ = other
		r.Close() // what it took was not written: it goes back
		if r == large {
			large = g.attach(t, ReceiverOptions{MaxMessages: 6})
		}
		var got []string
		for range 20 {
			for _, r := range []*Receiver{small, large} {
				ds := takeAll(r)
				got = append(got, ids(ds)...)
				g.ack(t, ds...)
			}
		}
		want(t, "in order", fmt.Sprint(got), "[0/0 0/1 0/2 0/3 0/4 0/5]")
	})
}

func TestANackEndsWhatIsBehindItAndAllComesAgainInOrder(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newLineRig(t, 1, 5, Settings{AckDeadline: lineLease})
		r := g.attach(t, ReceiverOptions{})
		first := takeAll(r)
		g.ack(t, first[0])
		res := g.Nack(t.Context(), []Nack{{Token: first[2].Token, Delay: 3 * time.Second}})[0]
		wantOutcome(t, "nack", res, OK)
		want(t, "delay", res.EffectiveDelay, 3*time.Second)
		for _, d := range first[3:] {
			wantOutcome(t, "ack behind a nacked one", g.Ack(t.Context(), tokens([]Delivery{d}))[0], Expired)
		}
		wantOutcome(t, "the nack again", g.Nack(t.Context(), []Nack{{Token: first[2].Token}})[0], OK)
		time.Sleep(5 * time.Second)
		want(t, "while the one in front of it is not settled", len(takeAll(r)), 0)
		g.ack(t, first[1]) // which the nack does not concern
		again := takeAll(r)
		wantIDs(t, "again", again, "0/2 0/3 0/4")
		for i, d := range again {
			want(t, "attempt of "+d.ID, d.Attempt, []int{2, 1, 1}[i])
		}
		g.ack(t, again...)
		want(t, "position", g.broker.position(0), 5)
	})
}

func TestANackComesAgainAfterItsDelayNotAfterTheLeasesOfWhatIsBehindIt(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newLineRig(t, 1, 3, Settings{AckDeadline: lineLease})
		r := g.attach(t, ReceiverOptions{})
		first := takeAll(r)
		wantOutcome(t, "ack before its turn", g.Ack(t.Context(), tokens(first[2:]))[0], OK)
		wantOutcome(t, "nack", g.Nack(t.Context(), []Nack{{Token: first[0].Token, Delay: 2 * time.Second}})[0], OK)
		time.Sleep(2*time.Second - time.Millisecond)
		want(t, "before the delay is over", len(takeAll(r)), 0)
		time.Sleep(2 * time.Millisecond)
		again := takeAll(r)
		wantIDs(t, "again, without what is acknowledged", again, "0/0 0/1")
		g.ack(t, again...)
		synctest.Wait()
		want(t, "position", g.broker.position(0), 3)
		want(t, "lanes that are left", len(g.lanes), 0)
	})
}

func TestWhatIsAcknowledgedBeforeItsTurnIsTheBrokersOnlyInItsTurn(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newLineRig(t, 1, 4, Settings{AckDeadline: lineLease})
		r := g.attach(t, ReceiverOptions{})
		first := takeAll(r)
		g.ack(t, first[3], first[1])
		want(t, "acknowledgements that reached the broker", g.broker.calls("Ack"), 0)
		g.broker.crash() // it would take an acknowledgement of 3 for one of all before it
		acked := map[string]bool{"0/1": true, "0/3": true}
		use := func(d Delivery) {
			if r := g.Ack(t.Context(), []string{d.Token})[0]; r.Outcome == OK {
				acked[d.ID] = true
			} else if r.Outcome != Expired { // it was lent anew already
				t.Errorf("ack of %s: %+v", d.ID, r)
			}
		}
		use(first[1])
		use(first[0])
		synctest.Wait()
		if n := g.broker.position(0); n > 2 {
			t.Fatalf("the position is %d although 2 was never acknowledged", n)
		}
		for range 4 {
			for _, d := range takeAll(r) {
				if d.ID == "0/1" || d.ID == "0/3" {
					t.Errorf("%s comes again although its acknowledgement was OK", d.ID)
				}
				use(d)
			}
		}
		want(t, "position", g.broker.position(0), 4)
		want(t, "acknowledged", len(acked), 4)
	})
}

func TestALaneHasOneDeadline(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newLineRig(t, 1, 5, Settings{AckDeadline: lineLease})
		r := g.attach(t, ReceiverOptions{})
		first := takeAll(r)
		g.ack(t, first[4])
		time.Sleep(lineLease - time.Second)
		moved := g.Modify(t.Context(), []Modify{{Token: first[1].Token, AckDeadline: time.Minute}})[0]
		wantOutcome(t, "modify", moved, OK)
		time.Sleep(30 * time.Second) // beyond all first deadlines
		want(t, "at the first deadline", len(takeAll(r)), 0)
		wantOutcome(t, "ack with a replaced token", g.Ack(t.Context(), []string{first[1].Token})[0], Expired)
		g.ack(t, first[0]) // its deadline was moved along, its token was not
		wantOutcome(t, "ack with the new token", g.Ack(t.Context(), []string{moved.NewToken})[0], OK)
		time.Sleep(40 * time.Second)
		again := takeAll(r)
		wantIDs(t, "after the moved deadline", again, "0/2 0/3")
		for i, d := range again {
			want(t, "attempt of "+d.ID, d.Attempt, 2-i)
		}
		wantOutcome(t, "ack with a token of before", g.Ack(t.Context(), []string{first[2].Token})[0], Expired)
		g.ack(t, again...)
		want(t, "position", g.broker.position(0), 5)
	})
}

func TestADeadlineThatPassesFreesTheQueueAtOnce(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newLineRig(t, 1, 3, Settings{AckDeadline: lineLease})
		r := g.attach(t, ReceiverOptions{})
		first := takeAll(r)
		g.ack(t, first[0])
		r.Close()
		other := g.attach(t, ReceiverOptions{})
		time.Sleep(lineLease - time.Millisecond)
		want(t, "before the deadline", len(takeAll(other)), 0)
		time.Sleep(2 * time.Millisecond)
		again := takeAll(other)
		wantIDs(t, "after the deadline", again, "0/1 0/2")
		want(t, "attempts", fmt.Sprint(again[0].Attempt, again[1].Attempt), "2 1")
		g.ack(t, again...)
	})
}

func TestAReceiverThatGoesAway(t *testing.T) {
	for name, c := range map[string]struct {
		written  int    // of 4
		wantNext string // for the other receiver, at once
		attempts string
	}{
		"before it took anything leaves its batch to another one":       {0, "0/0 0/1 0/2 0/3", "[1 1 1 1]"},
		"in the middle of its batch holds the queue until its deadline": {2, "", "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newLineRig(t, 1, 4, Settings{AckDeadline: lineLease})
				r := g.attach(t, ReceiverOptions{})
				synctest.Wait()
				var first []Delivery
				if c.written > 0 {
					first = r.Take(c.written, 0)
					r.Written(first)
				}
				other := g.attach(t, ReceiverOptions{})
				r.Close()
				next := takeAll(other)
				wantIDs(t, "next", next, c.wantNext)
				if c.written == 0 {
					want(t, "given back", g.broker.calls("GiveBack"), 0)
					g.ack(t, next...)
					return
				}
				// Its application may acknowledge by another call; what it never got comes when it does.
				g.ack(t, first...)
				next = takeAll(other)
				wantIDs(t, "behind it", next, "0/2 0/3")
				want(t, "attempts", fmt.Sprint(next[0].Attempt, next[1].Attempt), "1 1")
				g.ack(t, next...)
			})
		})
	}
}

func TestWhatATransportRefusesComesAgainWithWhatIsBehindIt(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newLineRig(t, 1, 4, Settings{AckDeadline: lineLease})
		r := g.attach(t, ReceiverOptions{})
		synctest.Wait()
		ds := r.Take(3, 0)
		r.Written(ds[:1])
		r.Unwritten(ds[1:])
		want(t, "while the first is not settled", len(takeAll(r)), 0)
		g.ack(t, ds[0])
		next := takeAll(r)
		wantIDs(t, "next", next, "0/1 0/2 0/3")
		for _, d := range next {
			want(t, "attempt of "+d.ID, d.Attempt, 1)
		}
		wantOutcome(t, "ack with a refused token", g.Ack(t.Context(), []string{ds[1].Token})[0], Expired)
		g.ack(t, next...)
	})
}

func TestAPoisonMessageGoesAloneToTheDeadLettersAndFreesItsQueue(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newLineRig(t, 1, 5, Settings{AckDeadline: lineLease, MaxDeliveryAttempts: 3})
		r := g.attach(t, ReceiverOptions{})
		for attempt := 1; attempt <= 3; attempt++ {
			ds := takeAll(r)
			wantIDs(t, "delivered", ds, "0/0 0/1 0/2 0/3 0/4")
			want(t, "attempt of the poison", ds[0].Attempt, attempt)
			if attempt == 2 {
				time.Sleep(lineLease) // once it is forgotten
			} else {
				wantOutcome(t, "nack", g.Nack(t.Context(), []Nack{{Token: ds[0].Token}})[0], OK)
			}
			time.Sleep(time.Millisecond)
		}
		ds := takeAll(r)
		wantIDs(t, "behind the poison", ds, "0/1 0/2 0/3 0/4")
		for _, d := range ds {
			want(t, "attempt of "+d.ID, d.Attempt, 1)
		}
		g.ack(t, ds...)
		synctest.Wait()
		want(t, "dead letters", fmt.Sprint(g.broker.dead), "map[0/0:3]")
		want(t, "position", g.broker.position(0), 5)
	})
}

func TestADeadLetterThatCannotBeWrittenHoldsNobodyElseUp(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newLineRig(t, 1, 3, Settings{AckDeadline: lineLease, MaxDeliveryAttempts: 1})
		r := g.attach(t, ReceiverOptions{})
		var whole atomic.Bool
		g.broker.setOn(func(_ context.Context, call string, _ []driver.Handle) error {
			if call == "DeadLetter" && !whole.Load() {
				return driver.ErrUnavailable
			}
			return nil
		})
		wantOutcome(t, "nack", g.Nack(t.Context(), []Nack{{Token: takeAll(r)[0].Token}})[0], OK)
		time.Sleep(time.Millisecond)
		ds := takeAll(r)
		wantIDs(t, "behind the poison", ds, "0/1 0/2")
		g.ack(t, ds...)
		want(t, "position, which must not pass the poison", g.broker.position(0), 0)
		time.Sleep(2 * lineLease)
		whole.Store(true)
		time.Sleep(2 * lineLease)
		synctest.Wait()
		want(t, "dead letters", len(g.broker.dead), 1)
		want(t, "position", g.broker.position(0), 3)
		want(t, "delivered again", len(takeAll(r)), 0)
	})
}

func TestAcknowledgementsSideBySideReachTheBrokerInOrderAndFewRequests(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newLineRig(t, 1, 20, Settings{AckDeadline: lineLease})
		g.broker.setOn(func(_ context.Context, call string, _ []driver.Handle) error {
			if call == "Ack" {
				time.Sleep(10 * time.Millisecond)
			}
			return nil
		})
		ds := takeAll(g.attach(t, ReceiverOptions{}))
		for _, d := range ds {
			go func() { wantOutcome(t, "ack of "+d.ID, g.Ack(t.Context(), []string{d.Token})[0], OK) }()
			synctest.Wait()
		}
		time.Sleep(time.Second)
		want(t, "position", g.broker.position(0), 20)
		if n := g.broker.calls("Ack"); n > 3 {
			t.Errorf("%d requests for 20 acknowledgements side by side", n)
		}
	})
}

func TestAnAcknowledgementThatFailsIsNoneForThoseBehindIt(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newLineRig(t, 1, 3, Settings{AckDeadline: lineLease})
		var whole atomic.Bool
		g.broker.setOn(func(_ context.Context, call string, _ []driver.Handle) error {
			if call == "Ack" && !whole.Load() {
				return driver.ErrUnavailable
			}
			return nil
		})
		r := g.attach(t, ReceiverOptions{})
		ds := takeAll(r)
		for _, res := range g.Ack(t.Context(), tokens(ds[:2])) {
			wantOutcome(t, "ack", res, Retry)
		}
		g.ack(t, ds[2]) // before its turn
		whole.Store(true)
		g.ack(t, ds[0])
		g.ack(t, ds[1])
		synctest.Wait()
		want(t, "position", g.broker.position(0), 3)
		want(t, "delivered again", len(takeAll(r)), 0)
	})
}

func TestWhenTheBrokerLendsAQueueAnewTheOldTokensAreVoid(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newLineRig(t, 1, 3, Settings{AckDeadline: lineLease})
		r := g.attach(t, ReceiverOptions{MaxMessages: 2})
		other := g.attach(t, ReceiverOptions{MaxMessages: 2})
		first := append(takeAll(r), takeAll(other)...)
		g.broker.crash()
		again := append(takeAll(r), takeAll(other)...)
		wantIDs(t, "after the crash", again, "0/0 0/1")
		for _, d := range first {
			wantOutcome(t, "an old token", g.Ack(t.Context(), []string{d.Token})[0], Expired)
		}
		g.ack(t, again...)
		g.ack(t, append(takeAll(r), takeAll(other)...)...)
		want(t, "position", g.broker.position(0), 3)
	})
}

func TestADrainGivesBackWhatWasNotTakenAndLeavesTheRest(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newLineRig(t, 2, 4, Settings{AckDeadline: lineLease})
		r := g.attach(t, ReceiverOptions{MaxMessages: 8})
		synctest.Wait()
		ds := r.Take(3, 0)
		r.Written(ds)
		go func() {
			time.Sleep(time.Second)
			g.ack(t, ds...)
		}()
		report := g.Drain(t.Context())
		want(t, "left", report.LeftLeased, 0)
		if report.Acked != 3 || report.GivenBack == 0 || report.Took > 2*time.Second {
			t.Errorf("%+v", report)
		}
		g.broker.mu.Lock()
		defer g.broker.mu.Unlock()
		for i, q := range g.broker.queues {
			if until := q.blocked(time.Now()); !until.IsZero() {
				t.Errorf("queue %d is held back for %s after the drain", i, time.Until(until))
			}
		}
	})
}
