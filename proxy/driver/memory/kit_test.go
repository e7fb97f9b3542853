// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"context"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func anyAddress(string) error { return nil }

func producerConfig(topics ...string) driver.ProducerConfig {
	return driver.ProducerConfig{Connection: driver.Connection{AllowAddress: anyAddress}, ClientID: "producer", Group: "producers", Topics: topics}
}

func consumerConfig(group string, topics ...string) driver.ConsumerConfig {
	cfg := driver.ConsumerConfig{
		Connection: driver.Connection{AllowAddress: anyAddress}, ClientID: "consumer", Group: group, StartFrom: driver.Earliest,
	}
	for _, t := range topics {
		cfg.Subscriptions = append(cfg.Subscriptions, driver.Subscription{Topic: t})
	}
	return cfg
}

// open opens a producer and a consumer of one topic and closes them with the test.
func open(t testing.TB, d driver.Driver, group, topicName string) (driver.Producer, driver.Consumer) {
	t.Helper()
	p, err := d.OpenProducer(context.Background(), producerConfig(topicName))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, p) })
	return p, join(t, d, group, topicName)
}

func join(t testing.TB, d driver.Driver, group string, topics ...string) driver.Consumer {
	t.Helper()
	c, err := d.OpenConsumer(context.Background(), consumerConfig(group, topics...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, c) })
	return c
}

func mustClose(t testing.TB, c interface{ Close(context.Context) error }) {
	t.Helper()
	if err := c.Close(context.Background()); err != nil {
		t.Errorf("close: %v", err)
	}
}

// numbered makes messages with the ids 0, 1, 2, ...
func numbered(topicName string, n int) []*driver.Message {
	msgs := make([]*driver.Message, n)
	for i := range msgs {
		msgs[i] = &driver.Message{ID: strconv.Itoa(i), Topic: topicName, Body: []byte("body")}
	}
	return msgs
}

func mustSend(t testing.TB, p driver.Producer, msgs ...*driver.Message) {
	t.Helper()
	for i, r := range p.Send(context.Background(), msgs[0].Topic, msgs) {
		if r.Err != nil {
			t.Fatalf("send message %d: %v", i, r.Err)
		}
	}
}

func mustFetch(t testing.TB, c driver.Consumer, n int, lease time.Duration) []*driver.Received {
	t.Helper()
	var got []*driver.Received
	for len(got) < n {
		rs, err := c.Fetch(t.Context(), driver.FetchRequest{MaxMessages: n - len(got), MaxBytes: math.MaxInt64, Lease: lease})
		if err != nil {
			t.Fatalf("fetch: %v", err)
		}
		got = append(got, rs...)
	}
	return got
}

func mustAck(t testing.TB, c driver.Consumer, rs ...*driver.Received) {
	t.Helper()
	for i, err := range c.Ack(context.Background(), handlesOf(rs)) {
		if err != nil {
			t.Fatalf("ack message %d: %v", i, err)
		}
	}
}

// nothing demands that a Fetch finds nothing within d.
func nothing(t testing.TB, c driver.Consumer, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	rs, err := c.Fetch(ctx, driver.FetchRequest{MaxMessages: 10, MaxBytes: math.MaxInt64, Lease: time.Hour})
	if len(rs) > 0 || ctx.Err() == nil {
		t.Fatalf("%d messages and %v where nothing should come", len(rs), err)
	}
}

func handlesOf(rs []*driver.Received) []driver.Handle {
	hs := make([]driver.Handle, len(rs))
	for i, r := range rs {
		hs[i] = r.Handle
	}
	return hs
}

func ids(rs []*driver.Received) string {
	text := ""
	for _, r := range rs {
		text += r.ID + " "
	}
	return text
}
