// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package dedup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a Memory before a small broker that takes a second for each send.
type rig struct {
	*Memory
	mu        sync.Mutex
	stored    []string // bodies
	requests  int
	repeated  int
	forgotten int
	// refuse answers for a body; nil = stored.
	refuse func(body string) error
}

func newRig(t *testing.T, window time.Duration) *rig {
	g := &rig{}
	g.Memory = New(window, g.store, g)
	t.Cleanup(g.Close)
	return g
}

func (g *rig) store(ctx context.Context, _ string, msgs []*driver.Message) []driver.SendResult {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	var late error
	select {
	case <-timer.C:
	case <-ctx.Done():
		late = driver.Errorf(driver.Timeout, "", "no answer")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.requests++
	out := make([]driver.SendResult, len(msgs))
	for i, m := range msgs {
		out[i] = driver.SendResult{MessageID: m.ID, Err: late}
		if g.refuse != nil && late == nil {
			out[i].Err = g.refuse(string(m.Body))
		}
		if out[i].Err == nil {
			g.stored = append(g.stored, string(m.Body))
			out[i].Offset, out[i].RecallHandle = int64(len(g.stored)), "handle of "+m.ID
		}
	}
	return out
}

func (g *rig) Repeated(n int)  { g.mu.Lock(); g.repeated += n; g.mu.Unlock() }
func (g *rig) Forgotten(n int) { g.mu.Lock(); g.forgotten += n; g.mu.Unlock() }

func (g *rig) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.stored)
}

func msg(id, body string) *driver.Message { return &driver.Message{ID: id, Body: []byte(body)} }

// once sends messages whose ids are the caller's.
func (g *rig) once(ctx context.Context, topic string, msgs ...*driver.Message) []driver.SendResult {
	return g.Send(ctx, topic, msgs, slices.Repeat([]bool{true}, len(msgs)))
}

func wantOne(t *testing.T, what string, rs []driver.SendResult, handle string, reason driver.Reason) {
	t.Helper()
	if len(rs) != 1 {
		t.Fatalf("%s: %d results", what, len(rs))
	}
	if r := rs[0]; reason == "" && (r.Err != nil || r.RecallHandle != handle) || reason != "" && (r.Err == nil || driver.ReasonOf(r.Err) != reason) {
		t.Errorf("%s: %+v, want the handle %q, reason %q", what, r, handle, reason)
	}
}

func inTime(t *testing.T, fn func(*testing.T)) { t.Helper(); synctest.Test(t, fn) }

func TestARepetitionWithinTheWindowGetsTheFirstResultAndIsNotSent(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, time.Minute)
		first := g.once(t.Context(), "t", msg("a", "x"))
		wantOne(t, "the first", first, "handle of a", "")
		time.Sleep(58 * time.Second)
		again := g.once(t.Context(), "t", msg("a", "x"))
		if wantOne(t, "again", again, "handle of a", ""); again[0] != first[0] {
			t.Errorf("%+v, want %+v", again[0], first[0])
		}
		wantOne(t, "the same id in another topic", g.once(t.Context(), "other", msg("a", "x")), "handle of a", "")
		if n := g.count(); n != 2 {
			t.Errorf("%d were stored, want one in each topic", n)
		}
		time.Sleep(2 * time.Second) // the window counts from the first result
		wantOne(t, "after the window", g.once(t.Context(), "t", msg("a", "x")), "handle of a", "")
		if n := g.count(); n != 3 || g.repeated != 1 {
			t.Errorf("%d were stored and %d repeated after the window", n, g.repeated)
		}
	})
}

func TestARepetitionWhileTheFirstIsUnderWayWaitsAndSharesItsResult(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, time.Minute)
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { wantOne(t, "one of many", g.once(t.Context(), "t", msg("a", "x")), "handle of a", "") })
		}
		all.Wait()
		if n := g.count(); n != 1 {
			t.Errorf("%d were stored", n)
		}
		// One that cannot wait so long is told that the outcome is unknown.
		all.Go(func() { g.once(t.Context(), "t", msg("b", "x")) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		wantOne(t, "one with little time", g.once(ctx, "t", msg("b", "x")), "", driver.Timeout)
		all.Wait()
	})
}

