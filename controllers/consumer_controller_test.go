// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

func TestAConsumerBecomesTheClientItDescribes(t *testing.T) {
	op := newOperator(t, operatorOptions{namespace: newNamespace(t)})
	var mu sync.Mutex
	var got registry.Spec
	op.opener.beforeOpen = func(s registry.Spec) {
		mu.Lock()
		defer mu.Unlock()
		got = s
	}
	op.start()
	o := op.apply("Consumer", "mailer", `
group: mailer
subscriptions: [{topic: a, filter: {tag: 'x || y'}}, {topic: b, filter: {sql: "n > 1"}}, {topic: c}]
startFrom: Earliest
ackDeadlineSeconds: 11
maxInFlight: 12
maxInFlightBytes: 13
maxDeliveryAttempts: 14
drainTimeoutSeconds: 15
connection: {namespace: shop, nameServers: ['B:2', 'a:1']}`)
	op.waitReady(o, "mailer")
	if s := o.Reported(); s.Group != "mailer" || s.Driver != "memory" {
		t.Errorf("status is %+v", s)
	}
	mu.Lock()
	defer mu.Unlock()
	c := got.Consumer
	wantSubscriptions := []driver.Subscription{{Topic: "a", Tag: "x || y"}, {Topic: "b", SQL: "n > 1"}, {Topic: "c"}}
	if !reflect.DeepEqual(c.Config.Subscriptions, wantSubscriptions) {
		t.Errorf("subscriptions %+v, want %+v", c.Config.Subscriptions, wantSubscriptions)
	}
	if servers := strings.Join(c.Config.Connection.NameServers, " "); servers != "a:1 b:2" || c.Config.Connection.Namespace != "shop" {
		t.Errorf("connection %q %q, want the sorted name servers and the namespace", servers, c.Config.Connection.Namespace)
	}
	if c.Config.Group != "mailer" || got.Group != "mailer" || c.Config.StartFrom != driver.Earliest || c.AckDeadline != 11*time.Second ||
		c.MaxInFlight != 12 || c.MaxInFlightBytes != 13 || c.MaxDeliveryAttempts != 14 || got.DrainTimeout != 15*time.Second || got.UID != string(o.GetUID()) {
		t.Errorf("the spec is %+v with %+v", got, c)
	}
	if err := c.Config.Connection.AllowAddress("127.0.0.1:10911"); err == nil {
		t.Error("the client may dial loopback")
	}
}

// TestAConsumerFromATimeAheadStartsWhenItHasCome: with positions that were written before, messages that are older than the time would come.
func TestAConsumerFromATimeAheadStartsWhenItHasCome(t *testing.T) {
	op := newOperator(t, operatorOptions{namespace: newNamespace(t)})
	opened := make(chan time.Time, 10)
	op.opener.beforeOpen = func(s registry.Spec) {
		if c := s.Consumer.Config; c.StartFrom == driver.Timestamp {
			opened <- c.StartTime
		}
	}
	op.start()
	at := time.Now().Add(3 * time.Second).Truncate(time.Second)
	o := op.apply("Consumer", "mailer", goodConsumer+"\nstartFrom: Timestamp\nstartTime: '"+at.UTC().Format(time.RFC3339)+"'")
	op.waitCondition(o, "mailer", proxyv1alpha1.ConditionConnected, "False", proxyv1alpha1.ReasonStartTimeAhead)
	if m := conditionOf(o, proxyv1alpha1.ConditionReady).Message; !strings.Contains(m, "spec.startTime") {
		t.Errorf("the message does not name the field: %q", m)
	}
	op.waitReady(o, "mailer")
	if now := time.Now(); now.Before(at) {
		t.Errorf("the client started at %s, the start time is %s", now, at)
	}
	if got := <-opened; !got.Equal(at) {
		t.Errorf("it begins at %s, want %s", got, at)
	}
}

