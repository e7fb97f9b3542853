// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/retry"
)

var steps = retry.Backoff{Steps: []time.Duration{time.Second, 7 * time.Second, 20 * time.Second}}

func TestANackWithoutADelayFollowsTheBackOffByAttempt(t *testing.T) {
	cases := []struct {
		name string
		b    retry.Backoff
		nack Nack
		want []time.Duration
	}{
		{"the list, step by step", steps, Nack{ByBackoff: true}, []time.Duration{time.Second, 7 * time.Second, 20 * time.Second, 20 * time.Second}},
		{"growing", retry.Backoff{Initial: time.Second, Max: 3 * time.Second, Multiplier: 2}, Nack{ByBackoff: true}, []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}},
		{"a delay of its own counts", steps, Nack{Delay: 3 * time.Second}, []time.Duration{3 * time.Second, 3 * time.Second}},
		{"a delay of zero is one", steps, Nack{}, []time.Duration{0, 0}},
		{"no back-off is at once", retry.Backoff{}, Nack{ByBackoff: true}, []time.Duration{0, 0}},
		{"what stands beside the back-off is not looked at", retry.Backoff{Steps: []time.Duration{0}}, Nack{ByBackoff: true, Delay: time.Hour}, []time.Duration{0}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				g := newRig(t, Settings{RetryBackoff: c.b})
				g.broker.put("m", 1, 1)
				r := g.attach(t, ReceiverOptions{})
				d := receive(t, r, 1)[0]
				for i, delay := range c.want {
					want(t, "attempt", d.Attempt, i+1)
					nack := c.nack
					nack.Token = d.Token
					answer := one(g.Nack(t.Context(), []Nack{nack}))
					wantOutcome(t, "nack", answer, OK)
					want(t, fmt.Sprintf("effective delay after attempt %d", d.Attempt), answer.EffectiveDelay, delay)
					began := time.Now()
					d = receive(t, r, 1)[0]
					want(t, "it came after", time.Since(began), delay)
				}
			})
		})
	}
}

func TestTheBackOffKnowsTheAttemptOnEveryHost(t *testing.T) {
	for _, apart := range []bool{false, true} {
		t.Run(fmt.Sprintf("the maker is away: %v", apart), func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				h := newTwoHosts(t, apart)
				h.a.SetSettings(Settings{AckDeadline: hostsDeadline, RetryBackoff: steps})
				h.b.SetSettings(Settings{AckDeadline: hostsDeadline, RetryBackoff: steps})
				wantOutcome(t, "the first nack", one(h.a.Nack(t.Context(), []Nack{{Token: h.token}})), OK)
				r, err := h.a.Attach(ReceiverOptions{MaxMessages: 1})
				must(t, err)
				defer r.Close()
				second := receive(t, r, 1)[0]
				want(t, "attempt", second.Attempt, 2)
				answer := one(h.b.Nack(t.Context(), []Nack{{Token: second.Token, ByBackoff: true}}))
				wantOutcome(t, "nack on the other host", answer, OK)
				want(t, "delay after attempt 2", answer.EffectiveDelay, 7*time.Second)
			})
		})
	}
}

func TestAChangedBackOffCountsForTheNextNack(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		g.broker.put("m", 1, 1)
		d := receive(t, g.attach(t, ReceiverOptions{}), 1)[0]
		g.SetSettings(Settings{RetryBackoff: steps})
		want(t, "delay", one(g.Nack(t.Context(), []Nack{{Token: d.Token, ByBackoff: true}})).EffectiveDelay, time.Second)
	})
}

func TestARedeliverySaysWhichItIsAndWhyTheLastOneFailed(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{AckDeadline: 10 * time.Second, MaxDeliveryAttempts: 4})
		g.broker.put("m", 1, 1)
		r := g.attach(t, ReceiverOptions{})
		expect := func(attempt, why string) Delivery {
			t.Helper()
			d := receive(t, r, 1)[0]
			want(t, "attempt in the properties", d.Properties[driver.PropertyRetryAttempt], attempt)
			want(t, "reason in the properties", d.Properties[driver.PropertyRetryReason], why)
			return d
		}
		nack := func(d Delivery, why string) {
			t.Helper()
			wantOutcome(t, "nack", one(g.Nack(t.Context(), []Nack{{Token: d.Token, Reason: why}})), OK)
		}
		nack(expect("", ""), "the warehouse is closed")
		nack(expect("2", "the warehouse is closed"), "")
		expect("3", "nacked without a reason")
		time.Sleep(10 * time.Second)
		nack(expect("4", "lease expired"), strings.Repeat("ü", MaxNackReasonBytes))
		want(t, "delivered after the last attempt", len(takeAll(r)), 0)
		want(t, "reasons of dead letters", len(g.broker.reasons), 1)
		want(t, "reason of the dead letter", g.broker.reasons[0],
			"delivered 4 times without an acknowledgement (maxDeliveryAttempts is 4); the last time: "+strings.Repeat("ü", MaxNackReasonBytes/2))
		want(t, "remembered in the end", len(g.reasons.last), 0)
	})
}

func TestWhatIsAcknowledgedOrGivenBackLeavesNoReason(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		g.broker.put("m", 2, 1)
		r := g.attach(t, ReceiverOptions{MaxMessages: 2})
		ds := receive(t, r, 2)
		for i, answer := range g.Nack(t.Context(), []Nack{{Token: ds[0].Token, Reason: "a"}, {Token: ds[1].Token, Reason: "b"}}) {
			wantOutcome(t, ds[i].Token, answer, OK)
		}
		again := receive(t, r, 2)
		g.ack(t, again[0])
		want(t, "remembered", len(g.reasons.last), 1)
		time.Sleep(20 * time.Second)
		r.Close()
		want(t, "remembered of what an application has", len(g.reasons.last), 1)
	})
}

func TestAnApplicationsOldRetryPropertiesAreNotBelieved(t *testing.T) {
	var r reasons
	m := &driver.Received{Message: driver.Message{ID: "a", Properties: map[string]string{driver.PropertyRetryReason: "old", "k": "v"}}, Attempt: 2}
	r.annotate(m)
	if _, there := m.Properties[driver.PropertyRetryReason]; there || m.Properties["k"] != "v" {
		t.Errorf("properties %v", m.Properties)
	}
}

func TestRememberedReasonsAreBoundedAndTheNewestStay(t *testing.T) {
	var r reasons
	message := func(i int) *driver.Received {
		return &driver.Received{Message: driver.Message{ID: fmt.Sprint(i), Topic: "t"}}
	}
	for i := range 3 * maxReasons {
		r.put(message(i), fmt.Sprint("why ", i))
		r.put(message(0), "again") // one that fails all the time must not be forgotten for its own older entries
	}
	if len(r.last) > maxReasons || len(r.order) > maxReasons {
		t.Errorf("%d reasons and %d names are kept, at most %d should be", len(r.last), len(r.order), maxReasons)
	}
	last := 3*maxReasons - 1
	got := []string{r.of(message(0)), r.of(message(last)), r.of(message(1))}
	if want := []string{"again", fmt.Sprint("why ", last), ""}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	r.forget(message(0))
	if r.of(message(0)) != "" {
		t.Error("a forgotten reason is still there")
	}
}
