// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"context"
	"math"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func TestALeaseOfTwelveHoursEndsToTheInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := open(t, New(NewBroker(Options{})), "group", "topic")
		mustSend(t, p, numbered("topic", 1)...)
		first := mustFetch(t, c, 1, 100*time.Hour)[0]
		if lease := time.Until(first.Deadline); lease != maxLease {
			t.Fatalf("the lease is %v, want it clamped to %v", lease, maxLease)
		}
		second := mustFetch(t, c, 1, time.Minute)[0]
		if late := time.Since(first.Deadline); late != 0 || second.Attempt != 2 {
			t.Fatalf("came %v after the deadline with attempt %d", late, second.Attempt)
		}
		mustAck(t, c, second)
	})
}

func TestANackDelayIsKeptToTheInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := open(t, New(NewBroker(Options{})), "group", "topic")
		mustSend(t, p, numbered("topic", 1)...)
		for _, delay := range []time.Duration{0, time.Nanosecond, 1234 * time.Millisecond, 3 * time.Hour, 100 * time.Hour} {
			r := mustFetch(t, c, 1, time.Hour)[0]
			start := time.Now()
			effective, err := c.Nack(t.Context(), r.Handle, delay)
			if want := min(delay, maxDelay); err != nil || effective != want {
				t.Fatalf("nack with %v: effective %v, want %v; %v", delay, effective, want, err)
			}
			next := mustFetch(t, c, 1, time.Hour)[0]
			if took := time.Since(start); took != effective || next.Attempt != r.Attempt+1 {
				t.Fatalf("a nack with %v came after %v with attempt %d after %d", effective, took, next.Attempt, r.Attempt)
			}
			if err := c.GiveBack(t.Context(), []driver.Handle{next.Handle})[0]; err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestAWaitingFetchSeesTheEndOfAnotherMembersLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(NewBroker(Options{}))
		p, busy := open(t, d, "group", "topic")
		waiting := join(t, d, "group", "topic")
		got := make(chan *driver.Received, 1)
		go func() {
			rs, err := waiting.Fetch(context.Background(), driver.FetchRequest{MaxMessages: 1, MaxBytes: 1, Lease: time.Hour})
			if err != nil {
				t.Errorf("fetch: %v", err)
			}
			got <- rs[0]
		}()
		synctest.Wait()
		// Both could get the message; the one that waits must get it in the end, without a call that wakes it.
		mustSend(t, p, numbered("topic", 1)...)
		first := <-got
		go func() {
			rs, err := waiting.Fetch(context.Background(), driver.FetchRequest{MaxMessages: 1, MaxBytes: 1, Lease: time.Hour})
			if err != nil {
				t.Errorf("fetch: %v", err)
			}
			got <- rs[0]
		}()
		synctest.Wait()
		h, deadline, err := busy.Extend(t.Context(), first.Handle, time.Minute)
		if err != nil || h == first.Handle {
			t.Fatalf("extend: handle %q, %v", h, err)
		}
		second := <-got
		if !time.Now().Equal(deadline) || second.Attempt != 2 {
			t.Fatalf("came at %v with attempt %d, the lease ended at %v", time.Now(), second.Attempt, deadline)
		}
		mustAck(t, waiting, second)
	})
}

func TestWhatIsGivenBackComesFirstAndInItsOrder(t *testing.T) {
	broker := NewBroker(Options{Queues: 1})
	p, c := open(t, New(broker), "group", "topic")
	mustSend(t, p, numbered("topic", 6)...)
	got := mustFetch(t, c, 4, time.Hour)
	if _, err := c.Nack(t.Context(), got[0].Handle, 0); err != nil {
		t.Fatal(err)
	}
	for _, err := range c.GiveBack(t.Context(), handlesOf(got[1:])) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if order := ids(mustFetch(t, c, 6, time.Hour)); order != "1 2 3 0 4 5 " {
		t.Errorf("came in the order %s", order)
	}
}

