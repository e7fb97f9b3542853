// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package batching

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func TestALoneMessageGoesAtOnceInItsCallersGoroutine(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true})
		stack := ""
		g.p.on = func(context.Context, []string) { stack = string(debug.Stack()) }
		msgs := messages("m", 1, 10)
		began := time.Now()
		wantStored(t, g.Send(t.Context(), "t", msgs), msgs)
		want(t, "took", time.Since(began), time.Second)
		if !strings.Contains(stack, t.Name()) {
			t.Errorf("the driver was called in another goroutine:\n%s", stack)
		}
	})
}

func TestWhatWaitsGoesNextTogetherInTheOrderOfItsCallers(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true, InAir: 1})
		var calls []*[]driver.SendResult
		for i := range 6 {
			calls = append(calls, g.begin(t.Context(), "t", messages(fmt.Sprint("c", i), 1+i%3, 10)))
		}
		g.wg.Wait()
		wantSizes(t, g.p.sent(), 1, 11)
		for i, rs := range calls {
			wantStored(t, *rs, messages(fmt.Sprint("c", i), 1+i%3, 10))
		}
		want(t, "stored", strings.Join(g.p.topicIDs("t"), " "), "c0-0 c1-0 c1-1 c2-0 c2-1 c2-2 c3-0 c4-0 c4-1 c5-0 c5-1 c5-2")
		want(t, "callers of the second request", g.seen.callers[1], 5)
	})
}

func TestRequestsUnderWayAreBoundedPerTopicAndTopicsDoNotWaitForEachOther(t *testing.T) {
	for _, inAir := range []int{1, 2, 5} {
		t.Run(fmt.Sprint(inAir, " in air"), func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, Settings{Enabled: true, InAir: inAir})
				began := time.Now()
				for i := range 50 {
					g.begin(t.Context(), "a", messages(fmt.Sprint("a", i), 1, 1))
				}
				b := messages("b", 1, 1)
				wantStored(t, g.Send(t.Context(), "b", b), b)
				want(t, "the other topic took", time.Since(began), time.Second)
				g.wg.Wait()
				want(t, "most at once", g.p.most, inAir)
				want(t, "stored", len(g.p.topicIDs("a")), 50)
			})
		})
	}
}

func TestAModerateNumberGoesInOneRequestAtATimeAndFewOrManyInTwo(t *testing.T) {
	for _, c := range []struct{ callers, most, mean int }{{3, 2, 1}, {40, 1, 15}, {200, 2, 50}} {
		t.Run(fmt.Sprint(c.callers, " callers"), func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, Settings{Enabled: true})
				g.p.limits = driver.BatchLimits{Messages: 1000, Bytes: 1 << 20}
				stop := false // read and written under g.p.mu
				for caller := range c.callers {
					g.wg.Go(func() {
						for i := 0; ; i++ {
							g.Send(t.Context(), "t", messages(fmt.Sprint(caller, "/", i), 1, 10))
							g.p.mu.Lock()
							if caller == 0 && i == 30 { // the average has settled
								g.p.most, g.p.requests = 0, nil
							}
							if caller == 0 && i == 60 && !stop {
								stop = true
								n := 0
								for _, ids := range g.p.requests {
									n += len(ids)
								}
								if mean := n / len(g.p.requests); g.p.most != c.most || mean < c.mean {
									t.Errorf("%d requests at once, want %d; %d messages each, want %d", g.p.most, c.most, mean, c.mean)
								}
							}
							ended := stop
							g.p.mu.Unlock()
							if ended {
								return
							}
						}
					})
				}
				g.wg.Wait()
			})
		})
	}
}

func TestAWholeRequestDoesNotWaitForASlotButTheRestDoes(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true, InAir: 1, FullInAir: 3})
		g.p.limits.Messages = 4
		began := time.Now()
		for i := range 16 { // one of its own, then three times four in two more slots and the first that is free, and three left over
			g.begin(t.Context(), "t", messages(fmt.Sprint("m", i), 1, 1))
		}
		g.wg.Wait()
		want(t, "most at once", g.p.most, 3)
		wantSizes(t, g.p.sent(), 1, 4, 4, 4, 3)
		want(t, "took", time.Since(began), 3*time.Second)
	})
}

