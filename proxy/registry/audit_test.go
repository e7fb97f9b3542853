// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"maps"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func objects(specs ...Spec) func(context.Context) (map[Key]struct{}, error) {
	return func(context.Context) (map[Key]struct{}, error) {
		keys := map[Key]struct{}{}
		for _, s := range specs {
			keys[s.Key] = struct{}{}
		}
		return keys, nil
	}
}

func (r *rig) audit(live func(context.Context) (map[Key]struct{}, error)) AuditReport {
	r.t.Helper()
	report, err := r.Audit(r.t.Context(), live)
	if err != nil {
		r.t.Fatalf("audit: %v", err)
	}
	synctest.Wait()
	return report
}

func TestAudit_FindsNothingWhereEverythingIsRight(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		p, c := producer("orders", "uid-1"), consumer("orders", "uid-2")
		r.acquire(p)
		r.acquire(c)
		for range 3 {
			report := r.audit(objects(p, c))
			if len(report.EntriesWithoutObject)+len(report.ObjectsWithoutEntry)+len(report.Goroutines) != 0 {
				t.Errorf("report %+v", report)
			}
		}
		if len(r.l.leaks) != 0 {
			t.Errorf("leaks %v", r.l.leaks)
		}
	})
}

func TestAudit_NotifiesObjectsWithoutAnEntry(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		p, c := producer("orders", "uid-1"), consumer("orders", "uid-2")
		r.acquire(p)
		report := r.audit(objects(p, c))
		if !slices.Equal(report.ObjectsWithoutEntry, []Key{c.Key}) || r.l.notices(c.Key) != 1 {
			t.Errorf("report %+v, notified %d times", report, r.l.notices(c.Key))
		}
	})
}

func TestAudit_AnEntryThatIsDrainingIsNoLeak(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := producer("orders", "uid-1")
		r.acquire(s)
		u := r.use(Producer, "orders")
		r.Release(s.Key, "deleted")
		if report := r.audit(objects()); len(report.EntriesWithoutObject) != 0 {
			t.Errorf("report %+v", report)
		}
		u.Release()
	})
}

func TestAudit_AListThatFailsRepairsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := producer("orders", "uid-1")
		r.acquire(s)
		away := errors.New("the API server is away")
		_, err := r.Audit(t.Context(), func(context.Context) (map[Key]struct{}, error) { return nil, away })
		if !errors.Is(err, away) {
			t.Errorf("err %v", err)
		}
		r.wantState(s.Key, Running)
		r.audit(objects(s)) // and the next audit is not refused
	})
}

func TestAudit_OnlyOneAtATime(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var second error
		r.audit(func(ctx context.Context) (map[Key]struct{}, error) {
			_, second = r.Audit(ctx, objects())
			return nil, nil
		})
		if !errors.Is(second, ErrAuditRunning) {
			t.Errorf("the second answers %v", second)
		}
	})
}

func TestAudit_DropsReceiptsThatNobodyWillAskFor(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		gone, dying := producer("gone", "uid-1"), producer("dying", "uid-2")
		for _, s := range []Spec{gone, dying} {
			r.acquire(s)
			r.Release(s.Key, "deleted")
		}
		synctest.Wait()
		r.audit(objects(dying))
		if _, receipt := r.Release(gone.Key, ""); receipt.InFlight != 0 {
			t.Error("the receipt of a gone object was kept")
		}
		if _, receipt := r.Release(dying.Key, ""); receipt.InFlight == 0 {
			t.Error("the receipt of a dying object was dropped")
		}
	})
}

// leakyLoop is what a library might leave behind.
func leakyLoop(stop <-chan struct{}) { <-stop }

func TestAudit_CountsGoroutinesOfClosedClientsInTwoAudits(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		stop := make(chan struct{})
		defer close(stop)
		s := producer("orders", "uid-1")
		r.w.onOpen = func(context.Context, Spec) error {
			go leakyLoop(stop)
			go leakyLoop(stop)
			return nil
		}
		r.acquire(s)
		for range 2 {
			if report := r.audit(objects(s)); len(report.Goroutines) != 0 {
				t.Errorf("goroutines of a running client are reported: %v", report.Goroutines)
			}
		}
		r.Release(s.Key, "deleted")
		synctest.Wait()
		if report := r.audit(objects()); len(report.Goroutines) != 0 {
			t.Errorf("seen once, reported already: %v", report.Goroutines)
		}
		for range 2 {
			report := r.audit(objects())
			if len(report.Goroutines) != 1 || !has(report.Goroutines, "registry.leakyLoop", 2) {
				t.Errorf("report %v", report.Goroutines)
			}
		}
		if n := r.l.leaksOf("Goroutine"); n != 2 {
			t.Errorf("counted %d leaks", n)
		}
		r.w.lefts = map[string]int{"registry.leakyLoop": 1}
		if report := r.audit(objects()); !has(report.Goroutines, "registry.leakyLoop", 1) || report.Leftovers["registry.leakyLoop"] != 1 {
			t.Errorf("with a leftover: %+v", report)
		}
	})
}

func has(counts map[string]int, part string, n int) bool {
	for function, count := range counts {
		if strings.Contains(function, part) && count == n {
			return true
		}
	}
	return false
}

func TestAudit_AGoroutineWithoutTheLabelIsNobodys(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		stop := make(chan struct{})
		defer close(stop)
		r.w.onOpen = func(context.Context, Spec) error {
			go func() {
				pprof.SetGoroutineLabels(context.Background())
				leakyLoop(stop)
			}()
			return nil
		}
		s := producer("shared", "uid-1")
		r.acquire(s)
		r.Release(s.Key, "deleted")
		synctest.Wait()
		r.audit(objects())
		if report := r.audit(objects()); len(report.Goroutines) != 0 {
			t.Errorf("report %v", report.Goroutines)
		}
	})
}