func TestAnInvalidSQLFilterIsReportedAtTheConsumer(t *testing.T) {
	op := newOperator(t, operatorOptions{namespace: newNamespace(t)})
	op.opener.fail = func(registry.Spec) error {
		return driver.Errorf(driver.InvalidFilter, "subscriptions[0].filter.sql", `"n >" does not parse`)
	}
	op.start()
	o := op.apply("Consumer", "mailer", "group: g\nsubscriptions: [{topic: a, filter: {sql: 'n >'}}]")
	op.waitCondition(o, "mailer", proxyv1alpha1.ConditionAccepted, "False", proxyv1alpha1.ReasonInvalidFilter)
	if m := conditionOf(o, proxyv1alpha1.ConditionReady).Message; !strings.Contains(m, "subscriptions[0].filter.sql") {
		t.Errorf("the message does not name the field: %q", m)
	}
}

// TestASingleHostDriverServesAConsumerOnOneHost: with a driver whose deliveries only one process can acknowledge, the oldest host serves, the other says where.
func TestASingleHostDriverServesAConsumerOnOneHost(t *testing.T) {
	namespace := newNamespace(t)
	drivers := testDrivers{capabilities: driver.Capabilities{SingleHost: true}}
	first := startOperator(t, operatorOptions{namespace: namespace, hostID: "host-a", drivers: drivers, renewEvery: 200 * time.Millisecond})
	o := first.apply("Consumer", "mailer", goodConsumer)
	producer := first.apply("Producer", "orders", goodProducer)
	first.waitReady(o, "mailer")
	if c := conditionOf(o, proxyv1alpha1.ConditionSingleHostDriver); c.Type != "" {
		t.Errorf("one host only, and yet %+v", c)
	}
	eventually(t, 2*time.Second, "another second has begun, Leases have no smaller unit of age", func() bool {
		peers := first.host.Peers()
		return len(peers) == 1 && time.Now().Unix() > peers[0].Created.Unix()
	})
	second := startOperator(t, operatorOptions{namespace: namespace, hostID: "host-b", drivers: drivers, renewEvery: 200 * time.Millisecond})
	first.waitCondition(o, "mailer", proxyv1alpha1.ConditionSingleHostDriver, "True", proxyv1alpha1.ReasonSeveralHosts)
	if c := conditionOf(o, proxyv1alpha1.ConditionSingleHostDriver); !strings.Contains(c.Message, "host-a serves it") {
		t.Errorf("the message does not name the host: %q", c.Message)
	}
	eventually(t, 5*time.Second, "the Producer runs on both", func() bool { return second.opener.runningNow(string(producer.GetUID())) == 1 })
	if n := second.opener.openedEver(string(o.GetUID())); n != 0 {
		t.Errorf("the second host opened %d clients of the Consumer", n)
	}
	eventually(t, 5*time.Second, "a receiver that reaches the second host is told that the object is there, and where", func() bool {
		_, err := second.registry.Use(t.Context(), registry.Consumer, namespace, "mailer")
		var elsewhere *registry.NotReadyError
		return errors.As(err, &elsewhere) && elsewhere.Reason == registry.ReasonSeveralHosts && strings.Contains(elsewhere.Message, "host-a")
	})
	first.stop()
	eventually(t, 10*time.Second, "the second host serves when the first is gone", func() bool { return second.opener.runningNow(string(o.GetUID())) == 1 })
	second.waitReady(o, "mailer")
	eventually(t, 5*time.Second, "the condition goes with the other host", func() bool {
		must(t, second.get(o, "mailer"))
		return conditionOf(o, proxyv1alpha1.ConditionSingleHostDriver).Type == ""
	})
}

