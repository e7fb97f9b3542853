// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

func TestAnOrderedPairHasOnePopAtATimeAndRepeatsTheNameOfOneWithoutAnAnswer(t *testing.T) {
	s, now := pairsOf(1), time.Now()
	s.ordered = true
	p := s.pairs[0]
	p.ready, p.width = true, popsAtOnce
	ask := func() *poll {
		t.Helper()
		made := s.plan(credit(256, 1<<30), time.Minute, now)
		if len(made) != 1 || made[0].attempt == "" || s.plan(credit(256, 1<<30), time.Minute, now) != nil {
			t.Fatalf("a plan of %d polls, %+v", len(made), made)
		}
		return made[0]
	}
	names := map[string]bool{}
	first := ask()
	names[first.attempt] = true
	for range 3 {
		s.landed(first, outcome{err: driver.ErrUnavailable}, now)
		now = now.Add(time.Minute)
		if again := ask(); again.attempt != first.attempt {
			t.Fatalf("the pop after one without an answer is called %q, want %q again", again.attempt, first.attempt)
		} else {
			first = again
		}
	}
	for _, o := range []outcome{{}, {more: true}, {err: driver.ErrUnavailable, code: wire.CodeSystemBusy}, {}} {
		s.landed(first, o, now)
		now = now.Add(time.Minute)
		if first = ask(); names[first.attempt] {
			t.Fatalf("the pop after an answer has the name of an earlier one")
		}
		names[first.attempt] = true
	}
}

func TestAQuestionBehindALostPopAsksUnderItsName(t *testing.T) {
	s, now := pairsOf(3), time.Now()
	s.ordered = true
	s.pairs[0].attempt = "lost"
	for _, m := range s.plan(credit(2, 1<<20), time.Minute, now) { // too little credit for a long poll on each
		if want := map[string]string{"b0": "lost"}[m.pair.broker]; m.kind != question || m.attempt != want {
			t.Errorf("a poll of kind %d under the name %q, want a question under %q", m.kind, m.attempt, want)
		}
	}
}

// orderedOn opens an ordered consumer on fakes.
func (f *fakeRocket) orderedOn(topic string) *consumer {
	f.t.Helper()
	c, err := f.driver.OpenConsumer(within(f.t, 10*time.Second), driver.ConsumerConfig{
		Connection: f.connection(), ClientID: "shop_billing_0f0e0d0c_ab12_1", Group: "g", Subscriptions: []driver.Subscription{{Topic: topic}}, StartFrom: driver.Earliest, Ordered: true,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { mustClose(f.t, c) })
	return c.(*consumer)
}

func TestAnOrderedPopWhoseConnectionBreaksIsAskedAgainByItsName(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere("orders", 1)
	b := f.popping()["a"]
	c := f.orderedOn("orders")
	names := make(chan string, 100)
	lost := false
	b.replying(func(cmd *wire.Command) (*wire.Command, bool) {
		if cmd.Code != codePop {
			return nil, false
		}
		if cmd.Fields["order"] != "true" || cmd.Fields["attemptId"] == "" {
			t.Errorf("a pop with %v", cmd.Fields)
		}
		names <- cmd.Fields["attemptId"]
		if lost {
			return nil, false
		}
		lost = true
		go f.brokers["a"].cut()
		return nil, true
	})
	b.put(3, "")
	got, err := c.Fetch(within(t, 10*time.Second), driver.FetchRequest{MaxMessages: 10, MaxBytes: math.MaxInt32, Lease: time.Minute})
	if err != nil || len(got) == 0 {
		t.Fatalf("%d messages, %v", len(got), err)
	}
	if first, second := <-names, <-names; first != second {
		t.Errorf("the second pop is called %q, the lost one was %q", second, first)
	}
}

func TestWhatIsInOneAnswerIsOneBatchInOrder(t *testing.T) {
	c := New(logr.Discard()).newConsumer(driver.ConsumerConfig{
		Connection: driver.Connection{NameServers: []string{"127.0.0.1:1"}, AllowAddress: func(string) error { return nil }},
		Group:      "g", Subscriptions: []driver.Subscription{{Topic: "a"}}, StartFrom: driver.Earliest, Ordered: true,
	})
	t.Cleanup(c.leaveCluster)
	var before uint64
	for range 2 {
		var msgs []*driver.Received
		for i := range 6 {
			msgs = append(msgs, &driver.Received{Queue: i % 2, Offset: int64(10 - i)})
		}
		c.batch(1, msgs)
		text := ""
		for _, m := range msgs {
			text += strconv.Itoa(m.Queue) + ":" + strconv.FormatInt(m.Offset, 10) + " "
			if m.Batch != msgs[0].Batch || m.Batch == before || m.Batch == 0 {
				t.Errorf("batch %d in the answer of batch %d after %d", m.Batch, msgs[0].Batch, before)
			}
		}
		if want := "0:6 0:8 0:10 1:5 1:7 1:9 "; text != want {
			t.Errorf("got %s, want %s", text, want)
		}
		before = msgs[0].Batch
	}
}

func TestWhatWasGivenBackIsTakenOffTheAttempts(t *testing.T) {
	c := New(logr.Discard()).newConsumer(driver.ConsumerConfig{
		Connection: driver.Connection{NameServers: []string{"127.0.0.1:1"}, AllowAddress: func(string) error { return nil }},
		Group:      "g", Subscriptions: []driver.Subscription{{Topic: "a"}}, StartFrom: driver.Earliest, Ordered: true,
	})
	t.Cleanup(c.leaveCluster)
	for _, offset := range []int64{4, 5, 5} {
		c.countReturned(&lease{source: 1, pop: wire.PopHandle{Broker: "b", Queue: 2, Offset: offset}})
	}
	got := func(queue int, offset int64, attempt int) int {
		m := &driver.Received{Broker: "b", Queue: queue, Offset: offset, Attempt: attempt}
		c.batch(1, []*driver.Received{m})
		return m.Attempt
	}
	for _, w := range []struct {
		queue              int
		offset             int64
		counted, delivered int
	}{{1, 5, 3, 3}, {2, 4, 2, 1}, {2, 4, 3, 2}, {2, 5, 4, 2}, {2, 5, 1, 1}, {2, 5, 2, 2}, {2, 4, 3, 3}, {2, 6, 2, 2}} {
		if n := got(w.queue, w.offset, w.counted); n != w.delivered {
			t.Errorf("queue %d offset %d, counted %d by the broker: attempt %d, want %d", w.queue, w.offset, w.counted, n, w.delivered)
		}
	}
	if n := len(c.state.returned); n != 0 {
		t.Errorf("%d are remembered although the queue has gone on", n)
	}
}