func TestRequestsStayWithinTheDriversLimits(t *testing.T) {
	cases := []struct {
		name   string
		limits driver.BatchLimits
		calls  []int // sizes of the calls that wait, bodies of 100 bytes
		sizes  []int // of the requests after the first
	}{
		{"by count", driver.BatchLimits{Messages: 3, Bytes: 1 << 20}, []int{1, 1, 1, 1}, []int{3, 1}},
		{"by bytes", driver.BatchLimits{Messages: 100, Bytes: 250}, []int{1, 1, 1}, []int{2, 1}},
		{"a call that is larger is split", driver.BatchLimits{Messages: 4, Bytes: 1 << 20}, []int{10}, []int{4, 4, 2}},
		{"a split call's rest goes with the next one", driver.BatchLimits{Messages: 4, Bytes: 1 << 20}, []int{6, 1}, []int{4, 3}},
		{"a message above the limit goes alone", driver.BatchLimits{Messages: 4, Bytes: 50}, []int{2, 1}, []int{1, 1, 1}},
		{"no limits given means one at a time", driver.BatchLimits{}, []int{2}, []int{1, 1}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, Settings{Enabled: true, InAir: 1})
				g.p.limits = c.limits
				g.begin(t.Context(), "t", messages("first", 1, 1))
				var all []*[]driver.SendResult
				for i, n := range c.calls {
					all = append(all, g.begin(t.Context(), "t", messages(fmt.Sprint("c", i), n, 100)))
				}
				g.wg.Wait()
				wantSizes(t, g.p.sent()[1:], c.sizes...)
				for i, n := range c.calls {
					wantStored(t, *all[i], messages(fmt.Sprint("c", i), n, 100))
				}
			})
		})
	}
}

func TestADirectCallLargerThanARequestIsSplitInOrder(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true})
		g.p.limits.Messages = 4
		msgs := messages("m", 10, 1)
		wantStored(t, g.Send(t.Context(), "t", msgs), msgs)
		wantSizes(t, g.p.sent(), 4, 4, 2)
		want(t, "most at once", g.p.most, 1)
	})
}

func TestACallKeepsItsOrderWithSeveralRequestsInTheAir(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true, InAir: 4})
		g.p.limits.Messages = 3
		g.p.on = func(context.Context, []string) { time.Sleep(rand.N(time.Second)) }
		for range 4 {
			g.begin(t.Context(), "t", messages("x", 1, 1))
		}
		for i := range 10 {
			g.begin(t.Context(), "t", messages(fmt.Sprint("c", i), 10, 1))
		}
		g.wg.Wait()
		next := map[string]int{}
		for _, id := range g.p.topicIDs("t") {
			name, number, _ := strings.Cut(id, "-")
			if name != "x" {
				want(t, "next of "+name, number, fmt.Sprint(next[name]))
				next[name]++
			}
		}
		want(t, "callers", len(next), 10)
	})
}

func TestOneBadMessageFailsAlone(t *testing.T) {
	bad := func(reason driver.Reason) func([]string) error {
		return func(ids []string) error {
			if slices.Contains(ids, "c3-0") {
				return driver.Errorf(reason, "", "refused")
			}
			return nil
		}
	}
	cases := []struct {
		name   string
		reason driver.Reason
		stored int
	}{
		{"when the refusal is definite and for a message", driver.InvalidMessage, 10},
		{"not when the effect is unknown: a retry would duplicate", driver.Timeout, 1},
		{"not when the broker is away", driver.Unavailable, 1},
		{"not when it may be stored", driver.NotReplicated, 1},
		{"not when it is for the topic", driver.TopicNotFound, 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, Settings{Enabled: true, InAir: 1})
				g.p.refuse = bad(c.reason)
				var calls []*[]driver.SendResult
				g.begin(t.Context(), "t", messages("first", 1, 1))
				for i := range 10 {
					calls = append(calls, g.begin(t.Context(), "t", messages(fmt.Sprint("c", i), 1, 1)))
				}
				g.wg.Wait()
				wantReason(t, *calls[3], 1, c.reason)
				want(t, "stored", len(g.p.topicIDs("t")), c.stored)
				if c.stored == 1 {
					want(t, "requests", len(g.p.sent()), 2)
				}
			})
		})
	}
}

func TestResultsThatDifferPerMessageAreGivenAsTheyAre(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true})
		g.Queue.producer = mixed{g.p}
		rs := g.Send(t.Context(), "t", messages("m", 3, 1))
		want(t, "first", rs[0].Err, nil)
		wantReason(t, rs[1:2], 1, driver.InvalidMessage)
		want(t, "third", rs[2].Err, nil)
		want(t, "requests", g.seen.requests, 1)
	})
}

// mixed refuses each second message by itself.
type mixed struct{ *fakeProducer }

