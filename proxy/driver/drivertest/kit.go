// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// longLease is a lease that does not end within any case; every driver can give it.
const longLease = 5 * time.Minute

// kit holds what a case needs, and the steps that cases are written in. Steps fail the test and clean up after themselves.
type kit struct {
	*testing.T
	h     Harness
	facts Facts
	d     driver.Driver
	caps  driver.Capabilities
}

func newKit(t *testing.T, h Harness, facts Facts) *kit {
	d := h.Driver()
	return &kit{T: t, h: h, facts: facts, d: d, caps: d.Capabilities()}
}

func (k *kit) connection() driver.Connection { return allowing(k.h.Connection()) }

func allowing(c driver.Connection) driver.Connection {
	if c.AllowAddress == nil {
		c.AllowAddress = func(string) error { return nil }
	}
	return c
}

// within is a context for one step.
func (k *kit) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	k.Cleanup(cancel)
	return ctx
}

func clientID() driver.ClientID { return driver.ClientID("drivertest_" + uuid.NewString()[:18]) }

func (k *kit) producerConfig(topics ...string) driver.ProducerConfig {
	return driver.ProducerConfig{
		Connection: k.connection(), ClientID: clientID(), Group: "drivertest_producer_" + uuid.NewString()[:8], Topics: topics,
		SendTimeout: 3 * time.Second, Retries: 2, CompressAbove: 4096, MaxMessageBytes: k.facts.MaxMessageBytes,
	}
}

func (k *kit) consumerConfig(group string, from driver.StartFrom, subs ...driver.Subscription) driver.ConsumerConfig {
	return driver.ConsumerConfig{Connection: k.connection(), ClientID: clientID(), Group: group, Subscriptions: subs, StartFrom: from}
}

func (k *kit) producer(topics ...string) driver.Producer {
	k.Helper()
	p, err := k.d.OpenProducer(k.within(k.facts.Open), k.producerConfig(topics...))
	if err != nil {
		k.Fatalf("open a producer of %q: %v", topics, err)
	}
	k.Cleanup(func() { k.closing("producer", p) })
	return p
}

// consumer opens a member of group on everything in topic, from the earliest message.
func (k *kit) consumer(group, topic string) driver.Consumer {
	k.Helper()
	return k.consumerOf(k.consumerConfig(group, driver.Earliest, driver.Subscription{Topic: topic}))
}

func (k *kit) consumerOf(cfg driver.ConsumerConfig) driver.Consumer {
	k.Helper()
	c, err := k.d.OpenConsumer(k.within(k.facts.Open), cfg)
	if err != nil {
		k.Fatalf("open a consumer of group %q with %+v: %v", cfg.Group, cfg.Subscriptions, err)
	}
	k.Cleanup(func() { k.closing("consumer", c) })
	return c
}

// closing closes and demands that it works; a second Close after the case's own is part of the contract.
func (k *kit) closing(what string, c interface{ Close(context.Context) error }) {
	k.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), k.closeTime())
	defer cancel()
	if err := c.Close(ctx); err != nil {
		k.Errorf("close the %s: %v", what, err)
	}
}

// closeTime allows for a poll under way that a library cannot interrupt (up to 20 s).
func (k *kit) closeTime() time.Duration { return k.facts.Open + 30*time.Second }

func message(topic string) *driver.Message {
	id := uuid.NewString()
	return &driver.Message{ID: id, Topic: topic, Body: []byte("body of " + id)}
}

func messages(topic string, n int) []*driver.Message {
	all := make([]*driver.Message, n)
	for i := range all {
		all[i] = message(topic)
	}
	return all
}

// send stores msgs one by one, so that they spread over the queues.
func (k *kit) send(p driver.Producer, msgs ...*driver.Message) {
	k.Helper()
	for _, m := range msgs {
		k.sendBatch(p, m)
	}
}

// sendBatch stores msgs in one call.
func (k *kit) sendBatch(p driver.Producer, msgs ...*driver.Message) {
	k.Helper()
	results := p.Send(k.within(k.facts.Open), msgs[0].Topic, msgs)
	if len(results) != len(msgs) {
		k.Fatalf("Send of %d messages answered %d results", len(msgs), len(results))
	}
	for i, m := range msgs {
		if r := results[i]; r.Err != nil {
			k.Fatalf("message %d of %d was not stored: %v", i, len(msgs), r.Err)
		} else if r.MessageID != m.ID {
			k.Fatalf("message %d was sent with id %q and answered with %q", i, m.ID, r.MessageID)
		}
	}
}

// fetch takes exactly n messages.
func (k *kit) fetch(c driver.Consumer, n int, lease time.Duration) []*driver.Received {
	k.Helper()
	return k.fetchWithin(c, n, lease, k.facts.Open+k.facts.Late)
}

func (k *kit) fetchWithin(c driver.Consumer, n int, lease, limit time.Duration) []*driver.Received {
	k.Helper()
	ctx := k.within(limit)
	var got []*driver.Received
	for len(got) < n {
		rs, err := c.Fetch(ctx, driver.FetchRequest{MaxMessages: n - len(got), MaxBytes: math.MaxInt32, Lease: lease})
		if err != nil {
			k.Fatalf("Fetch after %d of %d messages: %v", len(got), n, err)
		}
		got = append(got, rs...)
	}
	return got
}

// consume takes exactly n messages and acknowledges them as they come, so that any number passes through a bounded window.
func (k *kit) consume(c driver.Consumer, n int) []*driver.Received {
	k.Helper()
	ctx := k.within(k.facts.Open + k.facts.Late + time.Duration(n)*10*time.Millisecond)
	var got []*driver.Received
	for len(got) < n {
		rs, err := c.Fetch(ctx, driver.FetchRequest{MaxMessages: min(n-len(got), 32), MaxBytes: math.MaxInt32, Lease: longLease})
		if err != nil {
			k.Fatalf("Fetch after %d of %d messages: %v", len(got), n, err)
		}
		got = append(got, rs...)
		k.ack(c, rs...)
	}
	return got
}

