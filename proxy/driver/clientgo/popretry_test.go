// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// popper is a member of a group that pops, as the driver Remoting does.
type popper struct {
	t            *testing.T
	wire         *wire.Client
	group, topic string // with the namespace
	broker       wire.Queue
}

func (h *harness) newPopper(t *testing.T, namespace, group, topic string) *popper {
	t.Helper()
	p := &popper{t: t, wire: wire.New(h.Connection(), wire.Options{}), group: wire.WithNamespace(namespace, group), topic: wire.WithNamespace(namespace, topic)}
	t.Cleanup(p.wire.Close)
	route, err := p.wire.Route(t.Context(), p.topic)
	if err != nil {
		t.Fatal(err)
	}
	p.broker = route.Readable(p.topic)[0]
	return p
}

// pop leases exactly n messages, so that they come back after the time.
func (p *popper) pop(n int, invisible time.Duration) []wire.PoppedMessage {
	p.t.Helper()
	var all []wire.PoppedMessage
	for deadline := time.Now().Add(20 * time.Second); len(all) < n; {
		if time.Now().After(deadline) {
			p.t.Fatalf("%d of %d popped after 20 s", len(all), n)
		}
		answer, err := p.wire.Invoke(p.t.Context(), p.broker.Address, wire.PopRequest{
			Group: p.group, Topic: p.topic, Queue: -1, Max: n - len(all), Invisible: invisible, Poll: time.Second, Earliest: true,
			Filter: wire.NewSubscription(p.topic, "", ""), Broker: p.broker.Broker,
		}.Command())
		if code, _ := wire.CodeOf(err); code == wire.CodePollTimeout {
			continue
		}
		if err != nil {
			p.t.Fatal(err)
		}
		popped, err := wire.DecodePop(answer, p.broker.Broker)
		if err != nil {
			p.t.Fatal(err)
		}
		all = append(all, popped.Messages...)
	}
	return all
}

func (p *popper) ack(m wire.PoppedMessage) {
	p.t.Helper()
	if _, err := p.wire.Invoke(p.t.Context(), p.broker.Address, wire.AckCommand(p.group, wire.Ack{Topic: p.topic, Handle: m.Handle})); err != nil {
		p.t.Fatal(err)
	}
}

// awaitRetryTopic waits until the broker has made the topic for what the popper left.
func (p *popper) awaitRetryTopic() {
	p.t.Helper()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; <-again.C {
		if _, err := p.wire.Route(p.t.Context(), wire.RetryV1.Topic(p.group, p.topic)); err == nil {
			return
		} else if time.Now().After(deadline) {
			p.t.Fatalf("30 s after the pop there is no retry topic: %v", err)
		}
	}
}

