// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// lateness is how much later than it is due a redelivery may come: 2 to 3 s are the broker's own.
const lateness = 8 * time.Second

func (h *harness) consumerConfig(group string, topics ...string) driver.ConsumerConfig {
	cfg := driver.ConsumerConfig{
		Connection: h.Connection(), ClientID: driver.ClientID("test_" + uuid.NewString()[:13]), Group: group, StartFrom: driver.Earliest,
	}
	for _, topic := range topics {
		cfg.Subscriptions = append(cfg.Subscriptions, driver.Subscription{Topic: topic})
	}
	return cfg
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

// stream is a producer and a consumer of one new topic and group.
func (h *harness) stream(t testing.TB, queues int) (driver.Producer, *consumer, string) {
	t.Helper()
	topic := h.NewTopic(t, queues)
	return h.openProducer(t, h.producerConfig(topic)), h.openConsumer(t, h.consumerConfig(h.NewGroup(t), topic)), topic
}

func fetchOf(n int, lease time.Duration) driver.FetchRequest {
	return driver.FetchRequest{MaxMessages: n, MaxBytes: math.MaxInt32, Lease: lease}
}

// receive leases exactly n messages.
func receive(t testing.TB, c driver.Consumer, n int, lease time.Duration) []*driver.Received {
	t.Helper()
	ctx := within(t, 30*time.Second)
	var all []*driver.Received
	for len(all) < n {
		rs, err := c.Fetch(ctx, fetchOf(n-len(all), lease))
		if err != nil {
			t.Fatalf("fetch after %d of %d: %v", len(all), n, err)
		}
		all = append(all, rs...)
	}
	return all
}

// receiveNone demands that nothing comes for d.
func receiveNone(t testing.TB, c driver.Consumer, d time.Duration, why string) {
	t.Helper()
	rs, err := c.Fetch(within(t, d), fetchOf(32, time.Minute))
	for _, r := range rs {
		t.Errorf("%s: message %s came, attempt %d", why, r.ID, r.Attempt)
	}
	if len(rs) == 0 && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s: %v", why, err)
	}
}

func acknowledge(t testing.TB, c driver.Consumer, rs ...*driver.Received) {
	t.Helper()
	for i, err := range c.Ack(within(t, 20*time.Second), handlesOf(rs)) {
		if err != nil {
			t.Fatalf("ack %s: %v", rs[i].ID, err)
		}
	}
}

func idsOfResults(results []driver.SendResult) map[string]bool {
	ids := make(map[string]bool, len(results))
	for _, r := range results {
		ids[r.MessageID] = true
	}
	return ids
}

// same demands that exactly the messages of want came, each once.
func same(t testing.TB, want map[string]bool, got []*driver.Received) {
	t.Helper()
	seen := map[string]bool{}
	for _, r := range got {
		if !want[r.ID] || seen[r.ID] {
			t.Errorf("message %s came twice or was never sent", r.ID)
		}
		seen[r.ID] = true
	}
	if len(seen) != len(want) {
		t.Errorf("%d of %d messages came", len(seen), len(want))
	}
}

// quiet makes c ask as where nothing has come for long: its next polls wait for all of pollTime.
func (c *consumer) quiet() {
	c.state.Lock()
	defer c.state.Unlock()
	for _, p := range c.state.pairs {
		p.lively = time.Time{}
	}
}

// inTheAir is what the consumer waits for.
func (c *consumer) inTheAir() (pops, questions int) {
	c.state.Lock()
	defer c.state.Unlock()
	for _, p := range c.state.pairs {
		pops += p.pops
		if p.parked && p.pops == 0 {
			questions++
		}
	}
	return pops, questions
}