// TestReadyIsTheSumOfTheHosts: one host runs it, the other cannot: Ready is False and names the other; when that one is gone, Ready is True again and
// its entry is collected.
func TestReadyIsTheSumOfTheHosts(t *testing.T) {
	namespace := newNamespace(t)
	good := startOperator(t, operatorOptions{namespace: namespace, hostID: "host-a", renewEvery: 200 * time.Millisecond})
	o := good.apply("Consumer", "mailer", goodConsumer)
	good.waitReady(o, "mailer")
	bad := newOperator(t, operatorOptions{namespace: namespace, hostID: "host-b", renewEvery: 200 * time.Millisecond})
	bad.opener.fail = func(registry.Spec) error { return driver.Errorf(driver.Unavailable, "", "no route to host") }
	bad.start()
	good.waitCondition(o, "mailer", proxyv1alpha1.ConditionReady, "False", proxyv1alpha1.ReasonBrokerUnavailable)
	if c := conditionOf(o, proxyv1alpha1.ConditionReady); !strings.Contains(c.Message, "host host-b") || strings.Contains(c.Message, "host host-a") {
		t.Errorf("the message does not name the one host in trouble: %q", c.Message)
	}
	bad.stop()
	good.waitReady(o, "mailer")
	eventually(t, 5*time.Second, "the entry of the host that is gone is collected", func() bool {
		must(t, good.get(o, "mailer"))
		return len(o.Reported().Hosts) == 0
	})
	for _, f := range o.GetManagedFields() {
		if f.Manager == hostManager("host-b") {
			t.Errorf("the manager of the host that is gone still owns %s", f.FieldsV1)
		}
	}
}

