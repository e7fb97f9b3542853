// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/ratelimit"
)

// receiveFor takes and acknowledges what comes within d, and answers how much that was.
func (g *rig) receiveFor(t *testing.T, r *Receiver, d time.Duration) (n int, bytes int64) {
	t.Helper()
	end := time.NewTimer(d)
	defer end.Stop()
	for {
		select {
		case <-r.Ready():
			ds := r.Take(0, 0)
			r.Written(ds)
			for _, x := range ds {
				bytes += x.Bytes()
			}
			n += len(ds)
			g.ack(t, ds...)
		case <-end.C:
			return n, bytes
		}
	}
}

func TestFetchingKeepsToTheRateInMessages(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{RateLimit: ratelimit.Rate{Messages: 50}})
		g.broker.put("m", 5000, 10)
		r := g.attach(t, ReceiverOptions{})
		n, _ := g.receiveFor(t, r, 20*time.Second)
		if err := g.Err(); err != nil {
			t.Errorf("a limit is no trouble, and Err is %v", err)
		}
		if n < 50+19*50 || n > 51+20*50 {
			t.Errorf("%d came in 20 s, want 50 and 50 a second", n)
		}
		g.Close()
		if g.broker.maxLeased > 50 {
			t.Errorf("%d were leased at a time: what waits for the rate must wait at the broker", g.broker.maxLeased)
		}
		if p := g.seen.paced; p < 15*time.Second || p > 20*time.Second {
			t.Errorf("the observer was told of %s", p)
		}
		if n := g.seen.get(&g.seen.fetchFailed); n != 0 {
			t.Errorf("%d failures: a limit is no trouble", n)
		}
	})
}

func TestFetchingKeepsToTheRateInBytesAndALargerMessageComesAllTheSame(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{RateLimit: ratelimit.Rate{Bytes: 10_000}})
		g.broker.put("small", 20, 1000)
		g.broker.put("large", 1, 50_000)
		g.broker.put("after", 100, 1000)
		r := g.attach(t, ReceiverOptions{})
		n, size := g.receiveFor(t, r, 30*time.Second)
		if size < 290_000 && n < 121 || size > 10_000*31+50_000 {
			t.Errorf("%d messages, %d bytes came in 30 s, want 10,000 bytes and 10,000 a second", n, size)
		}
		g.Close()
		if g.broker.acked["large-0"] != 1 {
			t.Error("a message of more than a second's worth did not come")
		}
	})
}

func TestMessagesThatWaitForTheRateExpireNowhere(t *testing.T) {
	inTime(t, func(t *testing.T) {
		// One message in a second, a lease of two: had they been fetched before their turn, nearly all would run out.
		g := newRig(t, Settings{AckDeadline: 2 * time.Second, RateLimit: ratelimit.Rate{Messages: 1}})
		g.broker.put("m", 60, 10)
		r := g.attach(t, ReceiverOptions{})
		if n, _ := g.receiveFor(t, r, time.Minute); n < 59 {
			t.Errorf("%d came in a minute", n)
		}
		g.Close()
		if n := g.seen.endings[Lapsed] + g.seen.endings[GivenBack]; n != 0 || g.seen.redelivered != 0 {
			t.Errorf("%d leases ran out or were given back, %d came again", n, g.seen.redelivered)
		}
	})
}

func TestAChangedRateCountsAtOnce(t *testing.T) {
	inTime(t, func(t *testing.T) {
		s := Settings{RateLimit: ratelimit.Rate{Bytes: 10}}
		g := newRig(t, s)
		g.broker.put("m", 2, 10_000) // the first one is 1,000 s worth
		r := g.attach(t, ReceiverOptions{})
		receive(t, r, 1)
		if ds := takeAll(r); len(ds) > 0 {
			t.Fatalf("%v came at once", ids(ds))
		}
		s.RateLimit.Bytes = 1 << 20
		g.SetSettings(s)
		began := time.Now()
		receive(t, r, 1)
		if took := time.Since(began); took > time.Second {
			t.Errorf("with a higher rate it came after %s", took)
		}
		g.SetSettings(Settings{})
		g.broker.put("more", 1000, 10_000)
		began = time.Now()
		g.receiveFor(t, r, time.Millisecond)
		g.Close()
		if n := len(g.broker.ready); n > 1000-256 {
			t.Errorf("without a limit %d are left after %s", n, time.Since(began))
		}
	})
}

// A change of the rate ends a wait for the rate, not one after a failure.
func TestAChangedRateDoesNotEndABackOff(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{RateLimit: ratelimit.Rate{Messages: 10}})
		g.broker.setOn(func(_ context.Context, call string) error {
			if call == "Fetch" {
				return driver.Errorf(driver.Unavailable, "", "away")
			}
			return nil
		})
		g.attach(t, ReceiverOptions{})
		time.Sleep(time.Minute)
		failed := g.seen.get(&g.seen.fetchFailed)
		for i := range 100 {
			g.SetSettings(Settings{RateLimit: ratelimit.Rate{Messages: 20 + i}})
			synctest.Wait()
		}
		if n := g.seen.get(&g.seen.fetchFailed); n > failed+1 {
			t.Errorf("100 changes made %d tries", n-failed)
		}
	})
}

func TestALimitedWindowThatNobodyReceivesFromHasNoGoroutine(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{RateLimit: ratelimit.Rate{Messages: 1}})
		g.broker.put("m", 10, 10)
		r := g.attach(t, ReceiverOptions{})
		receive(t, r, 1)
		r.Close()
		synctest.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.dispatching {
			t.Error("the dispatcher waits for the rate although nobody receives")
		}
	})
}
