// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// harness is this driver on a real RocketMQ.
type harness struct {
	cluster *rocketmq.Cluster
	driver  *Driver
	user    driver.Credentials
}

func newHarness(t testing.TB, c *rocketmq.Cluster) *harness {
	t.Helper()
	admin := c.Administrator()
	return &harness{cluster: c, driver: New(logr.Discard()), user: driver.Credentials{AccessKey: admin.AccessKey, SecretKey: admin.SecretKey}}
}

func (h *harness) Connection() driver.Connection {
	return driver.Connection{NameServers: h.cluster.NameServers(), Credentials: h.user, AllowAddress: func(string) error { return nil }}
}

func (h *harness) NewTopic(t testing.TB, queues int) string {
	t.Helper()
	name := "topic_" + uuid.NewString()[:13]
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := h.cluster.CreateTopic(ctx, name, queues, nil); err != nil {
		t.Fatal(err)
	}
	return name
}

func (h *harness) NewGroup(testing.TB) string { return "group_" + uuid.NewString()[:13] }

func (h *harness) Settle(t testing.TB) {
	t.Helper()
	if err := h.cluster.AwaitDispatch(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
}

func (h *harness) restart(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := h.cluster.KillBroker(); err != nil {
		t.Fatal(err)
	}
	if err := h.cluster.StartBroker(ctx); err != nil {
		t.Fatal(err)
	}
}

// newUser makes a user with rights and returns its credentials.
func (h *harness) newUser(t testing.TB, name string, rights rocketmq.Rights) driver.Credentials {
	t.Helper()
	u, err := h.cluster.CreateUser(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if len(rights.Publish)+len(rights.Subscribe)+len(rights.Groups) > 0 {
		if err := h.cluster.Grant(t.Context(), name, rights); err != nil {
			t.Fatal(err)
		}
	}
	return driver.Credentials{AccessKey: u.AccessKey, SecretKey: u.SecretKey}
}

func (h *harness) producerConfig(topics ...string) driver.ProducerConfig {
	return driver.ProducerConfig{
		Connection: h.Connection(), ClientID: driver.ClientID("test_" + uuid.NewString()[:13]), Group: "producers_" + uuid.NewString()[:13], Topics: topics,
		SendTimeout: 3 * time.Second, Retries: 2, CompressAbove: 4096, MaxMessageBytes: 4 << 20,
	}
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