func TestStatusIsAFunctionOfItsFacts(t *testing.T) {
	peers := []Peer{{Name: "a", Incarnation: "1"}, {Name: "b", Incarnation: "2"}}
	running := registry.Status{State: registry.Running, Generation: 2, Desired: 2}
	failed := registry.Status{State: registry.Failed, Desired: 2, Err: driver.Errorf(driver.Unavailable, "", "down")}
	startsSince := func(seconds float64) *registry.Status {
		return &registry.Status{State: registry.Starting, Desired: 2, Since: time.Unix(1, 0).Add(-time.Duration(seconds * float64(time.Second)))}
	}
	queuedSince := func(seconds float64) *registry.Status {
		status := startsSince(seconds)
		status.Queued = true
		return status
	}
	otherFailed := proxyv1alpha1.HostStatus{Host: "b", Incarnation: "2", UID: "u", Generation: 2, State: proxyv1alpha1.HostFailed, Reason: "BrokerUnavailable", Message: "far away"}
	for _, c := range []struct {
		name      string
		client    *registry.Status
		hosts     []proxyv1alpha1.HostStatus
		readyWas  metav1.ConditionStatus
		suspended bool
		alone     bool   // no other host lives
		want      string // Ready: status/reason; "" = left to others
	}{
		{name: "a client that runs is ready", client: &running, want: "True/Ready"},
		{name: "an idle client is ready", client: &registry.Status{State: registry.Idle, Generation: 2, Desired: 2}, want: "True/Idle"},
		{name: "an idle client is left to a host whose client works", client: &registry.Status{State: registry.Idle, Generation: 2, Desired: 2}, readyWas: "True", want: ""},
		{name: "an idle client ends what another host could not yet say", client: &registry.Status{State: registry.Idle, Generation: 2, Desired: 2}, readyWas: "Unknown", want: "True/Idle"},
		{name: "an idle client does not hide another host's failure", client: &registry.Status{State: registry.Idle, Generation: 2, Desired: 2}, want: "False/BrokerUnavailable",
			hosts: []proxyv1alpha1.HostStatus{otherFailed}},
		{name: "the client of an older generation is not", client: &registry.Status{State: registry.Running, Generation: 1, Desired: 2}, want: "Unknown/Starting"},
		{name: "a client that starts is unknown", client: &registry.Status{State: registry.Starting, Desired: 2}, want: "Unknown/Starting"},
		{name: "a client that starts is left to a host that is ready", client: &registry.Status{State: registry.Starting, Desired: 2}, readyWas: "True", want: ""},
		{name: "a first start that began a moment ago is not told yet", client: startsSince(4), want: ""},
		{name: "a first start that takes longer is", client: startsSince(6), want: "Unknown/Starting"},
		{name: "one that waits for its turn is not", client: queuedSince(59), want: ""},
		{name: "unless that takes very long", client: queuedSince(61), want: "Unknown/Starting"},
		{name: "an object that was ready is believed while its client waits for its turn", alone: true, client: queuedSince(59), readyWas: "True", want: ""},
		{name: "an object that was not ready is not, whatever its client waits for", alone: true, client: queuedSince(1), readyWas: "False", want: "Unknown/Starting"},
		{name: "an object that was ready is believed while an operator starts", alone: true, client: startsSince(25), readyWas: "True", want: ""},
		{name: "but not for ever", alone: true, client: startsSince(31), readyWas: "True", want: "Unknown/Starting"},
		{name: "an object that was not ready is not", alone: true, client: startsSince(1), readyWas: "False", want: "Unknown/Starting"},
		{name: "a client that failed is not ready", client: &failed, readyWas: "True", want: "False/BrokerUnavailable"},
		{name: "a client that tries again is still failed", client: &registry.Status{State: registry.Starting, Desired: 2}, want: "False/BrokerUnavailable",
			hosts: []proxyv1alpha1.HostStatus{{Host: "a", Incarnation: "1", UID: "u", Generation: 2, State: proxyv1alpha1.HostFailed, Reason: "BrokerUnavailable"}}},
		{name: "the failure of an earlier process means nothing", client: &registry.Status{State: registry.Starting, Desired: 2}, want: "Unknown/Starting",
			hosts: []proxyv1alpha1.HostStatus{{Host: "a", Incarnation: "0", UID: "u", Generation: 2, State: proxyv1alpha1.HostFailed, Reason: "BrokerUnavailable"}}},
		{name: "another host's failure counts", client: &running, hosts: []proxyv1alpha1.HostStatus{otherFailed}, want: "False/BrokerUnavailable"},
		{name: "the failure of a process that is gone does not", client: &running, want: "True/Ready",
			hosts: []proxyv1alpha1.HostStatus{{Host: "b", Incarnation: "1", UID: "u", Generation: 2, State: proxyv1alpha1.HostFailed}}},
		{name: "a failure of an older generation does not", client: &running, want: "True/Ready",
			hosts: []proxyv1alpha1.HostStatus{{Host: "b", Incarnation: "2", UID: "u", Generation: 1, State: proxyv1alpha1.HostFailed}}},
		{name: "a failure of another object of the name does not", client: &running, want: "True/Ready",
			hosts: []proxyv1alpha1.HostStatus{{Host: "b", Incarnation: "2", UID: "v", Generation: 2, State: proxyv1alpha1.HostFailed}}},
		{name: "a suspended object is not ready, whatever fails", client: &failed, suspended: true, want: "False/Suspended"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := &proxyv1alpha1.Producer{}
			o.UID, o.Generation, o.Status.Hosts = "u", 2, c.hosts
			if c.readyWas != "" {
				o.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: c.readyWas, Reason: "Ready", ObservedGeneration: 2}}
			}
			f := &facts{host: "a", incarnation: "1", peers: peers, client: c.client, suspended: c.suspended, now: time.Unix(1, 0)}
			if c.alone {
				f.peers = peers[:1]
			}
			status := newStatus(o, f)
			got := ""
			if status != nil {
				o.Status = *status
				ready := conditionOf(o, "Ready")
				got = string(ready.Status) + "/" + ready.Reason
			}
			if got != c.want {
				t.Errorf("Ready is %q, want %q", got, c.want)
			}
			if status == nil {
				return
			}
			for _, conditionType := range []string{"Ready", "Accepted", "CredentialsReady", "Connected", "Reconciling", "Stalled"} {
				if conditionOf(o, conditionType).Reason == "" {
					t.Errorf("%s is missing", conditionType)
				}
			}
			o.Status.Hosts = c.hosts
			f.now = time.Unix(99, 0)
			if again := newStatus(o, f); again != nil && !sameStatus(again, o.Reported()) {
				t.Errorf("computed again it differs: %+v", again)
			}
		})
	}
}