func (m mixed) Send(ctx context.Context, topic string, msgs []*driver.Message) []driver.SendResult {
	rs := m.store(topic, msgs, nil)
	for i := range rs {
		if i%2 == 1 {
			rs[i].Err = driver.Errorf(driver.InvalidMessage, "", "bad")
		}
	}
	return rs
}

func TestACallerWhoseTimeEndsGetsTimeoutAndItsUnsentMessagesAreRemoved(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true, InAir: 1})
		g.p.limits.Messages = 2
		first := g.begin(t.Context(), "t", messages("first", 1, 1))
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		began := time.Now()
		split := g.begin(ctx, "t", messages("split", 5, 1))         // its first two are under way when its time ends
		waits := g.begin(ctx, "t", messages("waits", 2, 1))         // nothing of it is
		after := g.begin(t.Context(), "t", messages("after", 1, 1)) // and it is not stopped by the others
		g.wg.Wait()
		wantStored(t, *first, messages("first", 1, 1))
		wantReason(t, *split, 5, driver.Timeout)
		wantReason(t, *waits, 2, driver.Timeout)
		wantStored(t, *after, messages("after", 1, 1))
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("took %s", took)
		}
		for _, id := range g.p.topicIDs("t") {
			if strings.HasPrefix(id, "waits") || id == "split-2" {
				t.Errorf("%s was sent after its caller had given up", id)
			}
		}
		want(t, "left in flight", g.InFlight(), 0)
		want(t, "waiting bytes", g.waitingBytes, 0)
	})
}

// Sequence of the accident: two callers' time ends at the same instant as a request. Its slot takes the next messages before the second caller
// has come to its own clean-up, and sends the rest of a call whose first part has just timed out.
func TestACallerWhoseTimeHasEndedIsNotInTheNextRequest(t *testing.T) {
	inTime(t, func(t *testing.T) {
		for range 200 {
			g := newRig(t, Settings{Enabled: true, InAir: 1})
			g.p.limits.Messages = 2
			g.begin(t.Context(), "t", messages("first", 1, 1))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			for i := range 5 {
				g.begin(ctx, "t", messages(fmt.Sprint("over", i), 3, 1))
				g.begin(t.Context(), "t", messages(fmt.Sprint("good", i), 1, 1))
			}
			g.wg.Wait()
			cancel()
			want(t, "stored", len(g.p.topicIDs("t")), 6)
		}
	})
}

func TestARequestWhoseCallersHaveAllLeftIsEnded(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true, InAir: 1})
		g.begin(t.Context(), "t", messages("first", 1, 1))
		ctx, cancel := context.WithCancel(t.Context())
		two := []*[]driver.SendResult{g.begin(ctx, "t", messages("a", 1, 1)), g.begin(ctx, "t", messages("b", 1, 1))}
		time.Sleep(1500 * time.Millisecond)
		cancel()
		g.wg.Wait()
		for _, rs := range two {
			wantReason(t, *rs, 1, driver.Timeout)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		want(t, "stored", len(g.p.topicIDs("t")), 1)
		want(t, "topics left", len(g.lines)+len(g.pins), 0)
	})
}

func TestACallerWithoutTimeLeftSendsNothing(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		wantReason(t, g.Send(ctx, "t", messages("m", 2, 1)), 2, driver.Timeout)
		want(t, "requests", len(g.p.sent()), 0)
	})
}

func TestTooMuchWaitingIsThrottledAndNamesTheLimit(t *testing.T) {
	cases := []struct {
		name string
		s    Settings
		text string
	}{
		{"in messages", Settings{Enabled: true, InAir: 1, MaxWaitingMessages: 5}, "max waiting messages) is 5"},
		{"in bytes", Settings{Enabled: true, InAir: 1, MaxWaitingBytes: 600}, "max waiting bytes) is 600"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, c.s)
				g.begin(t.Context(), "t", messages("first", 1, 100))
				for i := range 5 {
					g.begin(t.Context(), "t", messages(fmt.Sprint("c", i), 1, 100))
				}
				rs := g.Send(t.Context(), "t", messages("more", 2, 100))
				wantReason(t, rs, 2, driver.Throttled)
				if !strings.Contains(rs[0].Err.Error(), c.text) {
					t.Errorf("error %q does not name the limit", rs[0].Err)
				}
				want(t, "refused", g.seen.refused, 2)
				g.wg.Wait()
				want(t, "stored", len(g.p.topicIDs("t")), 6)
			})
		})
	}
}

