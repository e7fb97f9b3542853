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
			pprof.SetGoroutineLabels(labelled(`odd "label" {}#7`))
			close(started)
			<-stop
		}()
		<-started
	}
	text := goroutineProfile(t)
	count := 0
	for _, g := range parseProfile([]byte(text)) {
		if g.label == `odd "label" {}#7` {
			count += g.count
			if !slices.ContainsFunc(g.stack, func(f string) bool { return contains(f, "TestParseProfileReadsWhatTheRuntimeWrites") }) {
				t.Errorf("stack %q", g.stack)
			}
		}
	}
	if count != 3 {
		t.Errorf("found %d of 3 goroutines in\n%s", count, text)
	}
}

func goroutineProfile(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&text, 1); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// TestLeftoversHaveNames: what stays after a consumer is known by name, and nothing unexpected stays.
func TestLeftoversHaveNames(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	topic := h.NewTopic(t, 4)
	p := h.openProducer(t, h.producerConfig(topic))
	var c *consumer
	pprof.Do(t.Context(), pprof.Labels("opener", "test"), func(context.Context) {
		c = h.openConsumer(t, h.consumerConfig(h.NewGroup(t), topic))
	})
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
	if text := goroutineProfile(t); contains(text, `"opener":"test"`) {
		t.Errorf("what the library left behind carries the opener's label:\n%s", text)
	}
	if left["statistics"] < 10 || left["cleanExpiredMsg"] < 1 {
		t.Errorf("left %v: want at least 10 statistics goroutines and one clean-up (names: %v)", left, slices.Sorted(maps.Keys(left)))
	}
}

// TestTheAuditKnowsTheLibrarysLastingGoroutines: all of the library's goroutines begin in one function, primitive.WithRecover, so that the audit took
// the statistics of each Consumer that had been deleted for a leak of ours.
func TestTheAuditKnowsTheLibrarysLastingGoroutines(t *testing.T) {
	const library = "github.com/apache/rocketmq-client-go/v2/"
	for _, c := range []struct {
		name     string
		function string
		expected bool
	}{
		{"statistics run until the next month", library + "consumer.(*statsItemSet).init.func1", true},
		{"the clean-up of expired messages runs for the consume time-out", library + "consumer.(*pushConsumer).Start.func1.1", true},
		{"a pull that has not ended is a leak", library + "consumer.(*pushConsumer).pullMessage", false},
		{"a client that was not shut down is a leak", library + "internal.(*rmqClient).Start.func1.3", false},
		{"what nobody has seen before is a leak", library + "consumer.(*somethingNew).run", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			stack := []string{"time.Sleep", c.function, library + "primitive.WithRecover"}
			if got := new(Driver).ExpectsLeftover(stack); got != c.expected {
				t.Errorf("expected leftover: %t", got)
			}
		})
	}
}