func TestCloseGivesBackInTheOrderOfLeases(t *testing.T) {
	d := New(NewBroker(Options{Queues: 1}))
	p, c := open(t, d, "group", "topic")
	mustSend(t, p, numbered("topic", 5)...)
	got := append(mustFetch(t, c, 2, 3*time.Hour), mustFetch(t, c, 2, time.Hour)...)
	mustAck(t, c, got[1])
	mustClose(t, c)
	next := join(t, d, "group", "topic")
	if order := ids(mustFetch(t, next, 4, time.Hour)); order != "0 2 3 4 " {
		t.Errorf("came in the order %s", order)
	}
}

func TestARepeatedAckIsOKUntilTheDeadlineAndExtendOfAnAcknowledgedMessageIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := open(t, New(NewBroker(Options{})), "group", "topic")
		mustSend(t, p, numbered("topic", 1)...)
		r := mustFetch(t, c, 1, time.Minute)[0]
		mustAck(t, c, r)
		mustAck(t, c, r)
		if _, _, err := c.Extend(t.Context(), r.Handle, time.Hour); driver.ReasonOf(err) != driver.LeaseExpired {
			t.Errorf("extend after ack: %v", err)
		}
		if _, err := c.Nack(t.Context(), r.Handle, 0); driver.ReasonOf(err) != driver.LeaseExpired {
			t.Errorf("nack after ack: %v", err)
		}
		time.Sleep(time.Minute)
		if err := c.Ack(t.Context(), []driver.Handle{r.Handle})[0]; driver.ReasonOf(err) != driver.LeaseExpired {
			t.Errorf("ack after the deadline: %v", err)
		}
		nothing(t, c, 24*time.Hour)
	})
}

func TestTheSameHandleTwiceInOneGiveBackCountsOnce(t *testing.T) {
	p, c := open(t, New(NewBroker(Options{})), "group", "topic")
	mustSend(t, p, numbered("topic", 1)...)
	r := mustFetch(t, c, 1, time.Hour)[0]
	errs := c.GiveBack(t.Context(), []driver.Handle{r.Handle, r.Handle})
	if errs[0] != nil || driver.ReasonOf(errs[1]) != driver.LeaseExpired {
		t.Fatalf("errors: %v", errs)
	}
	if next := mustFetch(t, c, 1, time.Hour); next[0].Attempt != 1 {
		t.Errorf("attempt %d", next[0].Attempt)
	}
	nothing(t, c, 10*time.Millisecond)
}

func TestIdleConsumersCostNoGoroutine(t *testing.T) {
	d := New(NewBroker(Options{}))
	before := runtime.NumGoroutine()
	for range 200 {
		p, c := open(t, d, "group", "topic")
		mustSend(t, p, numbered("topic", 1)...)
		mustFetch(t, c, 1, time.Hour) // what is leased costs no timer either
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines for 200 producers and consumers", after-before)
	}
}

// In a synctest bubble time stands still while anything can run; with a timer armed the clock would jump to it, with none the bubble is stuck
// until the message arrives.
func TestAFetchWithNothingLeasedArmsNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := open(t, New(NewBroker(Options{})), "group", "topic")
		start := time.Now()
		got := make(chan struct{})
		go func() {
			defer close(got)
			if _, err := c.Fetch(context.Background(), driver.FetchRequest{MaxMessages: 1, MaxBytes: math.MaxInt64, Lease: time.Hour}); err != nil {
				t.Errorf("fetch: %v", err)
			}
		}()
		synctest.Wait()
		mustSend(t, p, numbered("topic", 1)...)
		<-got
		if time.Since(start) != 0 {
			t.Errorf("the clock moved by %v", time.Since(start))
		}
	})
}

func TestTwoSubscriptionsTakeTurns(t *testing.T) {
	d := New(NewBroker(Options{}))
	p, _ := open(t, d, "other", "one")
	mustSend(t, p, numbered("one", 50)...)
	mustSend(t, p, numbered("two", 50)...)
	c := join(t, d, "group", "one", "two")
	seen := map[string]int{}
	for range 20 {
		seen[mustFetch(t, c, 1, time.Hour)[0].Topic]++
	}
	if seen["one"] != 10 || seen["two"] != 10 {
		t.Errorf("of 20 messages came %v", seen)
	}
}
