// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

var testMarks = marks("group", []string{"%RETRY%group", "orders", "payments"})

func someLeases() []lease {
	return []lease{
		{source: 0, pop: wire.PopHandle{Broker: "b"}},
		{source: 1, skew: -12, pop: wire.PopHandle{Start: 0, PopTime: 1795409694166, Invisible: 60_000, ReviveQueue: 3, Broker: "broker-a", Queue: 7, Offset: 31}},
		{source: 2, skew: 3_600_000, pop: wire.PopHandle{
			Start: math.MaxInt64 / 2, PopTime: 1 << 49, Invisible: 1 << 49, ReviveQueue: 999, Kind: wire.RetryV2, Broker: strings.Repeat("x", 255), Queue: 65535,
			Offset: math.MaxInt64/2 + maxAckDistance,
		}},
	}
}

func TestAHandleSaysTheLeaseAndIsShort(t *testing.T) {
	for _, l := range someLeases() {
		h := l.handle(testMarks)
		got, ok := parseHandle(h, testMarks)
		if !ok || got != l {
			t.Errorf("%+v became %+v, %v", l, got, ok)
		}
	}
	usual := someLeases()[1]
	if h := usual.handle(testMarks); len(h) > 60 {
		t.Errorf("a usual handle has %d bytes: %s", len(h), h)
	}
}

func TestAHandleOfAnotherGroupTopicOrSubscriptionIsRefused(t *testing.T) {
	for name, others := range map[string][]uint32{
		"another group":          marks("other", []string{"%RETRY%group", "orders", "payments"}),
		"topics in other places": marks("group", []string{"%RETRY%group", "payments", "orders"}),
		"fewer topics":           marks("group", []string{"%RETRY%group"}),
	} {
		for _, l := range someLeases()[1:] {
			if got, ok := parseHandle(l.handle(testMarks), others); ok {
				t.Errorf("%s: taken for %+v", name, got)
			}
		}
	}
}

func TestAChangedHandleIsRefused(t *testing.T) {
	l := someLeases()[1]
	h := string(l.handle(testMarks))
	const alphabet = "ABCabc019-_"
	for i := range h {
		for _, c := range alphabet {
			if changed := h[:i] + string(c) + h[i+1:]; changed != h {
				if _, ok := parseHandle(driver.Handle(changed), testMarks); ok {
					t.Errorf("byte %d changed to %q: still a handle", i, c)
				}
			}
		}
		if _, ok := parseHandle(driver.Handle(h[:i]), testMarks); ok {
			t.Errorf("cut at %d: still a handle", i)
		}
	}
}

func FuzzParseHandle(f *testing.F) {
	for _, l := range someLeases() {
		f.Add(string(l.handle(testMarks)))
	}
	f.Add("")
	f.Add(handlePrefix)
	f.Fuzz(func(t *testing.T, text string) {
		l, ok := parseHandle(driver.Handle(text), testMarks)
		if !ok {
			return
		}
		if l.source < 0 || l.source >= len(testMarks) || l.pop.Broker == "" || l.pop.Offset < l.pop.Start || l.pop.Queue < 0 {
			t.Fatalf("%q is taken for %+v", text, l)
		}
		if left := l.left(newClocks(), time.Now()); left > 0 != (l.expires() > time.Now().UnixMilli()+l.skew) && left.Abs() > time.Second {
			t.Fatalf("%+v has %v left", l, left)
		}
		if again, ok := parseHandle(l.handle(testMarks), testMarks); !ok || again != l {
			t.Fatalf("%+v became %+v, %v", l, again, ok)
		}
	})
}

// FuzzReadLease goes around the checksum, which random input does not pass.
func FuzzReadLease(f *testing.F) {
	f.Add([]byte{1, 0, 7, 3, 0, 31, 1, 1, 0, 'b'})
	f.Fuzz(func(t *testing.T, b []byte) {
		l, ok := readLease(b)
		if !ok || l.source >= len(testMarks) {
			return
		}
		again, ok := parseHandle(l.handle(testMarks), testMarks)
		if len(l.pop.Broker) < 256 && (!ok || again != l) {
			t.Fatalf("%+v became %+v, %v", l, again, ok)
		}
	})
}
