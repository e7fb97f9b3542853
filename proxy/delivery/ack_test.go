// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func one(rs []Result) Result { return rs[0] }

// saying is hosts that give an error in place of answers.
type saying struct{ error }

func (s saying) Settle(context.Context, string, string, Settlement) ([]Result, error) {
	return nil, s.error
}

func hostB(o *Options) { o.Host, o.Incarnation = "host-b", "i" }

func TestTokensOfOthersAreJudged(t *testing.T) {
	otherKey, err := NewSealer(RandomKey())
	if err != nil {
		t.Fatal(err)
	}
	silent := func(o *Options) { o.Peers = saying{ErrNotAsked} }
	gone := func(o *Options) { o.Peers = saying{ErrPeerGone} }
	unsure := func(o *Options) { o.Peers = saying{context.DeadlineExceeded} }
	both := func(a, b func(*Options)) func(*Options) { return func(o *Options) { a(o); b(o) } }
	cases := []struct {
		name   string
		maker  func(*Options) // of the window that delivers
		judge  func(*Options) // of the window that is asked
		want   Outcome
		detail string
		driver int // calls of the asked window's driver
	}{
		{"of another Consumer is INVALID", func(o *Options) { o.ConsumerUID = "uid-2" }, nil, Invalid, "another Consumer", 0},
		{"of another Consumer is INVALID even where any host may ack", func(o *Options) { o.ConsumerUID = "uid-2" }, anyHost, Invalid, "another Consumer", 0},
		{"with an unknown key is EXPIRED", func(o *Options) { o.Sealer = otherKey }, nil, Expired, "key that is not in use", 0},
		{"of a host that cannot be asked is RETRY", hostB, silent, Retry, "delivered by host host-b; it cannot", 0},
		{"of another host is RETRY where nobody is asked", hostB, nil, Retry, "delivered by host host-b", 0},
		{"of a host that is gone is EXPIRED", hostB, gone, Expired, "on host host-b, is gone", 0},
		{"of a host that gave no answer is RETRY", hostB, unsure, Retry, "the effect is unknown: delivered by host host-b", 0},
		{"of an earlier process of this host is EXPIRED", func(o *Options) { o.Incarnation = "inc-0" }, silent, Expired, "an earlier process", 0},
		{"of a client that was replaced in this process is EXPIRED", nil, nil, Expired, "was replaced", 0},
		{"of any host goes to the driver when that can", hostB, anyHost, OK, "", 1},
		{"of a host that cannot be asked goes to the driver when that can", hostB, both(anyHost, silent), OK, "", 1},
		{"of a host that is gone goes to the driver when that can", hostB, both(anyHost, gone), OK, "", 1},
		{"of a host that gave no answer goes nowhere else", hostB, both(anyHost, unsure), Retry, "the effect is unknown", 0},
		{"of a replaced client goes to the driver when that can", nil, anyHost, OK, "", 1},
	}
	for _, c := range cases {
		t.Run("a token "+c.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				maker := newRig(t, Settings{}, optional(c.maker))
				asked := newRig(t, Settings{}, optional(c.judge))
				asked.consumer = maker.broker
				maker.broker.put("m", 2, 1)
				ds := receive(t, maker.attach(t, ReceiverOptions{}), 2)
				r := one(asked.Ack(t.Context(), tokens(ds[:1])))
				wantOutcome(t, "ack", r, c.want)
				if !strings.Contains(r.Detail, c.detail) {
					t.Errorf("detail %q, want something with %q", r.Detail, c.detail)
				}
				want(t, "driver calls", maker.broker.counts().ackCalls, c.driver)
				want(t, "acknowledged", maker.broker.counts().acked, c.driver)
				wantOutcome(t, "nack", one(asked.Nack(t.Context(), []Nack{{Token: ds[1].Token}})), c.want)
			})
		})
	}
}

