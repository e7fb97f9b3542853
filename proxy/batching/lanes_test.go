// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package batching

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// keyed are messages with that sharding key; their ids tell it.
func keyed(key, name string, n int) []*driver.Message {
	all := messages(key+"/"+name, n, 100)
	for _, m := range all {
		m.ShardingKey = key
	}
	return all
}

// keyIn is a key of that lane.
func keyIn(lane, queues int) string {
	for i := 0; ; i++ {
		if key := fmt.Sprint("key-", i); driver.Shard(key, queues) == lane {
			return key
		}
	}
}

// wantNothingLeft waits until all is done, and looks.
func (g *rig) wantNothingLeft(t *testing.T) {
	t.Helper()
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	want(t, "in flight, waiting, lines and pins", g.inFlight+g.waiting+int(g.waitingBytes)+len(g.lines)+len(g.pins), 0)
}

func TestEachLaneHasOneRequestInTheAirAndGathersItsOwn(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true, FullInAir: 8})
		a, b := keyIn(0, 4), keyIn(1, 4)
		var answers []*[]driver.SendResult
		for i := range 20 {
			answers = append(answers, g.begin(t.Context(), "t", keyed(a, fmt.Sprint(i), 2)), g.begin(t.Context(), "t", keyed(b, fmt.Sprint(i), 1)))
		}
		answers = append(answers, g.begin(t.Context(), "t", messages("plain", 1, 1)))
		wantSizes(t, g.p.sent(), 2, 1, 1) // one of each lane, and the plain one beside them
		time.Sleep(time.Second)
		synctest.Wait()
		got := g.p.sent()
		slices.SortFunc(got[3:], func(x, y []string) int { return len(y) - len(x) })
		wantSizes(t, got, 2, 1, 1, 38, 19)
		g.wg.Wait()
		for _, rs := range answers {
			for _, r := range *rs {
				if r.Err != nil {
					t.Error(r.Err)
				}
			}
		}
		g.wantNothingLeft(t)
	})
}

func TestALoneKeyedMessageGoesAtOnce(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true})
		began := time.Now()
		wantStored(t, g.Send(t.Context(), "t", keyed("a", "m", 1)), keyed("a", "m", 1))
		want(t, "time", time.Since(began), g.p.takes)
	})
}

func TestASendOfSeveralLanesHasItsAnswersInOrder(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true})
		var all []*driver.Message
		for i := range 30 {
			all = append(all, keyed(fmt.Sprint("k", i%7), fmt.Sprint(i), 1)...)
			all = append(all, messages(fmt.Sprint("plain", i), 1, 1)...)
		}
		began := time.Now()
		wantStored(t, g.Send(t.Context(), "t", all), all)
		want(t, "time", time.Since(began), g.p.takes) // the lanes go side by side
		if n := len(g.p.sent()); n > 5 {
			t.Errorf("%d requests for 4 lanes and the messages without a key", n)
		}
	})
}

func TestWithoutBatchingKeyedCallsStillFollowEachOther(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		for i := range 3 {
			g.begin(t.Context(), "t", keyed("a", fmt.Sprint(i), 2))
		}
		want(t, "requests at once", len(g.p.sent()), 1)
		g.wg.Wait()
		wantSizes(t, g.p.sent(), 2, 2, 2)
		want(t, "stored", strings.Join(g.p.topicIDs("t"), " "), "a/0-0 a/0-1 a/1-0 a/1-1 a/2-0 a/2-1")
	})
}