func TestWhatFailedIsSentAgain(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, time.Minute)
		g.refuse = func(string) error { return driver.Errorf(driver.Unavailable, "", "away") }
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				wantOne(t, "while it is away", g.once(t.Context(), "t", msg("a", "x")), "", driver.Unavailable)
			})
		}
		all.Wait()
		if g.requests != 1 || g.Len() != 0 {
			t.Errorf("%d requests, %d remembered: those that came meanwhile share the failure", g.requests, g.Len())
		}
		g.refuse = nil
		wantOne(t, "when it is back", g.once(t.Context(), "t", msg("a", "x")), "handle of a", "")
		if n := g.count(); n != 1 {
			t.Errorf("%d were stored", n)
		}
	})
}

func TestTheSameIDWithOtherContentIsRefused(t *testing.T) {
	content := func(change func(*driver.Message)) *driver.Message {
		m := msg("a", "x")
		m.Tag, m.Keys, m.Properties, m.ShardingKey = "t", []string{"k", "l"}, map[string]string{"p": "q", "r": "s"}, "order"
		m.When.Delay = time.Second
		change(m)
		return m
	}
	for name, change := range map[string]func(*driver.Message){
		"another body":          func(m *driver.Message) { m.Body = []byte("y") },
		"another tag":           func(m *driver.Message) { m.Tag = "u" },
		"other keys":            func(m *driver.Message) { m.Keys = []string{"kl"} },
		"another property":      func(m *driver.Message) { m.Properties["p"] = "r" },
		"a property more":       func(m *driver.Message) { m.Properties["z"] = "z" },
		"another delay":         func(m *driver.Message) { m.When.Delay = time.Minute },
		"another time":          func(m *driver.Message) { m.When = driver.When{At: time.Unix(1e9, 0)} },
		"another sharding key":  func(m *driver.Message) { m.ShardingKey = "other" },
		"a byte moved to a tag": func(m *driver.Message) { m.Body, m.Tag = []byte{}, "xt" },
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, time.Minute)
				wantOne(t, "the first", g.once(t.Context(), "t", content(func(*driver.Message) {})), "handle of a", "")
				rs := g.once(t.Context(), "t", content(change))
				wantOne(t, "the other", rs, "", driver.InvalidMessage)
				var e *driver.Error
				if !errors.As(rs[0].Err, &e) || e.Field != "id" || !strings.Contains(e.Message, "other content") {
					t.Errorf("the error says %v", rs[0].Err)
				}
				wantOne(t, "the same again", g.once(t.Context(), "t", content(func(*driver.Message) {})), "handle of a", "")
				if g.count() != 1 {
					t.Errorf("%d were stored", g.count())
				}
			})
		})
	}
}

func TestOneCallMayHoldRepetitionsConflictsAndMessagesWithoutAnID(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, time.Minute)
		wantOne(t, "the first", g.once(t.Context(), "t", msg("old", "x")), "handle of old", "")
		keyed := msg("behind", "x")
		conflict := msg("old", "y")
		keyed.ShardingKey, conflict.ShardingKey = "key", "key"
		msgs := []*driver.Message{msg("new", "1"), msg("made-1", "2"), msg("new", "1"), msg("old", "x"), conflict, keyed, msg("made-2", "3")}
		rs := g.Send(t.Context(), "t", msgs, []bool{true, false, true, true, true, true, false})
		for i, want := range []string{"handle of new", "handle of made-1", "handle of new", "handle of old", "", "", "handle of made-2"} {
			if r := rs[i]; (r.Err == nil) != (want != "") || r.RecallHandle != want || r.MessageID != msgs[i].ID {
				t.Errorf("message %d: %+v, want the handle %q", i, r, want)
			}
		}
		if want := []string{"x", "1", "2", "3"}; !slices.Equal(g.stored, want) || g.requests != 2 {
			t.Errorf("stored %q in %d requests, want %q, in order and in one request", g.stored, g.requests, want)
		}
		if g.Len() != 2 {
			t.Errorf("%d ids are remembered, want those that callers chose", g.Len())
		}
	})
}

