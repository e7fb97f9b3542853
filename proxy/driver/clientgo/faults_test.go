// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
)

// pause stops the broker's process without closing its connections, until the test's end or resume.
func (h *harness) pause(t *testing.T) (resume func()) {
	t.Helper()
	if err := h.cluster.PauseBroker(); err != nil {
		t.Fatal(err)
	}
	resume = func() {
		if err := h.cluster.ResumeBroker(); err != nil {
			t.Errorf("resume the broker: %v", err)
		}
	}
	t.Cleanup(resume)
	return resume
}

func TestCloseReturnsInTimeWhileTheBrokerHangsAndEndsLater(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	topic := h.NewTopic(t, 4)
	p := h.openProducer(t, h.producerConfig(topic))
	c := h.openConsumer(t, h.consumerConfig(h.NewGroup(t), topic))
	sendSome(t, p, topic, 8)
	acknowledge(t, c, receive(t, c, 8, time.Minute)...)
	resume := h.pause(t)
	sent := make(chan error)
	go func() {
		m := &driver.Message{ID: uuid.NewString(), Topic: topic, Body: []byte("x")}
		sent <- p.Send(context.Background(), topic, []*driver.Message{m})[0].Err
	}()
	for name, client := range map[string]interface{ Close(context.Context) error }{"producer": p, "consumer": c} {
		began := time.Now()
		err := client.Close(within(t, time.Second))
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the %s took %v to close, its context ended after 1 s", name, took)
		}
		if err != nil && driver.ReasonOf(err) != driver.Timeout {
			t.Errorf("the %s: %v", name, err)
		}
	}
	if err := <-sent; !errors.Is(err, driver.ErrClosed) {
		t.Errorf("the Send under way got %v", err)
	}
	resume()
	for _, client := range []interface{ Close(context.Context) error }{p, c} {
		err := client.Close(within(t, 30*time.Second))
		if err != nil && driver.ReasonOf(err) == driver.Timeout && errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("closing goes on for ever: %v", err)
		}
	}
}

func TestAHangingBrokerFailsSendsAndNacksInTimeAndLosesNothing(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	topic := h.NewTopic(t, 1)
	p := h.openProducer(t, h.producerConfig(topic))
	c := h.openConsumer(t, h.consumerConfig(h.NewGroup(t), topic))
	sendSome(t, p, topic, 1)
	r := receive(t, c, 1, 5*time.Minute)[0]
	resume := h.pause(t)
	ctx := within(t, 3*time.Second)
	began := time.Now()
	m := &driver.Message{ID: uuid.NewString(), Topic: topic, Body: []byte("x")}
	wantReason(t, "send", p.Send(ctx, topic, []*driver.Message{m})[0].Err, driver.Timeout)
	_, err := c.Nack(ctx, r.Handle, 0)
	wantReason(t, "nack", err, driver.Timeout)
	wantReason(t, "dead letter", c.DeadLetter(ctx, r, "test"), driver.Timeout)
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("took %v with a context of 3 s", took)
	}
	resume()
	// The lease is still ours.
	for limit := time.Now().Add(30 * time.Second); ; {
		_, err := c.Nack(within(t, 10*time.Second), r.Handle, 0)
		if err == nil {
			break
		}
		if !driver.Retryable(err) || time.Now().After(limit) {
			t.Fatalf("nack after the broker is back: %v", err)
		}
	}
	seen := receive(t, c, 1, time.Minute)
	for !slices.ContainsFunc(seen, func(s *driver.Received) bool { return s.ID == r.ID }) {
		seen = append(seen, receive(t, c, 1, time.Minute)...) // the send that timed out may have been stored
	}
}

// TestLeasesOutliveARestartOfTheBroker: a broker that has just started knows no member of the group, and the library would drop its queues
// for that, with everything in flight delivered again.
func TestLeasesOutliveARestartOfTheBroker(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	h := newHarness(t, shared.Cluster(t))
	topic := h.NewTopic(t, 2)
	p := h.openProducer(t, h.producerConfig(topic))
	c := h.openConsumer(t, h.consumerConfig(h.NewGroup(t), topic))
	sendSome(t, p, topic, 6)
	rs := receive(t, c, 6, 5*time.Minute)
	h.restart(t)
	time.Sleep(25 * time.Second) // one rebalance of the library (every 20 s) and one heartbeat of its members may pass; nothing else is seen from outside
	for _, r := range rs {
		if err := c.Ack(t.Context(), []driver.Handle{r.Handle})[0]; err != nil {
			t.Errorf("ack of %s after the restart: %v", r.ID, err)
		}
	}
	sent := sendSome(t, p, topic, 6)
	for range 6 {
		r := receive(t, c, 1, time.Minute)[0]
		if !sent[r.ID] {
			t.Errorf("message %s came again, attempt %d", r.ID, r.Attempt)
		}
		acknowledge(t, c, r)
	}
}

func TestErrTellsWhenTheNameServersAreGoneAndWhenTheyAreBack(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	topic := h.NewTopic(t, 1)
	p := h.openProducer(t, h.producerConfig(topic))
	c := h.openConsumer(t, h.consumerConfig(h.NewGroup(t), topic))
	if err := h.cluster.StopNameServer(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		if err := h.cluster.StartNameServer(within(t, time.Minute)); err != nil {
			t.Logf("start the name server again: %v", err)
		}
	})
	for name, check := range map[string]func(context.Context) error{"producer": p.check, "consumer": c.check} {
		wantReason(t, name, check(within(t, checkLimit)), driver.Unavailable)
	}
	sendSome(t, p, topic, 3)
	acknowledge(t, c, receive(t, c, 3, time.Minute)...) // brokers work without name servers
	if err := h.cluster.StartNameServer(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	for limit := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) { // brokers register again within 30 s
		err := errors.Join(p.check(within(t, checkLimit)), c.check(within(t, checkLimit)))
		if err == nil {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("still: %v", err)
		}
	}
}