func TestAfterAFailedRequestTheRestOfItsKeyIsNotSent(t *testing.T) {
	for name, begin := range map[string]func(*rig){
		"a call that goes at once": func(*rig) {},
		"a call that waited":       func(g *rig) { g.begin(context.Background(), "t", keyed(keyIn(2, 4), "first", 1)) },
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, Settings{Enabled: true})
				g.p.limits.Messages = 4
				x, y := keyIn(2, 4), ""
				for i := 0; y == "" || y == x; i++ {
					if key := fmt.Sprint("other-", i); driver.Shard(key, 4) == 2 {
						y = key
					}
				}
				g.p.refuse = func(ids []string) error {
					if slices.ContainsFunc(ids, func(id string) bool { return strings.HasPrefix(id, x+"/bad") }) {
						return driver.ErrUnavailable
					}
					return nil
				}
				begin(g)
				all := slices.Concat(keyed(y, "a", 3), keyed(x, "bad", 1), keyed(x, "b", 4), keyed(y, "c", 2), keyed(x, "d", 1), keyed(y, "e", 1))
				rs := g.Send(t.Context(), "t", all)
				for i, m := range all {
					reason := driver.ReasonOf(rs[i].Err)
					switch {
					case i < 4 && reason != driver.Unavailable, // the request that failed
						i >= 4 && reason != driver.EarlierFailed: // y failed in it too
						t.Errorf("message %d (%s): %v", i, m.ID, rs[i].Err)
					}
				}
				// Sent again, they are stored, and so is a call in which the failed key comes after another one's first request.
				g.p.refuse = nil
				wantStored(t, g.Send(t.Context(), "t", all), all)
				g.wg.Wait()
				g.wantReadyCounted(t)
				g.wantNothingLeft(t)
			})
		})
	}
}

func TestOnlyTheFailedKeyIsHeldBackWhereTheOthersWereStored(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true})
		g.p.limits.Messages, g.p.queues = 2, 1
		g.p.refuse = func(ids []string) error {
			if slices.Contains(ids, "x/bad-0") {
				return driver.Errorf(driver.InvalidMessage, "", "bad") // which is narrowed down to it
			}
			return nil
		}
		g.begin(t.Context(), "t", keyed("z", "first", 1)) // so that the next one waits
		all := slices.Concat(keyed("x", "bad", 1), keyed("y", "a", 1), keyed("x", "b", 2), keyed("y", "c", 1), keyed("x", "d", 1), keyed("y", "e", 1))
		rs := g.Send(t.Context(), "t", all)
		for i, m := range all {
			switch {
			case i == 0 && driver.ReasonOf(rs[i].Err) != driver.InvalidMessage, i > 0 && m.ShardingKey == "x" && driver.ReasonOf(rs[i].Err) != driver.EarlierFailed,
				m.ShardingKey == "y" && rs[i].Err != nil:
				t.Errorf("message %d (%s): %v", i, m.ID, rs[i].Err)
			}
		}
		g.wantReadyCounted(t)
		g.wantNothingLeft(t)
	})
}

func TestARefusedRequestThatIsHalvedKeepsTheRestOfItsKeyBack(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true})
		g.p.refuse = func(ids []string) error {
			if slices.Contains(ids, "x/bad-0") {
				return driver.Errorf(driver.InvalidMessage, "", "bad")
			}
			return nil
		}
		all := slices.Concat(keyed("x", "a", 1), keyed("x", "bad", 1), keyed("x", "b", 4))
		for i, r := range g.Send(t.Context(), "t", all) {
			if reason := driver.ReasonOf(r.Err); i == 0 && r.Err != nil || i == 1 && reason != driver.InvalidMessage || i > 1 && reason != driver.EarlierFailed {
				t.Errorf("message %d: %v", i, r.Err)
			}
		}
		want(t, "stored", strings.Join(g.p.topicIDs("t"), " "), "x/a-0")
	})
}

func TestAKeyStaysInItsLineWhileItsMessagesAreUnderWayAlsoWhenItsLaneChanges(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true})
		g.begin(t.Context(), "t", keyed("a", "0", 1))
		for i := 1; i < 4; i++ {
			g.p.queues = 100 * i // another lane each time
			g.begin(t.Context(), "t", keyed("a", fmt.Sprint(i), 1))
		}
		want(t, "requests at once", len(g.p.sent()), 1)
		g.wg.Wait()
		want(t, "stored", strings.Join(g.p.topicIDs("t"), " "), "a/0-0 a/1-0 a/2-0 a/3-0")
		g.wantNothingLeft(t)
	})
}