// TestWhatAPoppingMemberLeftIsReceived: a group comes from the driver Remoting, with messages that were popped and not acknowledged.
func TestWhatAPoppingMemberLeftIsReceived(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	topic, group := h.NewTopic(t, 2), h.NewGroup(t)
	sent := sendSome(t, h.openProducer(t, h.producerConfig(topic)), topic, 6)
	p := h.newPopper(t, "", group, topic)
	popped := p.pop(6, 2*time.Second)
	for _, m := range popped[:2] {
		p.ack(m)
		delete(sent, m.Properties[driver.PropertyID])
	}
	p.awaitRetryTopic()

	c := h.openConsumer(t, h.consumerConfig(group, topic))
	came := receive(t, c, 4, time.Minute)
	for _, r := range came {
		if !sent[r.ID] || r.Topic != topic || r.Attempt < 2 {
			t.Errorf("received %s of %q, attempt %d; want one of what was left, of %q, again", r.ID, r.Topic, r.Attempt, topic)
		}
		delete(sent, r.ID)
	}
	acknowledge(t, c, came[:2]...)
	// What is sent back goes another way, through the library's own retry topic, with the name of the first one in it.
	if _, err := c.Nack(within(t, 10*time.Second), came[2].Handle, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := c.DeadLetter(within(t, 10*time.Second), came[3], "enough"); err != nil {
		t.Fatal(err)
	}
	again := receive(t, c, 1, time.Minute)[0]
	if again.ID != came[2].ID || again.Topic != topic || again.Attempt < came[2].Attempt+1 {
		t.Errorf("after a nack %s of %q came, attempt %d; want %s of %q with a higher one than %d", again.ID, again.Topic, again.Attempt, came[2].ID, topic, came[2].Attempt)
	}
	acknowledge(t, c, again)
	mustClose(t, c)

	c = h.openConsumer(t, h.consumerConfig(group, topic))
	if rs, err := c.Fetch(within(t, 5*time.Second), driver.FetchRequest{MaxMessages: 9, MaxBytes: 1 << 20, Lease: time.Minute}); err == nil {
		t.Errorf("acknowledged messages came again: %d, the first is %s", len(rs), rs[0].ID)
	}
	if lags, err := c.Lag(within(t, 10*time.Second)); err != nil || lags[0].Waiting != 0 {
		t.Errorf("lag is %+v, %v; want none", lags, err)
	}
}

// TestWhatAPoppingMemberLeavesLaterIsReceived: its leases end after the consumer was opened, and the topic did not exist before. With a namespace,
// because its name has that twice.
func TestWhatAPoppingMemberLeavesLaterIsReceived(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	const namespace = "space"
	topic, group := h.NewTopic(t, 1), h.NewGroup(t)
	if err := h.cluster.CreateTopic(t.Context(), wire.WithNamespace(namespace, topic), 1, nil); err != nil {
		t.Fatal(err)
	}
	pc, cc := h.producerConfig(topic), h.consumerConfig(group, topic)
	pc.Connection.Namespace, cc.Connection.Namespace = namespace, namespace
	sent := sendSome(t, h.openProducer(t, pc), topic, 3)
	p := h.newPopper(t, namespace, group, topic)
	p.pop(3, 8*time.Second)

	c := h.openConsumer(t, cc)
	if known := c.retries.known(); len(known) > 0 {
		t.Fatalf("the broker has %q already: the test is too slow to show anything", known)
	}
	p.awaitRetryTopic()
	if lags, err := c.Lag(within(t, 10*time.Second)); err != nil {
		t.Errorf("lag is %+v, %v", lags, err)
	}
	if err := c.check(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	for _, r := range receive(t, c, 3, time.Minute) {
		if !sent[r.ID] || r.Topic != topic {
			t.Errorf("received %s of %q, want one of what was left, of %q", r.ID, r.Topic, topic)
		}
		delete(sent, r.ID)
		acknowledge(t, c, r)
	}
	if err := c.check(within(t, 10*time.Second)); err != nil || len(c.retries.known()) != 1 {
		t.Errorf("known are %q, %v; want the one", c.retries.known(), err)
	}
	mustClose(t, c)
	c = h.openConsumer(t, cc)
	if rs, err := c.Fetch(within(t, 3*time.Second), driver.FetchRequest{MaxMessages: 9, MaxBytes: 1 << 20, Lease: time.Minute}); err == nil {
		t.Errorf("acknowledged messages came again: %d", len(rs))
	}
}

func TestRetryTopicsOfPopAreNamedForTheirTopic(t *testing.T) {
	p := newPopRetries("ns%g", []string{"ns%a", "ns%b"})
	for topic, want := range map[string]string{
		"%RETRY%ns%g_ns%a": "ns%a", "%RETRY%ns%g+ns%b": "ns%b", "%RETRY%ns%g": "%RETRY%ns%g", "ns%a": "ns%a", "%RETRY%ns%g_ns%c": "%RETRY%ns%g_ns%c",
	} {
		if got := p.original(topic); got != want {
			t.Errorf("%q is for %q, want %q", topic, got, want)
		}
	}
	p.add([]string{"x"})
	known := p.known()
	known[0] = "y"
	if p.known()[0] != "x" {
		t.Error("the list that is handed out is the own one")
	}
}
