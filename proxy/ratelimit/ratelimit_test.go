// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package ratelimit

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestWithoutARateEverythingPasses(t *testing.T) {
	var b Bucket
	b.Take(0, 1<<30, 1<<60)
	if w := b.Wait(0); w != 0 {
		t.Errorf("wait %s", w)
	}
	if n, size, wait := b.Offer(0); n < 1<<30 || size < 1<<30 || wait != 0 {
		t.Errorf("offered %d messages, %d bytes, wait %s", n, size, wait)
	}
}

func TestASecondsWorthPassesAtOnceAndThenTheRateHolds(t *testing.T) {
	var b Bucket
	b.SetRate(0, Rate{Messages: 100})
	passed := 0
	for now := time.Duration(0); now < 10*time.Second; now += time.Millisecond {
		for b.Wait(now) == 0 {
			b.Take(now, 1, 1000)
			passed++
		}
		if now == 0 && passed != 100 {
			t.Fatalf("%d passed at once, want one second's worth", passed)
		}
	}
	if passed < 1095 || passed > 1105 {
		t.Errorf("%d passed in 10 s, want 100 and 100 a second", passed)
	}
}

func TestABatchOfMoreThanASecondsWorthPassesAndIsPaidBack(t *testing.T) {
	var b Bucket
	b.SetRate(0, Rate{Messages: 10, Bytes: 1000})
	if w := b.Wait(0); w != 0 {
		t.Fatalf("wait %s", w)
	}
	b.Take(0, 5, 6000)
	w := b.Wait(0)
	if w < 5*time.Second || w > 5*time.Second+time.Microsecond {
		t.Errorf("5,000 bytes too much at 1,000 a second: wait %s", w)
	}
	if b.Wait(w-time.Microsecond) == 0 || b.Wait(w) != 0 {
		t.Error("the wait that was told is not the wait")
	}
}

func TestSmallSendsCannotKeepALargeOneOut(t *testing.T) {
	var b Bucket
	b.SetRate(0, Rate{Messages: 100})
	large := 0
	for now := time.Duration(0); now < 20*time.Second; now += time.Millisecond {
		for b.Wait(now) == 0 { // always somebody with one message; every tenth try somebody with 500
			n := 1
			if rand.IntN(10) == 0 {
				n = 500
				large++
			}
			b.Take(now, n, 0)
		}
	}
	if large == 0 {
		t.Error("no large batch passed")
	}
}

func TestAnOfferIsWorthAsking(t *testing.T) {
	var b Bucket
	b.SetRate(0, Rate{Messages: 1000, Bytes: 10_000})
	if n, size, wait := b.Offer(0); n != 1000 || size != 10_000 || wait != 0 {
		t.Errorf("a full bucket offers %d, %d, wait %s", n, size, wait)
	}
	b.Take(0, 1000, 0)
	if _, _, wait := b.Offer(0); wait < 20*time.Millisecond || wait > 21*time.Millisecond {
		t.Errorf("an empty one: wait %s, want a fiftieth of a second", wait)
	}
	if n, _, wait := b.Offer(25 * time.Millisecond); n != 25 || wait != 0 {
		t.Errorf("after 25 ms: %d, wait %s", n, wait)
	}
	var slow Bucket
	slow.SetRate(0, Rate{Messages: 1})
	slow.Take(0, 1, 0)
	if n, _, wait := slow.Offer(0); wait < time.Second || wait > time.Second+time.Microsecond {
		t.Errorf("one a second: %d, wait %s", n, wait)
	}
	if n, _, wait := slow.Offer(time.Second + time.Microsecond); n != 1 || wait != 0 {
		t.Errorf("one a second, a second later: %d, wait %s", n, wait)
	}
}

func TestARateCanBeChanged(t *testing.T) {
	var b Bucket
	b.SetRate(0, Rate{Messages: 10})
	b.Take(0, 30, 0)
	if w := b.Wait(0); w < 2*time.Second {
		t.Errorf("20 owed at 10 a second: wait %s", w)
	}
	b.SetRate(0, Rate{Messages: 100})
	if w := b.Wait(0); w < 200*time.Millisecond || w > 201*time.Millisecond {
		t.Errorf("20 owed at 100 a second: wait %s", w)
	}
	b.SetRate(time.Hour, Rate{Messages: 5})
	if n, _, _ := b.Offer(time.Hour); n != 5 {
		t.Errorf("after a lower rate there are %d, want no more than a second's worth", n)
	}
	b.SetRate(time.Hour, Rate{})
	b.Take(time.Hour, 1000, 0)
	if w := b.Wait(time.Hour); w != 0 {
		t.Errorf("after the limit was taken away: wait %s", w)
	}
	b.SetRate(2*time.Hour, Rate{Messages: 7})
	if n, _, _ := b.Offer(2 * time.Hour); n != 7 {
		t.Errorf("a limit that is new begins with %d", n)
	}
}