// A deadline in a foreign token is told by another host's clock. Until it has passed by more than clocks may differ, the one who knows is asked.
func TestAForeignTokensDeadlineIsAFirstFilterOnly(t *testing.T) {
	maker := func(o *Options) { o.Peers = saying{ErrNotAsked} }
	cases := []struct {
		name   string
		judge  func(*Options)
		after  time.Duration
		want   Outcome
		driver int
	}{
		{"before it the driver decides", anyHost, 9 * time.Second, OK, 1},
		{"shortly after it the driver decides", anyHost, 10 * time.Second, Expired, 1},
		{"long after it nobody is asked", anyHost, 10*time.Second + clockTolerance, Expired, 0},
		{"shortly after it the host that made it decides", maker, 10 * time.Second, Retry, 0},
		{"long after it that host is not asked", maker, 10*time.Second + clockTolerance, Expired, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				maker := newRig(t, Settings{AckDeadline: 10 * time.Second}, hostB)
				asked := newRig(t, Settings{}, c.judge)
				asked.consumer = maker.broker
				maker.broker.put("m", 1, 1)
				ds := receive(t, maker.attach(t, ReceiverOptions{MaxMessages: 1}), 1)
				time.Sleep(c.after)
				wantOutcome(t, "ack", one(asked.Ack(t.Context(), tokens(ds))), c.want)
				want(t, "driver calls", maker.broker.counts().ackCalls, c.driver)
			})
		})
	}
}

// The maker's wall clock is 40 s ahead or behind: the broker's clock decides, not the difference.
func TestAnotherHostsClockDoesNotDecide(t *testing.T) {
	for name, skew := range map[string]time.Duration{"ahead": 40 * time.Second, "behind": -40 * time.Second} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				maker := newRig(t, Settings{AckDeadline: 20 * time.Second}, func(o *Options) { o.Host = "host-b" })
				asked := newRig(t, Settings{}, anyHost)
				asked.consumer = maker.broker
				maker.broker.put("m", 2, 1)
				ds := receive(t, maker.attach(t, ReceiverOptions{MaxMessages: 2}), 2)
				for i := range ds { // what a host whose clock differs would have sealed
					c, err := maker.sealer.openContent(ds[i].Token, maker.origin)
					must(t, err)
					c.deadline += int64(skew)
					ds[i].Token, err = maker.sealer.sealContent(maker.origin.prefix, &c)
					must(t, err)
				}
				wantOutcome(t, "ack inside the lease", one(asked.Ack(t.Context(), tokens(ds[:1]))), OK)
				time.Sleep(20 * time.Second)
				wantOutcome(t, "ack after the lease", one(asked.Ack(t.Context(), tokens(ds[1:]))), Expired)
			})
		})
	}
}

func anyHost(o *Options) { o.Capabilities.AckFromAnyHost = true }

func optional(f func(*Options)) func(*Options) {
	if f == nil {
		return func(*Options) {}
	}
	return f
}

func TestADeliveryOfAnotherHostCanBeModifiedAndAckedWhereTheDriverAllows(t *testing.T) {
	inTime(t, func(t *testing.T) {
		maker := newRig(t, Settings{AckDeadline: 10 * time.Second}, func(o *Options) { o.Host = "host-b"; anyHost(o) })
		here := newRig(t, Settings{}, anyHost)
		here.consumer = maker.broker
		maker.broker.put("m", 1, 1)
		d := receive(t, maker.attach(t, ReceiverOptions{}), 1)[0]
		r := one(here.Modify(t.Context(), []Modify{{d.Token, time.Minute}}))
		wantOutcome(t, "modify", r, OK)
		time.Sleep(30 * time.Second)
		wantOutcome(t, "ack of the old token after its deadline", one(here.Ack(t.Context(), []string{d.Token})), Expired)
		wantOutcome(t, "ack of the new token on the host that delivered", one(maker.Ack(t.Context(), []string{r.NewToken})), OK)
		want(t, "acknowledged", maker.broker.counts().acked, 1)
	})
}

