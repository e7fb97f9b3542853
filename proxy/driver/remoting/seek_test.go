// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"maps"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

func TestMarksAreReadAsTheyWereWrittenAndNothingElseIs(t *testing.T) {
	times := map[string]int64{"broker-b": 1795409694170, "broker-a": 1795409694166}
	text := formatMark(times)
	if text != "rm1:broker-a=1795409694166,broker-b=1795409694170" {
		t.Errorf("written as %q", text)
	}
	if got := parseMark(text); !maps.Equal(got, times) {
		t.Errorf("read as %v", got)
	}
	for mark, want := range map[string]map[string]int64{
		"": nil, "memory:7": nil, "broker-a=1": nil, formatMark(nil): {}, "rm1:": {}, "rm1:broker-a": {}, "rm1:=5": {}, "rm1:broker-a=x": {}, "rm1:broker-a=-5": {}, "rm1:broker-a=0": {},
		"rm1:broker-a=99999999999999999999": {}, "rm1:broker-a=9223372036854775807": {}, "rm1:broker-a=5,,broker-b=": {"broker-a": 5}, "rm1:a=b=5": {},
	} {
		if got := parseMark(mark); !maps.Equal(got, want) {
			t.Errorf("%q is read as %v, want %v", mark, got, want)
		}
	}
}

func TestAnOlderMarkChangesNothing(t *testing.T) {
	var s seekMarks
	if s.of("a") != 0 || s.text() != markPrefix {
		t.Errorf("without a seek: %d, %q", s.of("a"), s.text())
	}
	for _, c := range []struct {
		times  map[string]int64
		raised bool
		a, b   int64
	}{
		{nil, false, 0, 0}, {map[string]int64{"a": 10}, true, 10, 0}, {map[string]int64{"a": 9}, false, 10, 0}, {map[string]int64{"a": 10}, false, 10, 0},
		{map[string]int64{"a": 1, "b": 5}, true, 10, 5}, {map[string]int64{"a": 11, "b": 4}, true, 11, 5},
	} {
		if raised := s.raise(c.times); raised != c.raised || s.of("a") != c.a || s.of("b") != c.b {
			t.Errorf("after %v: raised %v, a %d, b %d", c.times, raised, s.of("a"), s.of("b"))
		}
	}
}

// TestWhatIsFromBeforeASeekIsToldByTheBrokersOwnTimes: by the pop's, and of a retry by its first pop's.
func TestWhatIsFromBeforeASeekIsToldByTheBrokersOwnTimes(t *testing.T) {
	c := &consumer{}
	c.marked.raise(map[string]int64{"a": 100})
	for _, x := range []struct {
		name   string
		broker string
		kind   wire.RetryKind
		popped int64
		first  string
		old    bool
	}{
		{"popped before", "a", wire.Normal, 99, "", true},
		{"popped then", "a", wire.Normal, 100, "", false},
		{"popped after", "a", wire.Normal, 101, "", false},
		{"a property that only looks like it", "a", wire.Normal, 101, "5", false},
		{"a retry of what was popped before", "a", wire.RetryV1, 200, "99", true},
		{"one of the newer kind", "a", wire.RetryV2, 200, "99", true},
		{"a retry of what was popped after", "a", wire.RetryV1, 200, "100", false},
		{"a retry that does not say", "a", wire.RetryV1, 200, "", false},
		{"a retry that says nonsense", "a", wire.RetryV1, 200, "x", false},
		{"of a broker without a mark", "b", wire.RetryV1, 1, "1", false},
	} {
		l := lease{pop: wire.PopHandle{Broker: x.broker, Kind: x.kind, PopTime: x.popped}}
		m := &wire.PoppedMessage{StoredMessage: wire.StoredMessage{Properties: map[string]string{propertyFirstPop: x.first}}}
		if got := c.outdated(&l, m); got != x.old {
			t.Errorf("%s: %v", x.name, got)
		}
	}
}

func TestABrokersTimeIsNeverTakenForLaterThanItIs(t *testing.T) {
	c := newClocks()
	now := time.Now()
	if _, known := c.atLeast("a", now); known {
		t.Error("a clock that nobody heard is known")
	}
	// The broker is an hour behind; it worked on the request somewhere in a second.
	c.heard("a", now.Add(-time.Hour).UnixMilli(), now, now.Add(time.Second))
	at, known := c.atLeast("a", now.Add(10*time.Second))
	if truth := now.Add(10*time.Second - time.Hour).UnixMilli(); !known || at > truth || at < truth-1100 {
		t.Errorf("%d ms off the latest that it can be", at-truth)
	}
}
