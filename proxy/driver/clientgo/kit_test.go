// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func someID() driver.ClientID { return driver.ClientID("test_" + uuid.NewString()[:13]) }

func (h *harness) producerConfig(topics ...string) driver.ProducerConfig {
	return driver.ProducerConfig{
		Connection: h.Connection(), ClientID: someID(), Group: "producers_" + uuid.NewString()[:13], Topics: topics,
		SendTimeout: 3 * time.Second, Retries: 2, CompressAbove: 4096, MaxMessageBytes: 4 << 20,
	}
}

func (h *harness) consumerConfig(group string, topics ...string) driver.ConsumerConfig {
	cfg := driver.ConsumerConfig{Connection: h.Connection(), ClientID: someID(), Group: group, StartFrom: driver.Earliest}
	for _, topic := range topics {
		cfg.Subscriptions = append(cfg.Subscriptions, driver.Subscription{Topic: topic})
	}
	return cfg
}

func (h *harness) openProducer(t testing.TB, cfg driver.ProducerConfig) *producer {
	t.Helper()
	p, err := h.driver.OpenProducer(within(t, 20*time.Second), cfg)
	if err != nil {
		t.Fatalf("open the producer: %v", err)
	}
	t.Cleanup(func() { mustClose(t, p) })
	return p.(*producer)
}

func (h *harness) openConsumer(t testing.TB, cfg driver.ConsumerConfig) *consumer {
	t.Helper()
	c, err := h.driver.OpenConsumer(within(t, 20*time.Second), cfg)
	if err != nil {
		t.Fatalf("open the consumer: %v", err)
	}
	t.Cleanup(func() { mustClose(t, c) })
	return c.(*consumer)
}

func mustClose(t testing.TB, c interface{ Close(context.Context) error }) {
	t.Helper()
	if err := c.Close(within(t, 20*time.Second)); err != nil {
		t.Errorf("close: %v", err)
	}
}

// sendSome stores n messages one by one and returns their ids.
func sendSome(t testing.TB, p driver.Producer, topic string, n int) map[string]bool {
	t.Helper()
	ids := make(map[string]bool, n)
	for i := range n {
		m := &driver.Message{ID: uuid.NewString(), Topic: topic, Body: fmt.Appendf(nil, "body %d", i)}
		if r := p.Send(within(t, 20*time.Second), topic, []*driver.Message{m}); r[0].Err != nil {
			t.Fatalf("send: %v", r[0].Err)
		}
		ids[m.ID] = true
	}
	return ids
}

// receive leases exactly n messages.
func receive(t testing.TB, c driver.Consumer, n int, lease time.Duration) []*driver.Received {
	t.Helper()
	ctx := within(t, time.Minute)
	var all []*driver.Received
	for len(all) < n {
		rs, err := c.Fetch(ctx, driver.FetchRequest{MaxMessages: n - len(all), MaxBytes: 64 << 20, Lease: lease})
		if err != nil {
			t.Fatalf("fetch after %d of %d: %v", len(all), n, err)
		}
		all = append(all, rs...)
	}
	return all
}

func acknowledge(t testing.TB, c driver.Consumer, rs ...*driver.Received) {
	t.Helper()
	for _, r := range rs {
		if err := c.Ack(within(t, time.Minute), []driver.Handle{r.Handle})[0]; err != nil {
			t.Fatalf("ack %s: %v", r.ID, err)
		}
	}
}