func TestDisabledEachSendGoesStraightToTheDriver(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		g.p.limits.Messages = 2
		for i := range 5 {
			g.begin(t.Context(), "t", messages(fmt.Sprint("c", i), 3, 1))
		}
		g.wg.Wait()
		wantSizes(t, g.p.sent(), 3, 3, 3, 3, 3)
		want(t, "at once", g.p.most, 5)
		g.SetSettings(Settings{Enabled: true, InAir: 1})
		for i := range 5 {
			g.begin(t.Context(), "t", messages(fmt.Sprint("c", i), 1, 1))
		}
		g.wg.Wait()
		wantSizes(t, g.p.sent()[5:], 1, 2, 2)
	})
}

func TestAPanicOrABrokenAnswerOfTheDriverIsAnErrorOfThoseMessages(t *testing.T) {
	for _, enabled := range []bool{true, false} {
		t.Run(fmt.Sprint("batching ", enabled), func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, Settings{Enabled: enabled, InAir: 1})
				g.p.on = func(_ context.Context, ids []string) {
					if ids[0] == "boom-0" {
						time.Sleep(time.Second)
						panic("boom")
					}
				}
				boom := g.begin(t.Context(), "t", messages("boom", 2, 1))
				good := g.begin(t.Context(), "t", messages("good", 2, 1))
				g.wg.Wait()
				wantReason(t, *boom, 2, driver.Unavailable)
				wantStored(t, *good, messages("good", 2, 1))
				want(t, "panics", g.seen.panics, 1)
				g.p.short = true
				wantReason(t, g.Send(t.Context(), "t", messages("short", 2, 1)), 2, driver.Unavailable)
			})
		})
	}
}

func TestDrainWaitsForWhatIsUnderWay(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true, InAir: 1})
		g.p.limits.Messages = 2
		for i := range 5 {
			g.begin(t.Context(), "t", messages(fmt.Sprint("c", i), 1, 1))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		want(t, "a short one", g.Drain(ctx), DrainReport{InFlight: 5, Drained: 1, Left: 4, Took: 1500 * time.Millisecond})
		report := g.Drain(t.Context())
		want(t, "left after a long one", report.Left, 0)
		want(t, "stored", len(g.p.topicIDs("t")), 5)
		want(t, "an idle one", g.Drain(t.Context()), DrainReport{})
	})
}

// A call that took the client just before it was replaced was refused, although the new client was up: its sender saw UNAVAILABLE at a change of the
// driver.
func TestASendThatComesDuringADrainIsStored(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true, InAir: 1})
		for _, name := range []string{"first", "second"} {
			want(t, "before", g.Drain(t.Context()), DrainReport{})
			wantStored(t, g.Send(t.Context(), "t", messages(name, 1, 1)), messages(name, 1, 1))
		}
		g.Close()
		wantReason(t, g.Send(t.Context(), "t", messages("late", 1, 1)), 1, driver.Closed)
	})
}

// The second drain of two waits as the first one does.
func TestADrainWaitsForWhatCameAfterAnEarlierOne(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true, InAir: 1})
		g.Drain(t.Context())
		g.begin(t.Context(), "t", messages("m", 1, 1))
		want(t, "the second", g.Drain(t.Context()), DrainReport{InFlight: 1, Drained: 1, Took: time.Second})
	})
}

func TestCloseAnswersEveryCallerAndLeavesNothing(t *testing.T) {
	for _, enabled := range []bool{true, false} {
		t.Run(fmt.Sprint("batching ", enabled), func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, Settings{Enabled: enabled, InAir: 2})
				g.p.takes = time.Hour
				var calls []*[]driver.SendResult
				for i := range 6 {
					calls = append(calls, g.begin(t.Context(), "t", messages(fmt.Sprint("c", i), 1, 1)))
				}
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(g.Close)
				}
				wg.Wait()
				g.wg.Wait()
				for i, rs := range calls {
					if len(*rs) != 1 || (*rs)[0].Err == nil {
						t.Errorf("call %d: %v, want an error", i, *rs)
					}
				}
				wantReason(t, g.Send(t.Context(), "t", messages("late", 1, 1)), 1, driver.Closed)
				want(t, "in flight", g.InFlight(), 0)
				want(t, "topics", len(g.lines)+len(g.pins), 0)
			})
		})
	}
}

func TestAnEmptySendAnswersNothing(t *testing.T) {
	g := newRig(t, Settings{Enabled: true})
	want(t, "results", len(g.Send(t.Context(), "t", nil)), 0)
}