func TestWhatIsNoTokenIsInvalidAndSpoilsNoOther(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		g.broker.put("m", 2, 1)
		ds := receive(t, g.attach(t, ReceiverOptions{}), 2)
		forged := []byte(ds[0].Token)
		forged[len(forged)-5] ^= 1
		given := []string{"", "x", ds[0].Token, string(forged), strings.Repeat("A", 100_000), ds[0].Token[:40], "ключ", ds[1].Token}
		wanted := []Outcome{Invalid, Invalid, OK, Invalid, Invalid, Invalid, Invalid, OK}
		for i, r := range g.Ack(t.Context(), given) {
			wantOutcome(t, fmt.Sprintf("token %d", i), r, wanted[i])
			want(t, "token in the result", r.Token, given[i])
		}
		want(t, "driver calls", g.broker.counts().ackCalls, 1)
	})
}

func TestARepeatedAckIsOKUntilTheDeadlineAndExpiredAfterIt(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{AckDeadline: 30 * time.Second})
		g.broker.put("m", 1, 1)
		ds := receive(t, g.attach(t, ReceiverOptions{}), 1)
		g.ack(t, ds...)
		for range 29 {
			time.Sleep(time.Second)
			g.ack(t, ds...)
		}
		want(t, "driver calls", g.broker.counts().ackCalls, 1)
		wantOutcome(t, "nack after the ack", one(g.Nack(t.Context(), []Nack{{Token: ds[0].Token}})), Expired)
		wantOutcome(t, "modify after the ack", one(g.Modify(t.Context(), []Modify{{Token: ds[0].Token}})), Expired)
		time.Sleep(time.Second)
		wantOutcome(t, "ack at the deadline", one(g.Ack(t.Context(), tokens(ds))), Expired)
	})
}

// The table is what remembers: a lapsed delivery must not look like an acknowledged one.
func TestAnExpiredDeliveryIsNeverAckedOK(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{AckDeadline: 30 * time.Second})
		g.broker.put("m", 1, 1)
		r := g.attach(t, ReceiverOptions{})
		ds := receive(t, r, 1)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		wantOutcome(t, "ack after the deadline", one(g.Ack(t.Context(), tokens(ds))), Expired)
		again := receive(t, r, 1)
		wantOutcome(t, "ack of the first token while it is out again", one(g.Ack(t.Context(), tokens(ds))), Expired)
		g.ack(t, again...)
	})
}

func TestANackBringsTheMessageAgainAfterItsDelayWithTheAttemptRaised(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{AckDeadline: time.Minute})
		g.broker.minNackDelay = 2 * time.Second
		g.broker.put("m", 1, 1)
		r := g.attach(t, ReceiverOptions{})
		d := receive(t, r, 1)[0]
		nack := []Nack{{Token: d.Token, Delay: time.Second}}
		res := one(g.Nack(t.Context(), nack))
		wantOutcome(t, "nack", res, OK)
		want(t, "effective delay", res.EffectiveDelay, 2*time.Second)
		n, _ := g.InFlight()
		want(t, "in flight", n, 0)

		again := one(g.Nack(t.Context(), nack))
		wantOutcome(t, "the same nack again", again, OK)
		want(t, "its effective delay", again.EffectiveDelay, 2*time.Second)
		wantOutcome(t, "ack after the nack", one(g.Ack(t.Context(), []string{d.Token})), Expired)
		want(t, "before the delay", len(takeAll(r)), 0)
		time.Sleep(2 * time.Second)
		next := receive(t, r, 1)[0]
		want(t, "attempt", next.Attempt, 2)
		g.ack(t, next)
		wantOutcome(t, "ack of the nacked token after the ack of the new one", one(g.Ack(t.Context(), []string{d.Token})), Expired)
		time.Sleep(time.Minute)
		synctest.Wait()
		g.mu.Lock()
		want(t, "void tokens remembered after their deadline", len(g.voids), 0)
		g.mu.Unlock()
	})
}