// TestASendGoesOnWhenItsCallerHasLeft: the answer was lost, the caller comes again, and gets it.
func TestASendGoesOnWhenItsCallerHasLeft(t *testing.T) {
	for name, leave := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"its time is over": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 100*time.Millisecond)
		},
		"it went away": func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(100*time.Millisecond, cancel)
			return ctx, cancel
		},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, time.Minute)
				ctx, cancel := leave(t.Context())
				defer cancel()
				began := time.Now()
				wantOne(t, "the first", g.once(ctx, "t", msg("a", "x")), "", driver.Timeout)
				if took := time.Since(began); took != 100*time.Millisecond {
					t.Errorf("it was answered after %s", took)
				}
				wantOne(t, "the second", g.once(t.Context(), "t", msg("a", "x")), "handle of a", "")
				if g.count() != 1 {
					t.Errorf("%d were stored", g.count())
				}
			})
		})
	}
}

func TestTooManyIDsAreForgottenFromTheOldestOn(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, time.Hour)
		g.maxIDs = 10
		for i := range 15 {
			g.once(t.Context(), "t", msg(fmt.Sprint(i), "x"))
		}
		if g.Len() != 10 || g.forgotten != 5 {
			t.Errorf("%d remembered, %d forgotten", g.Len(), g.forgotten)
		}
		g.once(t.Context(), "t", msg("14", "x"))
		g.once(t.Context(), "t", msg("0", "x"))
		if g.count() != 16 {
			t.Errorf("%d were stored, want the oldest one again and not the newest", g.count())
		}
		g.maxIDs, g.maxBytes = 1000, 10_000
		for i := range 100 {
			g.once(t.Context(), "t", msg(strings.Repeat("i", 100)+fmt.Sprint(i), "x"))
		}
		if g.bytes > 10_000 || g.Len() > 30 || g.Len() < 10 {
			t.Errorf("%d ids with %d bytes, the limit is 10,000", g.Len(), g.bytes)
		}
	})
}

func TestWhoSendsNothingMoreKeepsNothing(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, time.Minute)
		for i := range 1000 {
			g.once(t.Context(), "t", msg(fmt.Sprint(i), "x"))
			time.Sleep(time.Second)
		}
		if g.Len() > 31 {
			t.Errorf("%d ids are remembered, one in 2 s for a minute", g.Len())
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.entries) != 0 || g.bytes != 0 || g.timer != nil {
			t.Errorf("%d ids, %d bytes, timer %v after the window", len(g.entries), g.bytes, g.timer)
		}
	})
}

func TestTheWindowCanBeChanged(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, time.Hour)
		g.once(t.Context(), "t", msg("a", "x"))
		time.Sleep(10 * time.Second)
		g.SetWindow(5 * time.Second)
		if g.Len() != 0 {
			t.Errorf("%d ids after a shorter window", g.Len())
		}
		g.once(t.Context(), "t", msg("a", "x"))
		g.SetWindow(0)
		g.once(t.Context(), "t", msg("a", "x"))
		if g.count() != 3 || g.Len() != 0 {
			t.Errorf("%d stored, %d ids without a window", g.count(), g.Len())
		}
	})
}