func TestKeyedCallsAreThrottledAndGivenUpAsOthersAre(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{Enabled: true, MaxWaitingMessages: 3})
		g.begin(t.Context(), "t", keyed("a", "0", 1))
		ctx, cancel := context.WithTimeout(t.Context(), g.p.takes/2)
		defer cancel()
		left := g.begin(ctx, "t", keyed("a", "1", 2))
		wantReason(t, g.Send(t.Context(), "t", keyed("a", "2", 2)), 2, driver.Throttled)
		last := g.begin(t.Context(), "t", keyed("a", "3", 1))
		g.wg.Wait()
		wantReason(t, *left, 2, driver.Timeout)
		wantStored(t, *last, keyed("a", "3", 1))
		want(t, "stored", strings.Join(g.p.topicIDs("t"), " "), "a/0-0 a/3-0")
		g.wantNothingLeft(t)
	})
}

// TestModel_KeysKeepTheirOrder: one caller per key sends again what failed until it is stored; per key what is stored rises once repetitions are left out,
// although requests fail, callers give up, calls are larger than requests and the number of queues changes.
func TestModel_KeysKeepTheirOrder(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, Settings{Enabled: seed%2 == 0})
				g.p.limits, g.p.takes = driver.BatchLimits{Messages: 8, Bytes: 4000}, 10*time.Millisecond
				fails := rand.New(rand.NewPCG(seed, 1))
				g.p.refuse = func([]string) error {
					g.wantReadyCounted(t)
					switch g.p.mu.Lock(); fails.IntN(15) {
					case 0:
						g.p.mu.Unlock()
						return driver.ErrUnavailable
					case 1:
						g.p.queues = 1 + fails.IntN(8)
					}
					g.p.mu.Unlock()
					return nil
				}
				const callers, each = 24, 100
				for caller := range callers {
					g.wg.Go(func() {
						rnd := rand.New(rand.NewPCG(seed, uint64(100+caller)))
						for next := 0; next < each; {
							var msgs []*driver.Message
							for i := range 1 + rnd.IntN(20) {
								key := fmt.Sprint("k", caller)
								msgs = append(msgs, &driver.Message{ID: fmt.Sprintf("%s/%d", key, next+i), ShardingKey: key, Body: make([]byte, rnd.IntN(500))})
							}
							ctx, cancel := context.WithTimeout(t.Context(), time.Duration(20+rnd.IntN(2000))*time.Millisecond)
							for _, r := range g.Send(ctx, "t", msgs) {
								if r.Err != nil {
									break
								}
								next++
							}
							cancel()
						}
					})
				}
				g.wg.Wait()
				time.Sleep(time.Second) // what was given up is still under way
				synctest.Wait()
				highest := map[string]int{}
				for _, id := range g.p.topicIDs("t") {
					var n int
					key, number, _ := strings.Cut(id, "/")
					if _, err := fmt.Sscan(number, &n); err != nil {
						t.Fatal(err)
					}
					if n > highest[key] {
						t.Fatalf("%s comes after %d", id, highest[key]-1)
					}
					highest[key] = max(highest[key], n+1)
				}
				want(t, "keys", len(highest), callers)
				g.wantNothingLeft(t)
				t.Logf("%d requests", g.seen.requests)
			})
		})
	}
}

// BenchmarkSendIdleKeyed is what a lone message with a sharding key pays for the queue.
func BenchmarkSendIdleKeyed(b *testing.B) {
	q := NewQueue(instant{}, Options{Settings: Settings{Enabled: true}})
	defer q.Close()
	msgs := keyed("a", "m", 1)
	b.ReportAllocs()
	for b.Loop() {
		q.Send(b.Context(), "t", msgs)
	}
}
