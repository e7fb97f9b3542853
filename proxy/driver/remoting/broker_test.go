// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/clientgo"
)

func TestOnlyWhoMayPublishOpensAProducer(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	noLeaks(t)
	topic := h.NewTopic(t, 2)
	users := map[string]driver.Credentials{
		"may publish":   h.newUser(t, "publisher_"+topic, rocketmq.Rights{Publish: []string{topic}}),
		"may subscribe": h.newUser(t, "subscriber_"+topic, rocketmq.Rights{Subscribe: []string{topic}, Groups: []string{"*"}}),
		"may nothing":   h.newUser(t, "nobody_"+topic, rocketmq.Rights{}),
		"is anonymous":  {},
	}
	wrong := users["may publish"]
	wrong.SecretKey = "wrong"
	users["has the wrong secret"] = wrong
	for name, credentials := range users {
		t.Run("a user that "+name, func(t *testing.T) {
			cfg := h.producerConfig(topic)
			cfg.Connection.Credentials = credentials
			p, err := h.driver.OpenProducer(within(t, 20*time.Second), cfg)
			if name == "may publish" {
				if err != nil {
					t.Fatal(err)
				}
				send(t, p, topic, 1)
				send(t, p, topic, 10)
				mustClose(t, p)
				return
			}
			wantReason(t, "OpenProducer", err, driver.Unauthorized)
			if credentials.SecretKey != "" && strings.Contains(err.Error(), credentials.SecretKey) {
				t.Error("the error shows the secret")
			}
		})
	}
}

// TestACompressedBatchIsReadByTheLibrary: a batch's flag is written on each of its messages, so that any consumer unpacks them.
func TestACompressedBatchIsReadByTheLibrary(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	topic := h.NewTopic(t, 1)
	p := h.openProducer(t, h.producerConfig(topic))
	want := map[string]string{}
	all := messages(topic, 40)
	for i, m := range all {
		if i%2 == 0 {
			m.Body = []byte(strings.Repeat(m.ID, 1000))
		}
		want[m.ID] = string(m.Body)
	}
	for i, r := range p.Send(within(t, 10*time.Second), topic, all) {
		if r.Err != nil {
			t.Fatalf("message %d: %v", i, r.Err)
		}
	}
	library, err := clientgo.New(logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	c, err := library.OpenConsumer(within(t, 20*time.Second), driver.ConsumerConfig{
		Connection: h.Connection(), ClientID: "classic", Group: h.NewGroup(t), Subscriptions: []driver.Subscription{{Topic: topic}}, StartFrom: driver.Earliest,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, c) })
	for len(want) > 0 {
		rs, err := c.Fetch(within(t, 30*time.Second), driver.FetchRequest{MaxMessages: 32, MaxBytes: 64 << 20, Lease: time.Minute})
		if err != nil {
			t.Fatalf("%d are missing: %v", len(want), err)
		}
		for _, r := range rs {
			if want[r.ID] != string(r.Body) {
				t.Errorf("message %s came with %d bytes, sent %d", r.ID, len(r.Body), len(want[r.ID]))
			}
			delete(want, r.ID)
			if err := c.Ack(t.Context(), []driver.Handle{r.Handle})[0]; err != nil {
				t.Error(err)
			}
		}
	}
}

// TestSendsGoOnWhenOneOfTwoBrokersIsKilled sends from several goroutines all the time.
func TestSendsGoOnWhenOneOfTwoBrokersIsKilled(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	noLeaks(t)
	second := rocketmq.StartForTest(t, rocketmq.Options{Join: h.cluster})
	topic := h.NewTopic(t, 2)
	if err := second.CreateTopic(t.Context(), topic, 2, nil); err != nil {
		t.Fatal(err)
	}
	p := h.openProducer(t, h.producerConfig(topic))
	w := startWriters(t, p, topic, 8)
	until := func(broker string) {
		t.Helper()
		eventually(t, time.Minute, func() error {
			if w.since(broker) < 100 {
				return fmt.Errorf("%d messages were stored by %s", w.since(broker), broker)
			}
			return nil
		})
	}
	until("broker-a")
	until("broker-b")
	if err := second.KillBroker(); err != nil {
		t.Fatal(err)
	}
	w.forget()
	until("broker-a")
	if err := second.StartBroker(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	w.forget()
	until("broker-b")
	w.stop()
}