func TestCloseWaitsForSendsAndRefusesMore(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, time.Minute)
		g.once(t.Context(), "t", msg("old", "x"))
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { g.once(ctx, "t", msg("a", "x")) })
		synctest.Wait()
		cancel() // its caller is gone, it goes on
		for range 2 {
			all.Go(g.Close)
		}
		all.Wait()
		if g.count() != 2 || g.Len() != 0 {
			t.Errorf("%d were stored when Close returned, %d are remembered", g.count(), g.Len())
		}
		wantOne(t, "after Close", g.once(t.Context(), "t", msg("b", "x")), "", driver.Closed)
		g.SetWindow(time.Hour)
	})
}

func sharded(id, body, shardingKey string) *driver.Message {
	m := msg(id, body)
	m.ShardingKey = shardingKey
	return m
}

// TestWhatIsSentBehindARepetitionUnderWayDoesNotOvertakeIt: the first call has the message and its caller has left; the second has it again, and one more.
func TestWhatIsSentBehindARepetitionUnderWayDoesNotOvertakeIt(t *testing.T) {
	for _, c := range []struct {
		name   string
		refuse func(string) error
		stored []string
		reason driver.Reason // of both messages of the second call with the key x
	}{
		{"it is stored", nil, []string{"other", "first", "second"}, ""},
		{"it fails", func(body string) error {
			if body == "first" {
				return driver.Errorf(driver.Unavailable, "", "away")
			}
			return nil
		}, []string{"other"}, driver.EarlierFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newRig(t, time.Minute)
				g.refuse = c.refuse
				go g.once(t.Context(), "t", sharded("other", "other", "y"), sharded("a", "first", "x"))
				time.Sleep(time.Millisecond)
				// The first one twice: it must not wait for itself.
				rs := g.once(t.Context(), "t", sharded("a", "first", "x"), sharded("b", "second", "x"), sharded("b", "second", "x"))
				for i, r := range rs[1:] {
					if c.reason == "" && r.Err != nil || c.reason != "" && driver.ReasonOf(r.Err) != c.reason {
						t.Errorf("message %d: %v, want reason %q", i+1, r.Err, c.reason)
					}
				}
				if !slices.Equal(g.stored, c.stored) {
					t.Errorf("stored %q, want %q", g.stored, c.stored)
				}
			})
		})
	}
}

func TestARecalledMessageCanBeSentAgainUnderItsID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, time.Minute)
		handle := g.once(t.Context(), "t", msg("a", "x"))[0].RecallHandle
		g.Forget([]string{"u", "t"}, "a", "another handle")
		g.once(t.Context(), "t", msg("a", "x"))
		if n := g.count(); n != 1 {
			t.Fatalf("stored %d times after another message was recalled", n)
		}
		g.Forget([]string{"u", "t"}, "a", handle)
		g.once(t.Context(), "t", msg("a", "x"))
		if n := g.count(); n != 2 {
			t.Errorf("stored %d times, want again after the recall", n)
		}
	})
}

// TestSendsWithoutACallerAreBounded: nothing else bounds them, their callers have left.
func TestSendsWithoutACallerAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, time.Minute)
		body := strings.Repeat("x", 1<<20)
		for i := range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			g.once(ctx, "t", msg(fmt.Sprint(i), body))
			cancel()
		}
		synctest.Wait()
		if n := g.Len(); n > MaxLeftBytes>>20 || n < MaxLeftBytes>>21 {
			t.Errorf("%d MiB are under way without a caller, the limit is %d MiB", n, MaxLeftBytes>>20)
		}
		time.Sleep(2 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		g.once(ctx, "t", msg("later", body))
		time.Sleep(2 * time.Second)
		if got := g.once(t.Context(), "t", msg("later", body)); got[0].Err != nil || g.repeated != 1 {
			t.Errorf("when they are done the next one is ended at once: %v, %d repetitions", got[0].Err, g.repeated)
		}
	})
}

func TestAShorterWindowEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, time.Hour)
		g.once(t.Context(), "t", msg("a", "x"))
		g.SetWindow(time.Minute)
		time.Sleep(2 * time.Minute)
		if n := g.Len(); n != 0 {
			t.Errorf("%d ids are remembered after a window that was made shorter", n)
		}
	})
}