func TestDelaysAndLeasesAreClamped(t *testing.T) {
	cases := []struct {
		name        string
		given       time.Duration
		delay, base time.Duration
	}{
		{"a negative one", -time.Hour, 0, time.Second},
		{"zero", 0, 0, time.Second},
		{"one in range", 90 * time.Second, 90 * time.Second, 90 * time.Second},
		{"one that is too long", 100 * time.Hour, 2 * time.Hour, 10 * time.Minute},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, Settings{AckDeadline: time.Minute, MaxLease: 10 * time.Minute})
				g.broker.put("m", 2, 1)
				ds := receive(t, g.attach(t, ReceiverOptions{MaxMessages: 2}), 2)
				n := one(g.Nack(t.Context(), []Nack{{Token: ds[0].Token, Delay: c.given}}))
				want(t, "effective delay", n.EffectiveDelay, c.delay)
				m := one(g.Modify(t.Context(), []Modify{{ds[1].Token, c.given}}))
				want(t, "real lease", time.Until(m.Deadline), c.base)
			})
		})
	}
}

func TestTheDriversRealDeadlineIsAnswered(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{AckDeadline: 10 * time.Second})
		g.broker.maxLease = 20 * time.Second
		g.broker.put("m", 1, 1)
		r := g.attach(t, ReceiverOptions{})
		m := one(g.Modify(t.Context(), []Modify{{receive(t, r, 1)[0].Token, time.Hour}}))
		want(t, "deadline", time.Until(m.Deadline), 20*time.Second)
		time.Sleep(19 * time.Second)
		want(t, "within it", len(takeAll(r)), 0)
		time.Sleep(time.Second)
		want(t, "after it", len(takeAll(r)), 1)
		wantOutcome(t, "ack of the new token after it", one(g.Ack(t.Context(), []string{m.NewToken})), Expired)
	})
}

func TestAfterModifyOnlyTheNewTokenIsGood(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{AckDeadline: 30 * time.Second})
		g.broker.put("m", 1, 1)
		r := g.attach(t, ReceiverOptions{})
		old := receive(t, r, 1)[0].Token
		m := one(g.Modify(t.Context(), []Modify{{old, 2 * time.Minute}}))
		wantOutcome(t, "modify", m, OK)
		for name, res := range map[string]Result{
			"ack":    one(g.Ack(t.Context(), []string{old})),
			"nack":   one(g.Nack(t.Context(), []Nack{{Token: old}})),
			"modify": one(g.Modify(t.Context(), []Modify{{Token: old}})),
		} {
			wantOutcome(t, name+" with the old token", res, Expired)
			want(t, "detail", res.Detail, "replaced by a newer token")
		}
		time.Sleep(time.Minute)
		want(t, "came again within the new deadline", len(takeAll(r)), 0)
		wantOutcome(t, "ack with the new token", one(g.Ack(t.Context(), []string{m.NewToken})), OK)
		wantOutcome(t, "again", one(g.Ack(t.Context(), []string{m.NewToken})), OK)
	})
}

func TestTheOldTokenIsOKOnceTheDeliveryWasAckedWithTheNewOne(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{AckDeadline: time.Minute})
		g.broker.put("m", 1, 1)
		old := receive(t, g.attach(t, ReceiverOptions{}), 1)[0].Token
		m := one(g.Modify(t.Context(), []Modify{{old, time.Minute}}))
		wantOutcome(t, "new", one(g.Ack(t.Context(), []string{m.NewToken})), OK)
		wantOutcome(t, "old", one(g.Ack(t.Context(), []string{old})), OK)
		want(t, "driver calls", g.broker.counts().ackCalls, 1)
	})
}

// Sequence of the accident: lease 60 s, modified to 10 s, expires at 10 s; the first token's own deadline is still 50 s away and its delivery is
// not in flight, which must not be taken for "acknowledged".
func TestAShortenedDeliveryThatExpiredIsNotTakenForAcked(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{AckDeadline: time.Minute})
		g.broker.put("m", 1, 1)
		r := g.attach(t, ReceiverOptions{})
		old := receive(t, r, 1)[0].Token
		wantOutcome(t, "modify", one(g.Modify(t.Context(), []Modify{{old, 10 * time.Second}})), OK)
		time.Sleep(10 * time.Second)
		receive(t, r, 1)
		synctest.Wait()
		wantOutcome(t, "the first token", one(g.Ack(t.Context(), []string{old})), Expired)
	})
}

