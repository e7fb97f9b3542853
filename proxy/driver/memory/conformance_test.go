// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/drivertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const namespace = "drivertest"

var credentials = driver.Credentials{AccessKey: "alice", SecretKey: "secret"}

type harness struct {
	broker *Broker
	facts  drivertest.Facts
}

func newHarness(o Options) harness {
	o.Credentials, o.NameServers = []driver.Credentials{credentials}, []string{"192.0.2.1:9876"}
	o.TransactionTimeout, o.TransactionCheckInterval = 300*time.Millisecond, 200*time.Millisecond
	h := harness{broker: NewBroker(o)}
	wrong := h.Connection()
	wrong.Credentials.SecretKey = "wrong"
	h.facts = drivertest.Facts{
		Lease: 300 * time.Millisecond, Late: 500 * time.Millisecond, Early: time.Millisecond, Quiet: 100 * time.Millisecond, Check: 2 * time.Second, SQL: true,
		CreatesTopics: !o.RefuseUnknownTopics, Unauthorized: &wrong, Unreachable: []string{"192.0.2.2:9876"},
	}
	return h
}

func (h harness) Driver() driver.Driver      { return New(h.broker) }
func (h harness) Facts() drivertest.Facts    { return h.facts }
func (h harness) NewGroup(testing.TB) string { return "group_" + uuid.NewString() }

func (h harness) Settle(testing.TB) {} // a send is answered when it is there

func (h harness) Connection() driver.Connection {
	return driver.Connection{NameServers: []string{"192.0.2.1:9876"}, Namespace: namespace, Credentials: credentials}
}

func (h harness) NewTopic(t testing.TB, queues int) string {
	name := "topic_" + uuid.NewString()
	if err := h.broker.CreateTopic(namespace, name, queues); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestConformanceOfABrokerThatCreatesTopics(t *testing.T) {
	drivertest.Run(t, newHarness(Options{}))
}

func TestConformanceOfABrokerThatRefusesUnknownTopics(t *testing.T) {
	drivertest.Run(t, newHarness(Options{RefuseUnknownTopics: true}))
}