func TestParseGoroutines(t *testing.T) {
	const profile = "goroutine profile: total 7\n" +
		"3 @ 0x1 0x2\n# labels: {\"client\":\"a_1\", \"other\":\"x\"}\n#\t0x1\truntime.gopark+0x10\t/go/proc.go:1\n#\t0x2\tlib.(*Client).Start.func1+0x2c\t/lib/c.go:9\n" +
		"\n2 @ 0x1\n#\t0x1\tmain.main+0x1\t/m.go:1\n" +
		"\n1 @ 0x3\n# labels: {\"client\":\"a_1\"}\n#\t0x3\tlib.(*Client).Start.func1+0x30\t/lib/c.go:10\n" +
		"\n1 @ 0x3\n# labels: {\"broken\n#\t0x3\tlib.x+0x1\t/x.go:1\n"
	got := parseGoroutines(strings.NewReader(profile), func([]string) bool { return false })
	want := map[stray]int{{client: "a_1", function: "lib.(*Client).Start.func1"}: 4}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestParseGoroutinesLeavesOutWhatADriverExpects: a library that starts all its goroutines by one function cannot be told by that function.
func TestParseGoroutinesLeavesOutWhatADriverExpects(t *testing.T) {
	const profile = "2 @ 0x1 0x2\n# labels: {\"client\":\"a_1\"}\n#\t0x1\tlib.statistics.func1+0x10\t/lib/s.go:1\n#\t0x2\tlib.WithRecover+0x2c\t/lib/r.go:9\n" +
		"\n1 @ 0x3 0x2\n# labels: {\"client\":\"a_1\"}\n#\t0x3\tlib.poll+0x10\t/lib/p.go:1\n#\t0x2\tlib.WithRecover+0x2c\t/lib/r.go:9\n"
	got := parseGoroutines(strings.NewReader(profile), func(stack []string) bool {
		return slices.Equal(stack, []string{"lib.statistics.func1", "lib.WithRecover"})
	})
	if want := map[stray]int{{client: "a_1", function: "lib.WithRecover"}: 1}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSubtractLeftovers(t *testing.T) {
	leaked := map[string]int{"lib.a.func1": 3, "lib.a.func2": 2, "ours.b": 1}
	subtractLeftovers(leaked, map[string]int{"lib.a": 4, "never": 9})
	if sum := leaked["lib.a.func1"] + leaked["lib.a.func2"]; sum != 1 || leaked["ours.b"] != 1 {
		t.Errorf("left %v", leaked)
	}
}

func TestClientIDIsShortReadableAndUnique(t *testing.T) {
	s := producer(strings.Repeat("n", 253), "0123456789abcdef")
	got := clientID(s, "inc1", 42)
	if want := driver.ClientID("shop_" + strings.Repeat("n", 32) + "_01234567_inc1_42"); got != want {
		t.Errorf("got %s", got)
	}
}

func TestReasonOf(t *testing.T) {
	for want, err := range map[string]error{
		"":                     nil,
		"GroupInUse":           &GroupInUseError{Group: "g"},
		"APIServerUnavailable": &ConfirmError{Err: context.DeadlineExceeded},
		"ShuttingDown":         ErrGateClosed,
		"ObjectNotLive":        ErrNotLive,
		"TopicNotFound":        driver.Errorf(driver.TopicNotFound, "topics[0]", "no route"),
		"BrokerUnavailable":    errors.New("something"),
	} {
		if got := ReasonOf(err); got != want {
			t.Errorf("reason of %v is %q, want %q", err, got, want)
		}
	}
}

func TestBackoffStaysWithinItsBounds(t *testing.T) {
	for failures := 1; failures < 100; failures++ {
		seen := map[bool]bool{}
		for range 200 {
			d := backoff(failures)
			if d < firstBackoff || d > maxBackoff {
				t.Fatalf("after %d failures: %s", failures, d)
			}
			seen[d > firstBackoff<<min(failures-1, 6)] = true
		}
		if failures < 6 && len(seen) != 2 && failures > 1 {
			t.Errorf("no spread after %d failures", failures)
		}
	}
}

func TestSameSettings(t *testing.T) {
	base := consumer("orders", "uid-1")
	cases := []struct {
		name   string
		change func(s *Spec)
		want   bool
	}{
		{"another function is no difference", func(s *Spec) { s.Consumer.Config.Connection.AllowAddress = nil; s.Confirm = nil }, true},
		{"another generation is no difference", func(s *Spec) { s.Generation = 9 }, true},
		{"another drain time-out is no difference", func(s *Spec) { s.DrainTimeout = 1 }, true},
		{"another client id is no difference", func(s *Spec) { s.Consumer.Config.ClientID = "x" }, true},
		{"another driver is one", func(s *Spec) { s.Driver = "Other" }, false},
		{"another secret is one", func(s *Spec) { s.Consumer.Config.Connection.Credentials.SecretKey = "x" }, false},
		{"another filter is one", func(s *Spec) { s.Consumer.Config.Subscriptions = []driver.Subscription{{Topic: "orders", Tag: "a"}} }, false},
		{"another limit is one", func(s *Spec) { s.Consumer.MaxInFlight++ }, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			other := withClientID(base, "")
			c.change(&other)
			if got := sameSettings(base, other); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