func TestConcurrentAcksOfOneTokenShareOneDriverCallAndItsAnswer(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want Outcome
	}{{"that succeeds", nil, OK}, {"that fails", driver.ErrUnavailable, Retry}, {"that comes too late", driver.ErrLeaseExpired, Expired}} {
		t.Run(c.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, Settings{})
				g.broker.put("m", 1, 1)
				ds := receive(t, g.attach(t, ReceiverOptions{}), 1)
				gate := make(chan struct{})
				g.broker.setOn(func(_ context.Context, call string) error {
					if call != "Ack" {
						return nil
					}
					<-gate
					return c.err
				})
				results := make([]Result, 20)
				var wg sync.WaitGroup
				for i := range results {
					wg.Go(func() { results[i] = one(g.Ack(t.Context(), tokens(ds))) })
				}
				synctest.Wait()
				close(gate)
				wg.Wait()
				for _, r := range results {
					wantOutcome(t, "ack", r, c.want)
				}
				want(t, "driver calls", g.broker.counts().ackCalls, 1)
			})
		})
	}
}

func TestACallerWhoGivesUpWhileAnotherAckIsUnderWayIsToldToRetry(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		g.broker.put("m", 1, 1)
		ds := receive(t, g.attach(t, ReceiverOptions{}), 1)
		gate := make(chan struct{})
		g.broker.setOn(func(_ context.Context, call string) error { <-gate; return nil })
		var wg sync.WaitGroup
		wg.Go(func() { g.ack(t, ds...) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantOutcome(t, "second", one(g.Ack(ctx, tokens(ds))), Retry)
		close(gate)
		wg.Wait()
	})
}

func TestAnAckWaitsForAModifyUnderWayAndIsThenJudgedAnew(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want Outcome
	}{{"its token was replaced", nil, Expired}, {"the modify failed and the token is still good", driver.ErrUnavailable, OK}} {
		t.Run(c.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, Settings{})
				g.broker.put("m", 1, 1)
				ds := receive(t, g.attach(t, ReceiverOptions{}), 1)
				gate := make(chan struct{})
				g.broker.setOn(func(_ context.Context, call string) error {
					if call != "Extend" {
						return nil
					}
					<-gate
					return c.err
				})
				var wg sync.WaitGroup
				wg.Go(func() { g.Modify(t.Context(), []Modify{{ds[0].Token, time.Minute}}) })
				synctest.Wait()
				wg.Go(func() { wantOutcome(t, "ack", one(g.Ack(t.Context(), tokens(ds))), c.want) })
				synctest.Wait()
				close(gate)
				wg.Wait()
			})
		})
	}
}

func TestAModifyThatIsUnderWayAtTheDeadlineDecides(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want Outcome
		left int
	}{{"when it succeeds the delivery lives on", nil, OK, 1}, {"when it fails the delivery has expired", driver.ErrUnavailable, Retry, 0}} {
		t.Run(c.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, Settings{AckDeadline: 10 * time.Second})
				g.broker.put("m", 1, 1)
				r := g.attach(t, ReceiverOptions{MaxMessages: 1})
				d := receive(t, r, 1)[0]
				g.broker.setOn(func(_ context.Context, call string) error {
					if call != "Extend" {
						return nil
					}
					// The driver moves the lease at 9 s, its answer comes at 15 s.
					if c.err == nil {
						g.broker.mu.Lock()
						for _, l := range g.broker.leases {
							l.until = l.until.Add(time.Hour)
						}
						g.broker.mu.Unlock()
					}
					time.Sleep(6 * time.Second)
					return c.err
				})
				time.Sleep(9 * time.Second)
				res := one(g.Modify(t.Context(), []Modify{{d.Token, time.Minute}}))
				wantOutcome(t, "modify", res, c.want)
				n, _ := g.InFlight()
				if c.left == 1 {
					want(t, "in flight", n, 1)
					wantOutcome(t, "ack", one(g.Ack(t.Context(), []string{res.NewToken})), OK)
					return
				}
				want(t, "attempt of the next delivery", receive(t, r, 1)[0].Attempt, 2)
			})
		})
	}
}

