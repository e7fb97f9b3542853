// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/drivertest"
)

// harness runs the conformance suite against a real RocketMQ.
type harness struct {
	cluster *rocketmq.Cluster
	driver  *Driver
	user    driver.Credentials
}

func newHarness(t testing.TB, c *rocketmq.Cluster) *harness {
	t.Helper()
	d, err := New(logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	admin := c.Administrator()
	return &harness{cluster: c, driver: d, user: driver.Credentials{AccessKey: admin.AccessKey, SecretKey: admin.SecretKey}}
}

func (h *harness) Driver() driver.Driver { return h.driver }

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

func (h *harness) Facts() drivertest.Facts {
	f := drivertest.Facts{
		// A slow moment of a broker that shares two cores with the test must not look like a broken promise.
		Late: 2 * time.Second, Open: 20 * time.Second, SQL: true,
		RestartBroker: h.restart, MaxMessageBytes: largest,
	}
	if h.cluster.Version() == rocketmq.Version4 {
		f.DelayLevels, f.MaxDelay = true, levels[len(levels)-1]
	}
	if !h.user.IsZero() {
		wrong := h.Connection()
		wrong.Credentials.SecretKey = "wrong"
		f.Unauthorized = &wrong
	}
	return f
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

// long reports whether tests that take minutes run: make soak, or LONG=1.
func long() bool { return os.Getenv("LONG") == "1" }

func TestConformance(t *testing.T) {
	drivertest.Run(t, newHarness(t, shared.Cluster(t)))
}

func TestConformanceOnTheOldLine(t *testing.T) {
	if !long() {
		t.Skip("NOT RUN: the conformance suite on RocketMQ 4.9.7 needs LONG=1")
	}
	drivertest.Run(t, newHarness(t, rocketmq.StartForTest(t, rocketmq.Options{Version: rocketmq.Version4})))
}