// fetched is the answer of a Fetch in another goroutine.
type fetched struct {
	messages []*driver.Received
	err      error
}

// fetching starts a Fetch of one message that waits while the case goes on. Nothing shows from outside that a Fetch waits, so it gets some time
// to come that far.
func (k *kit) fetching(c driver.Consumer) <-chan fetched {
	answer := make(chan fetched, 1)
	ctx := k.within(k.facts.Open + k.facts.Late)
	go func() {
		rs, err := c.Fetch(ctx, driver.FetchRequest{MaxMessages: 1, MaxBytes: math.MaxInt32, Lease: longLease})
		answer <- fetched{rs, err}
	}()
	time.Sleep(k.facts.Quiet)
	return answer
}

// fetchNone demands that nothing comes for d.
func (k *kit) fetchNone(c driver.Consumer, d time.Duration, why string) {
	k.Helper()
	rs, err := c.Fetch(k.within(d), driver.FetchRequest{MaxMessages: 32, MaxBytes: math.MaxInt32, Lease: longLease})
	for _, r := range rs {
		k.Errorf("%s: message %s came, attempt %d", why, r.ID, r.Attempt)
	}
	if len(rs) == 0 && !errors.Is(err, context.DeadlineExceeded) {
		k.Errorf("%s: Fetch without a message must return its context's error, got %v", why, err)
	}
	if k.Failed() {
		k.FailNow()
	}
}

func handles(rs []*driver.Received) []driver.Handle {
	hs := make([]driver.Handle, len(rs))
	for i, r := range rs {
		hs[i] = r.Handle
	}
	return hs
}

func (k *kit) ack(c driver.Consumer, rs ...*driver.Received) {
	k.Helper()
	errs := c.Ack(k.within(k.facts.Open), handles(rs))
	k.noErrors("Ack", errs, len(rs))
}

func (k *kit) noErrors(what string, errs []error, n int) {
	k.Helper()
	if len(errs) != n {
		k.Fatalf("%s of %d handles answered %d errors", what, n, len(errs))
	}
	for i, err := range errs {
		if err != nil {
			k.Fatalf("%s of handle %d of %d: %v", what, i, n, err)
		}
	}
}

// want demands err's reason.
func (k *kit) want(what string, err error, reasons ...driver.Reason) {
	k.Helper()
	if err == nil {
		k.Fatalf("%s: no error, want %v", what, reasons)
	}
	for _, r := range reasons {
		if driver.ReasonOf(err) == r {
			return
		}
	}
	k.Fatalf("%s: reason %s, want %v: %v", what, driver.ReasonOf(err), reasons, err)
}

// wantAttempt demands attempt n, or for drivers that only know a lower bound, at most n.
func (k *kit) wantAttempt(r *driver.Received, n int) {
	k.Helper()
	if k.caps.ExactAttempts && r.Attempt != n || r.Attempt > n || r.Attempt < 1 {
		k.Fatalf("message %s has attempt %d, want %d (exact: %v)", r.ID, r.Attempt, n, k.caps.ExactAttempts)
	}
}

// wantBetween demands that now is not before due and not later than the harness allows.
func (k *kit) wantBetween(what string, due time.Time) {
	k.Helper()
	late := time.Since(due)
	if late < -k.facts.Early {
		k.Fatalf("%s: came %v too early", what, -late)
	}
	if late > k.facts.Late {
		k.Fatalf("%s: came %v late, allowed are %v", what, late, k.facts.Late)
	}
}

// wantSame demands that exactly the sent messages came, each once.
func (k *kit) wantSame(sent []*driver.Message, got []*driver.Received) {
	k.Helper()
	missing := make(map[string]bool, len(sent))
	for _, m := range sent {
		missing[m.ID] = true
	}
	for _, r := range got {
		if !missing[r.ID] {
			k.Fatalf("message %q came twice or was never sent", r.ID)
		}
		delete(missing, r.ID)
	}
	if len(missing) > 0 {
		k.Fatalf("%d of %d messages are missing", len(missing), len(sent))
	}
}

// eventually asks until check finds nothing wrong, and fails with the last finding when limit has passed.
func (k *kit) eventually(limit time.Duration, check func() error) {
	k.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			k.Fatalf("still after %v: %v", limit, err)
		}
		time.Sleep(limit / 100)
	}
}

func sameMessage(sent *driver.Message, got *driver.Received) error {
	switch {
	case got.ID != sent.ID:
		return fmt.Errorf("id %q, sent %q", got.ID, sent.ID)
	case got.Topic != sent.Topic:
		return fmt.Errorf("topic %q, sent %q", got.Topic, sent.Topic)
	case got.Tag != sent.Tag:
		return fmt.Errorf("tag %q, sent %q", got.Tag, sent.Tag)
	case string(got.Body) != string(sent.Body):
		return fmt.Errorf("a body of %d bytes that differs from the %d sent", len(got.Body), len(sent.Body))
	case fmt.Sprint(got.Keys) != fmt.Sprint(sent.Keys):
		return fmt.Errorf("keys %q, sent %q", got.Keys, sent.Keys)
	}
	for name, value := range sent.Properties {
		if got.Properties[name] != value {
			return fmt.Errorf("property %q is %q, sent %q", name, got.Properties[name], value)
		}
	}
	for name := range got.Properties {
		if _, ok := sent.Properties[name]; !ok {
			return fmt.Errorf("property %q = %q that nobody sent", name, got.Properties[name])
		}
	}
	return nil
}
