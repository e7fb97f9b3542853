// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package retry

import (
	"math"
	"slices"
	"testing"
	"time"
)

func TestTheDelayFollowsTheAttempt(t *testing.T) {
	const s = time.Second
	cases := []struct {
		name string
		b    Backoff
		// want are the delays after deliveries 1, 2, ...
		want []time.Duration
	}{
		{"nothing is said", Backoff{}, []time.Duration{0, 0, 0}},
		{"doubled up to the cap", Backoff{Initial: s, Max: 10 * s, Multiplier: 2}, []time.Duration{s, 2 * s, 4 * s, 8 * s, 10 * s, 10 * s}},
		{"a cap that a step meets exactly", Backoff{Initial: s, Max: 4 * s, Multiplier: 2}, []time.Duration{s, 2 * s, 4 * s, 4 * s}},
		{"a multiplier of one is a constant", Backoff{Initial: 5 * s, Max: time.Hour, Multiplier: 1}, []time.Duration{5 * s, 5 * s, 5 * s}},
		{"a multiplier of zero counts as one", Backoff{Initial: 5 * s, Max: time.Hour}, []time.Duration{5 * s, 5 * s}},
		{"a first delay above the cap", Backoff{Initial: time.Hour, Max: s, Multiplier: 2}, []time.Duration{s, s}},
		{"without a cap it ends at the longest", Backoff{Initial: time.Hour, Multiplier: 10}, []time.Duration{time.Hour, MaxDelay, MaxDelay}},
		{"a negative first delay", Backoff{Initial: -s, Max: s, Multiplier: 2}, []time.Duration{0, 0}},
		{"a list, the last of which goes on", Backoff{Steps: []time.Duration{s, 30 * s, 5 * s}}, []time.Duration{s, 30 * s, 5 * s, 5 * s}},
		{"a list comes before the rest", Backoff{Initial: time.Hour, Steps: []time.Duration{0}}, []time.Duration{0, 0}},
		{"a list with what is out of range", Backoff{Steps: []time.Duration{-s, 100 * time.Hour}}, []time.Duration{0, MaxDelay}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var got []time.Duration
			for i := range c.want {
				got = append(got, c.b.After(i+1))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestAnyAttemptAndAnyNumbersStayInRange(t *testing.T) {
	for _, attempt := range []int{math.MinInt, -1, 0, 1, 63, 64, 65, 1000, math.MaxInt} {
		for _, b := range []Backoff{
			{}, {Initial: 1, Max: math.MaxInt64, Multiplier: math.MaxInt}, {Initial: math.MaxInt64, Max: math.MaxInt64, Multiplier: 2},
			{Initial: time.Second, Max: time.Minute, Multiplier: 3}, {Steps: []time.Duration{math.MaxInt64}}, {Initial: time.Second, Multiplier: 1},
		} {
			if d := b.After(attempt); d < 0 || d > MaxDelay {
				t.Errorf("%v after attempt %d: %v", b, attempt, d)
			}
		}
	}
	b := Backoff{Initial: time.Second, Max: time.Hour, Multiplier: 2}
	if b.After(0) != b.After(1) || b.After(-5) != b.After(1) {
		t.Error("an attempt below 1 does not count as the first")
	}
}
