// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"maps"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"
)

func contains(text, part string) bool { return strings.Contains(text, part) }

func TestParseProfileReadsWhatTheRuntimeWrites(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	for range 3 {
		started := make(chan struct{})
		go func() {
			pprof.SetGoroutineLabels(labelled(context.Background(), `odd "label" {}#7`))
			close(started)
			<-stop
		}()
		<-started
	}
	var text strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&text, 1); err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, g := range parseProfile([]byte(text.String())) {
		if g.label == `odd "label" {}#7` {
			count += g.count
			if !slices.ContainsFunc(g.stack, func(f string) bool { return contains(f, "TestParseProfileReadsWhatTheRuntimeWrites") }) {
				t.Errorf("stack %q", g.stack)
			}
		}
	}
	if count != 3 {
		t.Errorf("found %d of 3 goroutines in\n%s", count, text.String())
	}
}

// TestLeftoversHaveNames: what stays after a consumer is known by name, and nothing unexpected stays.
func TestLeftoversHaveNames(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	topic := h.NewTopic(t, 4)
	p := h.openProducer(t, h.producerConfig(topic))
	c := h.openConsumer(t, h.consumerConfig(h.NewGroup(t), topic))
	sendSome(t, p, topic, 8)
	acknowledge(t, c, receive(t, c, 8, time.Minute)...)
	if left := h.driver.Leftovers(); len(left) != 0 {
		t.Fatalf("clients that run count as left over: %v", left)
	}
	mustClose(t, c)
	mustClose(t, p)
	// Callbacks and connections end by themselves within moments.
	for limit := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := h.driver.Leftovers()
		delete(left, "statistics")
		for _, expected := range []string{"cleanExpiredMsg", "pull", "timer"} {
			delete(left, expected)
		}
		if len(left) == 0 {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("unexpected: %v", left)
		}
	}
	left := h.driver.Leftovers()
	if left["statistics"] < 10 || left["cleanExpiredMsg"] < 1 {
		t.Errorf("left %v: want at least 10 statistics goroutines and one clean-up (names: %v)", left, slices.Sorted(maps.Keys(left)))
	}
}