func TestARefusedBrokerAddressIsFoundBeforeAnythingStartsAndWhileItRuns(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	topic, group := h.NewTopic(t, 1), h.NewGroup(t)
	refuse := func(a string) error {
		if slices.Contains(h.cluster.NameServers(), a) {
			return nil
		}
		return errors.New("brokers are not on the list")
	}
	pc, cc := h.producerConfig(topic), h.consumerConfig(group, topic)
	p, c := h.openProducer(t, pc), h.openConsumer(t, cc)
	pc.Connection.AllowAddress, cc.Connection.AllowAddress = refuse, refuse
	pc.ClientID, cc.ClientID = someID(), someID()
	_, err := h.driver.OpenProducer(within(t, 20*time.Second), pc)
	wantReason(t, "OpenProducer", err, driver.AddressRefused)
	_, err = h.driver.OpenConsumer(within(t, 20*time.Second), cc)
	wantReason(t, "OpenConsumer", err, driver.AddressRefused)
	p.cfg.Connection.AllowAddress, c.prover.Routes = refuse, proof.Fresh{Wire: c.wire, Allow: refuse}
	wantReason(t, "the running producer's check", p.check(within(t, checkLimit)), driver.AddressRefused)
	wantReason(t, "the running consumer's check", c.check(within(t, checkLimit)), driver.AddressRefused)
}

func TestANamespacePrefixesEverythingAndIsNeverSeen(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	plain, group := h.NewTopic(t, 1), h.NewGroup(t)
	if err := h.cluster.CreateTopic(t.Context(), "ns%"+plain, 2, nil); err != nil {
		t.Fatal(err)
	}
	pc, cc := h.producerConfig(plain), h.consumerConfig(group, plain)
	pc.Connection.Namespace, cc.Connection.Namespace = "ns", "ns"
	p, c := h.openProducer(t, pc), h.openConsumer(t, cc)
	outside := h.openConsumer(t, h.consumerConfig(group, plain))
	sent := sendSome(t, p, plain, 4)
	rs := receive(t, c, 4, time.Minute)
	for _, r := range rs {
		if !sent[r.ID] || r.Topic != plain {
			t.Errorf("message %s of topic %q", r.ID, r.Topic)
		}
	}
	if _, err := c.Nack(t.Context(), rs[0].Handle, 0); err != nil {
		t.Fatal(err)
	}
	again := receive(t, c, 1, time.Minute)[0]
	if again.ID != rs[0].ID || again.Topic != plain || again.Attempt != 2 {
		t.Errorf("the nacked message came as %s of %q, attempt %d", again.ID, again.Topic, again.Attempt)
	}
	if err := c.DeadLetter(t.Context(), again, "test"); err != nil {
		t.Fatal(err)
	}
	acknowledge(t, c, rs[1:]...)
	letters := h.consumerConfig(h.NewGroup(t), "%DLQ%ns%"+group)
	if got := receive(t, h.openConsumer(t, letters), 1, time.Minute)[0]; got.ID != again.ID {
		t.Errorf("dead letter %s, want %s", got.ID, again.ID)
	}
	progress, err := h.cluster.ConsumerProgress(t.Context(), "ns%"+group)
	if err != nil || len(progress) == 0 {
		t.Errorf("the broker knows %v of the group: %v", progress, err)
	}
	if _, waits := outside.leases.progress(); len(waits) != 0 {
		t.Errorf("a group of the same name outside the namespace got %v", waits)
	}
}

// TestASilentReceiverKeepsItsLeases is upstream #941 on a real broker: a receiver with a window of ten is silent for longer than the library
// tolerates a pull loop that stands still, and acknowledges then. The bound itself is tested with synthetic time in inlet_test.go.
func TestASilentReceiverKeepsItsLeases(t *testing.T) {
	if !long() {
		t.Skip("NOT RUN: takes three minutes, needs LONG=1")
	}
	const sent = 400
	h := newHarness(t, shared.Cluster(t))
	topic := h.NewTopic(t, 2)
	p := h.openProducer(t, h.producerConfig(topic))
	c := h.openConsumer(t, h.consumerConfig(h.NewGroup(t), topic))
	sendSome(t, p, topic, sent)
	window := receive(t, c, 10, 5*time.Minute)
	time.Sleep(150 * time.Second)
	acknowledge(t, c, window...)
	seen := map[string]bool{}
	for _, r := range window {
		seen[r.ID] = true
	}
	if _, waits := c.leases.progress(); waits[topic].Waiting > 2*(prefetchMessages+pullBatch) {
		t.Errorf("%d messages wait in this process, the bound is %d", waits[topic].Waiting, 2*(prefetchMessages+pullBatch))
	}
	for range sent - len(window) {
		r := receive(t, c, 1, time.Minute)[0]
		if seen[r.ID] || r.Attempt != 1 {
			t.Fatalf("message %s came again, attempt %d", r.ID, r.Attempt)
		}
		seen[r.ID] = true
		acknowledge(t, c, r)
	}
	if rs, err := c.Fetch(within(t, 3*time.Second), driver.FetchRequest{MaxMessages: 1, MaxBytes: 1, Lease: time.Minute}); err == nil {
		t.Errorf("message %s came again, attempt %d", rs[0].ID, rs[0].Attempt)
	}
}