// Sequence of the accident: an ack waits for a modify; the deadline passes; the modify fails, and the delivery has expired. "Not in flight and not
// void" must not be read as acknowledged then.
func TestAnAckThatWaitedPastTheDeadlineIsExpired(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{AckDeadline: 10 * time.Second})
		g.broker.put("m", 1, 1)
		ds := receive(t, g.attach(t, ReceiverOptions{MaxMessages: 1}), 1)
		g.broker.setOn(func(_ context.Context, call string) error {
			if call != "Extend" {
				return nil
			}
			time.Sleep(15 * time.Second)
			return driver.ErrUnavailable
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			wantOutcome(t, "modify", one(g.Modify(t.Context(), []Modify{{ds[0].Token, time.Minute}})), Retry)
		})
		time.Sleep(time.Second)
		wantOutcome(t, "ack", one(g.Ack(t.Context(), tokens(ds))), Expired)
		wg.Wait()
		want(t, "acknowledged", g.broker.counts().acked, 0)
	})
}

func TestAnUnknownEffectIsRetryAndTheDeliveryStaysInFlight(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{AckDeadline: time.Minute})
		g.broker.put("m", 1, 1)
		ds := receive(t, g.attach(t, ReceiverOptions{}), 1)
		g.broker.setOn(func(context.Context, string) error {
			return driver.Errorf(driver.Timeout, "", "no answer from the broker")
		})
		for name, r := range map[string]Result{
			"ack":    one(g.Ack(t.Context(), tokens(ds))),
			"nack":   one(g.Nack(t.Context(), []Nack{{Token: ds[0].Token}})),
			"modify": one(g.Modify(t.Context(), []Modify{{ds[0].Token, time.Minute}})),
		} {
			wantOutcome(t, name, r, Retry)
			if !strings.Contains(r.Detail, "no answer from the broker") {
				t.Errorf("%s: detail %q does not say why", name, r.Detail)
			}
		}
		n, _ := g.InFlight()
		want(t, "in flight", n, 1)
		g.broker.setOn(nil)
		g.ack(t, ds...)
	})
}

func TestTheDriverSaysThatTheLeaseIsOver(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{AckDeadline: time.Minute})
		g.broker.put("m", 1, 1)
		r := g.attach(t, ReceiverOptions{MaxMessages: 1})
		ds := receive(t, r, 1)
		g.broker.mu.Lock()
		for _, l := range g.broker.leases {
			l.until = time.Now()
		}
		g.broker.mu.Unlock()
		wantOutcome(t, "ack", one(g.Ack(t.Context(), tokens(ds))), Expired)
		wantOutcome(t, "ack again: still not OK", one(g.Ack(t.Context(), tokens(ds))), Expired)
		g.ack(t, receive(t, r, 1)...)
	})
}

func TestManyTokensAreOneDriverCallAndNacksRunSideBySide(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		g.broker.put("m", 200, 1)
		ds := receive(t, g.attach(t, ReceiverOptions{}), 200)
		g.ack(t, ds[:100]...)
		want(t, "driver calls for 100 acks", g.broker.counts().ackCalls, 1)
		g.broker.setOn(func(context.Context, string) error { time.Sleep(time.Second); return nil })
		var nacks []Nack
		for _, d := range ds[100:] {
			nacks = append(nacks, Nack{Token: d.Token, Delay: time.Hour})
		}
		began := time.Now()
		for i, r := range g.Nack(t.Context(), nacks) {
			wantOutcome(t, nacks[i].Token, r, OK)
		}
		want(t, "100 nacks of 1 s, 8 side by side", time.Since(began), 13*time.Second)
	})
}

