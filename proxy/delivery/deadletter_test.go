// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// exhaust makes n messages that have been delivered tries times already.
func (b *fakeBroker) exhaust(prefix string, n, tries int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.putLocked(prefix, n, 1, tries) // in one piece: a Fetch that waits takes what is there at once
}

func TestAMessageWithoutAttemptsLeftGoesToTheDeadLettersAndToNoReceiver(t *testing.T) {
	cases := []struct {
		name             string
		limit, delivered int
		dead             int
	}{
		{"the last attempt is delivered", 3, 2, 0},
		{"one more is not", 3, 3, 1},
		{"a limit of one means one delivery", 1, 1, 1},
		{"no limit means for ever", 0, 1000, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, Settings{MaxDeliveryAttempts: c.limit})
				r := g.attach(t, ReceiverOptions{})
				g.broker.exhaust("m", 1, c.delivered)
				want(t, "delivered", len(takeAll(r)), 1-c.dead)
				want(t, "dead letters", g.broker.counts().dead, c.dead)
				want(t, "observed", g.seen.ended(DeadLettered), c.dead)
			})
		})
	}
}

func TestASlowDeadLetterWriteStopsNobody(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 10, MaxDeliveryAttempts: 3, AckDeadline: 5 * time.Minute})
		var atOnce, most atomic.Int32
		g.broker.setOn(func(ctx context.Context, call string) error {
			if call != "DeadLetter" {
				return nil
			}
			most.Store(max(most.Load(), atOnce.Add(1)))
			defer atOnce.Add(-1)
			time.Sleep(20 * time.Second)
			return nil
		})
		g.broker.exhaust("poison", 10, 3)
		g.broker.put("good", 50, 1)
		r := g.attach(t, ReceiverOptions{})
		began := time.Now()
		for range 50 {
			g.ack(t, receive(t, r, 1)...)
		}
		want(t, "50 good messages took", time.Since(began), time.Duration(0))
		time.Sleep(2 * time.Minute)
		want(t, "dead letters at last", g.broker.counts().dead, 10)
		want(t, "writes at once", most.Load(), maxDiggers)
	})
}

func TestWhenTheDeadLetterWriteFailsTheOriginalIsKept(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxDeliveryAttempts: 3, AckDeadline: 30 * time.Second})
		var tries atomic.Int32
		down := true
		g.broker.setOn(func(_ context.Context, call string) error {
			if call == "DeadLetter" && down {
				tries.Add(1)
				return driver.ErrUnavailable
			}
			return nil
		})
		g.broker.exhaust("poison", 1, 3)
		r := g.attach(t, ReceiverOptions{})
		time.Sleep(29 * time.Second)
		synctest.Wait()
		if n := tries.Load(); n < 4 || n > 15 {
			t.Errorf("%d tries in 29 s, want some with back-off", n)
		}
		c := g.broker.counts()
		want(t, "still leased", c.leased, 1)
		want(t, "failures observed", g.seen.get(&g.seen.deadFailed), int(tries.Load()))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		g.broker.mu.Lock()
		down = false
		g.broker.mu.Unlock()
		time.Sleep(time.Minute)
		want(t, "dead letters once it works", g.broker.counts().dead, 1)
		want(t, "delivered", len(takeAll(r)), 0)
	})
}

func TestABrokenDeadLetterTopicNeverFillsTheWindow(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 5, MaxDeliveryAttempts: 1, AckDeadline: time.Minute})
		g.broker.setOn(func(_ context.Context, call string) error {
			if call == "DeadLetter" {
				return driver.ErrUnavailable
			}
			return nil
		})
		g.broker.exhaust("poison", 100, 1)
		g.broker.put("good", 20, 1)
		r := g.attach(t, ReceiverOptions{})
		for range 20 {
			g.ack(t, receive(t, r, 1)...)
		}
		n, _ := g.InFlight()
		if n > 10 {
			t.Errorf("%d in flight, at most 5 deliveries and 5 dead letters", n)
		}
	})
}

func TestDrainGivesDeadLettersBackThatWaitForTheirWrite(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxDeliveryAttempts: 1, AckDeadline: time.Minute})
		g.broker.setOn(func(_ context.Context, call string) error {
			if call == "DeadLetter" {
				time.Sleep(5 * time.Second)
			}
			return nil
		})
		g.broker.exhaust("poison", 10, 1)
		g.attach(t, ReceiverOptions{})
		synctest.Wait()
		report := g.Drain(t.Context())
		want(t, "in flight", report.InFlight, 10)
		want(t, "written ones", report.DeadLettered, maxDiggers)
		want(t, "given back", report.GivenBack, 10-maxDiggers)
		want(t, "left", report.LeftLeased, 0)
		want(t, "took", report.Took, 5*time.Second)
	})
}

func TestADeadLetterWriteThatFailsDuringADrainIsNotTriedAgain(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxDeliveryAttempts: 1, AckDeadline: time.Minute})
		g.broker.setOn(func(_ context.Context, call string) error {
			if call == "DeadLetter" {
				time.Sleep(5 * time.Second)
				return driver.ErrUnavailable
			}
			return nil
		})
		g.broker.exhaust("poison", 2, 1)
		g.attach(t, ReceiverOptions{})
		synctest.Wait()
		want(t, "report", g.Drain(t.Context()), DrainReport{InFlight: 2, GivenBack: 2, Took: 5 * time.Second})
	})
}
