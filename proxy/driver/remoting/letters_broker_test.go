// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"strings"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/deadletter"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// TestTheRightsToReadTwoTopicsAreAllThatARedriveNeedsBeside: a broker with ACL 2.0, whose index, offsets and retry topics have rules of their own. The
// index wants a right to the retry topic as a topic, which the right to the group does not imply.
func TestTheRightsToReadTwoTopicsAreAllThatARedriveNeedsBeside(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	t.Parallel()
	topic, group := h.NewTopic(t, 1), h.NewGroup(t)
	p := h.openProducer(t, h.producerConfig(topic))
	open := func(name string, topics ...string) driver.Consumer {
		cfg := h.consumerConfig(group, topic)
		cfg.Connection.Credentials = h.newUser(t, name+topic, rocketmq.Rights{Subscribe: topics, Groups: []string{group}})
		return h.openConsumer(t, cfg)
	}
	without := open("without_", topic)
	send(t, p, topic, 3)
	for _, r := range receive(t, without, 3, time.Minute) {
		if err := without.DeadLetter(t.Context(), r, "test"); err != nil {
			t.Fatal(err)
		}
	}
	box := without.(driver.DeadLetters)
	eventually(t, 10*time.Second, func() error {
		_, err := deadletter.List(t.Context(), box, deadletter.Query{Limit: 10, MaxBytes: 1 << 20})
		if driver.ReasonOf(err) != driver.Unauthorized || !strings.Contains(err.Error(), "%DLQ%"+group) {
			return driver.Errorf(driver.Unavailable, "", "without the right: %v", err)
		}
		return nil
	})
	_, err := deadletter.Redrive(t.Context(), box, deadletter.Order{Limit: 10})
	wantReason(t, "Redrive", err, driver.Unauthorized)
	mustClose(t, without)

	with := open("with_", topic, driver.DeadLetterTopic(group), wire.RetryTopic(group))
	box = with.(driver.DeadLetters)
	page, err := deadletter.List(t.Context(), box, deadletter.Query{Limit: 10, MaxBytes: 1 << 20})
	if err != nil || len(page.Letters) != 3 {
		t.Fatalf("list: %+v, %v", page, err)
	}
	one := deadletter.Order{Limit: 10, Selection: deadletter.Selection{IDs: []string{page.Letters[1].ID}}}
	for _, want := range []int{1, 0} {
		if got, err := deadletter.Redrive(t.Context(), box, one); err != nil || got.Redriven != want || got.Problem != "" {
			t.Fatalf("redrive one: %+v, %v, want %d", got, err, want)
		}
	}
	if got, err := deadletter.Redrive(t.Context(), box, deadletter.Order{Limit: 10}); err != nil || got.Redriven != 2 || got.Left != 0 || got.Problem != "" {
		t.Fatalf("redrive all: %+v, %v", got, err)
	}
	came := receive(t, with, 3, time.Minute)
	for _, r := range came {
		if r.Attempt != 1 || r.Topic != topic {
			t.Errorf("%s came as attempt %d of %q", r.ID, r.Attempt, r.Topic)
		}
	}
	acknowledge(t, with, came...)
}

// TestARedrivenMessageThatFailsHoldsUpNoOther: they are popped in order, and one that was nacked with a delay would otherwise stand in front of the rest.
func TestARedrivenMessageThatFailsHoldsUpNoOther(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	t.Parallel()
	const n, delay = 40, 8 * time.Second // more than one pop brings
	topic, group := h.NewTopic(t, 1), h.NewGroup(t)
	p, c := h.openProducer(t, h.producerConfig(topic)), h.openConsumer(t, h.consumerConfig(group, topic))
	sent := idsOfResults(send(t, p, topic, n))
	for _, r := range receive(t, c, n, time.Minute) {
		if err := c.DeadLetter(t.Context(), r, "test"); err != nil {
			t.Fatal(err)
		}
	}
	for redriven := 0; redriven < n; {
		got, err := deadletter.Redrive(t.Context(), c, deadletter.Order{Limit: n})
		if err != nil {
			t.Fatal(err)
		}
		redriven += got.Redriven
	}
	first := receive(t, c, 1, time.Minute)[0]
	effective, err := c.Nack(t.Context(), first.Handle, delay)
	if err != nil || effective != delay {
		t.Fatalf("nack: %s, %v", effective, err)
	}
	began := time.Now()
	got := map[string]int{}
	for len(got) < n-1 {
		r := receive(t, c, 1, time.Minute)[0]
		if got[r.ID]++; r.ID == first.ID || r.Attempt != 1 {
			t.Fatalf("%s came %s after the nack of %s, attempt %d", r.ID, time.Since(began), first.ID, r.Attempt)
		}
		acknowledge(t, c, r)
	}
	t.Logf("the others came within %s", time.Since(began).Round(time.Millisecond))
	r := receive(t, c, 1, time.Minute)[0]
	if late := time.Since(began) - delay; r.ID != first.ID || r.Attempt != 2 || r.Topic != topic || late < -time.Second || late > 5*time.Second {
		t.Errorf("%s came as attempt %d of %q, %s late", r.ID, r.Attempt, r.Topic, late)
	}
	if r.Properties[driver.PropertyRedriven] == "" || string(r.Body) != string(first.Body) {
		t.Errorf("it came as %+v, and was %+v", r.Message, first.Message)
	}
	acknowledge(t, c, r)
	got[r.ID]++
	for id, n := range got {
		if !sent[id] || n != 1 {
			t.Errorf("%s came %d times", id, n)
		}
	}
	receiveNone(t, c, 3*time.Second, "everything is acknowledged")
}