// TestModel_RandomCallers: every message has exactly one answer, what is answered as stored is stored once, and nothing is left.
func TestModel_RandomCallers(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, Settings{Enabled: true, MaxWaitingMessages: 200})
				g.p.limits = driver.BatchLimits{Messages: 16, Bytes: 2000}
				g.p.takes = 10 * time.Millisecond
				g.p.refuse = func(ids []string) error {
					g.wantReadyCounted(t)
					switch rand.IntN(30) {
					case 0:
						return driver.ErrUnavailable
					case 1:
						panic("now and then")
					}
					if slices.ContainsFunc(ids, func(id string) bool { return strings.HasPrefix(id, "bad") }) {
						return driver.Errorf(driver.InvalidMessage, "", "bad")
					}
					return nil
				}
				var mu sync.Mutex
				ok := map[string]bool{}
				for caller := range 40 {
					g.wg.Go(func() {
						rnd := rand.New(rand.NewPCG(seed, uint64(caller)))
						for i := range 60 {
							kind := "good"
							if rnd.IntN(20) == 0 {
								kind = "bad"
							}
							msgs := messages(fmt.Sprint(kind, caller, "/", i), 1+rnd.IntN(20), rnd.IntN(300))
							ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.IntN(200))*time.Millisecond)
							rs := g.Send(ctx, fmt.Sprint("t", rnd.IntN(2)), msgs)
							cancel()
							mu.Lock()
							for j, r := range rs {
								if r.MessageID != msgs[j].ID || errors.Is(r.Err, errUndecided) {
									t.Errorf("result %+v for %s", r, msgs[j].ID)
								}
								if r.Err == nil {
									ok[r.MessageID] = true
								}
							}
							mu.Unlock()
							time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
						}
					})
				}
				g.wg.Wait()
				time.Sleep(time.Second)
				synctest.Wait()
				stored := map[string]int{}
				for _, id := range append(g.p.topicIDs("t0"), g.p.topicIDs("t1")...) {
					stored[id]++
				}
				for id := range ok {
					if stored[id] != 1 || strings.HasPrefix(id, "bad") {
						t.Errorf("%s was answered OK and is stored %d times", id, stored[id])
					}
				}
				for id, n := range stored {
					if n != 1 {
						t.Errorf("%s is stored %d times", id, n)
					}
				}
				if len(ok) < 1000 {
					t.Errorf("only %d messages were stored", len(ok))
				}
				g.mu.Lock()
				want(t, "in flight, waiting, topics", g.inFlight+g.waiting+int(g.waitingBytes)+len(g.lines)+len(g.pins), 0)
				g.mu.Unlock()
				t.Logf("%d stored in %d requests, %d refused", len(stored), g.seen.requests, g.seen.refused)
			})
		})
	}
}

// wantReadyCounted recounts what is kept as a sum.
func (g *rig) wantReadyCounted(t *testing.T) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name, top := range g.lines {
		var n int
		var size int64
		for _, c := range top.calls {
			if c.inAir {
				continue
			}
			for _, m := range c.msgs[c.next:] {
				n, size = n+1, size+m.Bytes()
			}
		}
		if n != top.ready || size != top.readyBytes {
			t.Errorf("line %v: %d messages of %d bytes can go, counted are %d and %d", name, n, size, top.ready, top.readyBytes)
		}
	}
}

// BenchmarkSendIdle is what a lone message pays for the queue.
func BenchmarkSendIdle(b *testing.B) {
	q := NewQueue(instant{}, Options{Settings: Settings{Enabled: true}})
	defer q.Close()
	msgs := messages("m", 1, 100)
	b.ReportAllocs()
	for b.Loop() {
		q.Send(b.Context(), "t", msgs)
	}
}

// BenchmarkSend64 is 64 callers with one message each.
func BenchmarkSend64(b *testing.B) {
	q := NewQueue(instant{}, Options{Settings: Settings{Enabled: true}})
	defer q.Close()
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		msgs := messages("m", 1, 100)
		for pb.Next() {
			q.Send(b.Context(), "t", msgs)
		}
	})
}

type instant struct{}

func (instant) Send(_ context.Context, _ string, msgs []*driver.Message) []driver.SendResult {
	return make([]driver.SendResult, len(msgs))
}
func (instant) Recall(context.Context, string) (string, error) { return "", nil }
func (instant) Lane(string, string) int                        { return 0 }
func (instant) Limits() driver.BatchLimits                     { return driver.BatchLimits{Messages: 32, Bytes: 1 << 20} }
func (instant) Err() error                                     { return nil }
func (instant) Close(context.Context) error                    { return nil }