func TestRememberedVoidTokensAreBoundedAndForgettingIsNeverAFalseOK(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 1000, AckDeadline: time.Hour})
		r := g.attach(t, ReceiverOptions{})
		var first []Delivery
		for i := range maxVoids/1000 + 2 {
			g.broker.put(fmt.Sprint("m", i), 1000, 1)
			ds := receive(t, r, 1000)
			if first == nil {
				first = ds
			}
			r.mu().Lock()
			for _, d := range ds {
				g.endLocked(d.flight, voidNacked, g.now())
			}
			r.mu().Unlock()
			g.broker.mu.Lock()
			clear(g.broker.leases)
			g.broker.mu.Unlock()
			g.SetSettings(Settings{MaxInFlight: 1000, AckDeadline: time.Hour})
		}
		g.mu.Lock()
		want(t, "remembered", len(g.voids), maxVoids)
		g.mu.Unlock()
		for _, res := range g.Ack(t.Context(), tokens(first)) {
			wantOutcome(t, "ack of a void token", res, Expired)
		}
	})
}

func (r *Receiver) mu() *sync.Mutex { return &r.w.mu }

func TestAckedIdsCostNoMemory(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{AckDeadline: time.Hour})
		g.broker.put("m", 5000, 1)
		r := g.attach(t, ReceiverOptions{})
		for range 5000 / 250 {
			g.ack(t, receive(t, r, 250)...)
		}
		g.mu.Lock()
		want(t, "flights, voids and deadlines", len(g.flights)+len(g.voids)+len(g.heap), 0)
		g.mu.Unlock()
	})
}

func TestSameTokenTwiceInOneCall(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		g.broker.put("m", 3, 1)
		ds := receive(t, g.attach(t, ReceiverOptions{}), 3)
		for i, r := range g.Ack(t.Context(), []string{ds[0].Token, ds[0].Token}) {
			wantOutcome(t, fmt.Sprint("ack ", i), r, OK)
		}
		for i, r := range g.Nack(t.Context(), []Nack{{Token: ds[1].Token, Delay: time.Second}, {Token: ds[1].Token, Delay: time.Second}}) {
			wantOutcome(t, fmt.Sprint("nack ", i), r, OK)
			want(t, "effective delay", r.EffectiveDelay, time.Second)
		}
		rs := g.Modify(t.Context(), []Modify{{ds[2].Token, time.Minute}, {ds[2].Token, time.Minute}})
		wantOutcome(t, "first modify", rs[0], OK)
		wantOutcome(t, "second modify: the first has replaced its token", rs[1], Expired)
	})
}

func TestAnAckThatOvertakesWrittenCountsAndKeepsTheReceiverInOrder(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		g.broker.put("m", 2, 1)
		r := g.attach(t, ReceiverOptions{MaxMessages: 2})
		synctest.Wait()
		ds := r.Take(0, 0)
		g.ack(t, ds[0])
		r.Written(ds[:1])
		r.Unwritten(ds) // the first is acknowledged: only the second goes back
		want(t, "given back", g.broker.counts().givenBack, 1)
		want(t, "acknowledged", g.broker.counts().acked, 1)
		got := ids(takeAll(r))
		if !slices.Equal(got, []string{ds[1].ID}) {
			t.Errorf("then came %v, want the second again", got)
		}
	})
}

// Sequence of the accident: the stream breaks after the client has read a delivery and acks it by the unary call; the stream's clean-up gives
// the message back while the ack is on its way to the broker.
func TestADeliveryThatIsBeingAckedIsNotGivenBackByItsBrokenStream(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		g.broker.put("m", 1, 1)
		r := g.attach(t, ReceiverOptions{})
		synctest.Wait()
		ds := r.Take(0, 0)
		gate := make(chan struct{})
		g.broker.setOn(func(_ context.Context, call string) error {
			if call == "Ack" {
				<-gate
			}
			return nil
		})
		var wg sync.WaitGroup
		wg.Go(func() { g.ack(t, ds...) })
		synctest.Wait()
		r.Close()
		close(gate)
		wg.Wait()
		want(t, "given back", g.broker.counts().givenBack, 0)
		g.ack(t, ds...)
	})
}
