// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"strconv"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// The traps of leases on a real broker, where code 0 says nothing.

// TestALongPollShowsTheBrokersTimeOfItsAnswer: if it were that of its question, leases would seem to end up to 5 s early.
func TestALongPollShowsTheBrokersTimeOfItsAnswer(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	t.Parallel()
	p, c, topic := h.stream(t, 1)
	c.forgetClocks(0)
	c.quiet()
	sent := make(chan struct{})
	time.AfterFunc(3*time.Second, func() {
		defer close(sent)
		send(t, p, topic, 1)
	})
	r := receive(t, c, 1, time.Minute)[0]
	<-sent // the message can be here before its sender has the answer
	// Broker and test share a clock. A busy machine may let the answer wait, but not for as long as the poll.
	now, known := c.clocks.broker(r.Broker, time.Now())
	if off := time.Duration(now-time.Now().UnixMilli()) * time.Millisecond; !known || off < -time.Second || off > clockSlack+time.Second {
		t.Errorf("after a poll of 3 s the broker's clock seems to be off by %v", off)
	}
	if left := time.Until(r.Deadline); left > time.Minute+time.Second || left < 58*time.Second {
		t.Errorf("a lease of a minute ends in %v", left)
	}
	acknowledge(t, c, r)
}

// forgetClocks makes c know nothing of brokers' clocks, and then believe that they are d earlier than they are, so that it asks where it would have refused.
func (c *consumer) forgetClocks(d time.Duration) {
	c.state.Lock()
	var brokers []string
	for _, p := range c.state.pairs {
		brokers = append(brokers, p.broker)
	}
	c.state.Unlock()
	c.clocks.mu.Lock()
	clear(c.clocks.brokers)
	c.clocks.mu.Unlock()
	now := time.Now()
	for _, broker := range brokers {
		if d > 0 {
			c.clocks.heard(broker, now.Add(-d).UnixMilli(), now, now)
		}
	}
}

// TestAnExtensionAfterTheEndIsUndone: the broker takes it, for in the first 2 s it has not delivered again, and keeps the message for the new time.
func TestAnExtensionAfterTheEndIsUndone(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	t.Parallel()
	p, c, topic := h.stream(t, 1)
	send(t, p, topic, 1)
	r := receive(t, c, 1, 2*time.Second)[0]
	time.Sleep(time.Until(r.Deadline) + 500*time.Millisecond)
	c.forgetClocks(time.Minute)
	_, _, err := c.Extend(within(t, 5*time.Second), r.Handle, time.Hour)
	wantReason(t, "an extension half a second after the end", err, driver.LeaseExpired)
	again := receive(t, c, 1, time.Minute)[0]
	if again.ID != r.ID || again.Attempt != 2 || time.Since(r.Deadline) > lateness {
		t.Errorf("message %s came %v after the end, attempt %d", again.ID, time.Since(r.Deadline), again.Attempt)
	}
	acknowledge(t, c, again)
}

// TestAStaleHandleIsRefusedWithoutAsking: the broker would say OK.
func TestAStaleHandleIsRefusedWithoutAsking(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	t.Parallel()
	p, c, topic := h.stream(t, 1)
	send(t, p, topic, 1)
	r := receive(t, c, 1, time.Second)[0]
	again := receive(t, c, 1, time.Minute)[0]
	l, _ := parseHandle(r.Handle, c.marks)
	answer, err := c.cluster.wire.Invoke(t.Context(), c.state.pairs[0].address, wire.AckCommand(c.group, wire.Ack{Topic: topic, Handle: l.pop}))
	if err != nil || answer.Code != wire.CodeSuccess {
		t.Errorf("the broker does say what became of a stale ack: %+v, %v", answer, err)
	}
	wantReason(t, "a stale ack", c.Ack(t.Context(), []driver.Handle{r.Handle})[0], driver.LeaseExpired)
	acknowledge(t, c, again)
}

// TestAChangeAfterAnAckIsRefused: the broker would deliver the message again.
func TestAChangeAfterAnAckIsRefused(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	t.Parallel()
	p, c, topic := h.stream(t, 1)
	send(t, p, topic, 1)
	r := receive(t, c, 1, time.Minute)[0]
	acknowledge(t, c, r)
	_, _, err := c.Extend(t.Context(), r.Handle, time.Second)
	wantReason(t, "an extension after the ack", err, driver.LeaseExpired)
	_, err = c.Nack(t.Context(), r.Handle, 0)
	wantReason(t, "a nack after the ack", err, driver.LeaseExpired)
	wantReason(t, "a give-back after the ack", c.GiveBack(t.Context(), []driver.Handle{r.Handle})[0], driver.LeaseExpired)
	acknowledge(t, c, r) // an ack again is fine
	receiveNone(t, c, 5*time.Second, "it is acknowledged")
}

func TestNackKeepsItsDelayAndIsAtLeastTwoSeconds(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	for _, delay := range []time.Duration{0, time.Second, 2500 * time.Millisecond, 6 * time.Second} {
		t.Run(delay.String(), func(t *testing.T) {
			t.Parallel()
			p, c, topic := h.stream(t, 1)
			send(t, p, topic, 1)
			r := receive(t, c, 1, time.Minute)[0]
			effective, err := c.Nack(t.Context(), r.Handle, delay)
			if nacked := time.Now(); err != nil || effective != max(delay, 2*time.Second) {
				t.Fatalf("the effective delay is %v, %v", effective, err)
			} else if again := receive(t, c, 1, time.Minute)[0]; again.Attempt != 2 {
				t.Errorf("attempt %d", again.Attempt)
			} else if took := time.Since(nacked); took < effective-50*time.Millisecond || took > effective+lateness {
				t.Errorf("it came again after %v", took)
			} else {
				acknowledge(t, c, again)
			}
		})
	}
}

// TestManyAcksOfManyCallsHaveAllTheirEffect: they share requests, over queues, pops and retries.
func TestManyAcksOfManyCallsHaveAllTheirEffect(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	t.Parallel()
	p, c, topic := h.stream(t, 4)
	const n = 400
	for range n / 10 {
		send(t, p, topic, 10)
	}
	got := receive(t, c, n, time.Minute)
	for _, err := range c.GiveBack(within(t, 20*time.Second), handlesOf(got[:n/2])) {
		if err != nil {
			t.Fatal(err)
		}
	}
	got = append(receive(t, c, n/2, 10*time.Second), got[n/2:]...)
	errs := make(chan error, n)
	for _, r := range got {
		go func() { errs <- c.Ack(within(t, 20*time.Second), []driver.Handle{r.Handle})[0] }()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	receiveNone(t, c, 15*time.Second, "all are acknowledged, and the leases are over")
}

// TestTheHandleThatAMessageBringsFromItsRetryTopicAcknowledges in both forms, alone and in a batch.
func TestRetriesAreAcknowledgedAloneAndTogether(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	for _, together := range []int{1, 5} {
		t.Run(strconv.Itoa(together), func(t *testing.T) {
			t.Parallel()
			p, c, topic := h.stream(t, 2)
			send(t, p, topic, 5)
			for range 2 {
				for _, err := range c.GiveBack(within(t, 20*time.Second), handlesOf(receive(t, c, 5, time.Minute))) {
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			got := receive(t, c, 5, 3*time.Second)
			for i := 0; i < 5; i += together {
				acknowledge(t, c, got[i:i+together]...)
			}
			receiveNone(t, c, 8*time.Second, "all are acknowledged")
		})
	}
}
