// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// apply creates a Producer or Consumer from the YAML of its spec.
func (op *operator) apply(kind, name, spec string) object {
	op.t.Helper()
	must(op.t, direct.Create(op.t.Context(), raw(op.t, kind, op.options.namespace, name, spec)))
	var o object = &proxyv1alpha1.Producer{}
	if kind == "Consumer" {
		o = &proxyv1alpha1.Consumer{}
	}
	must(op.t, op.get(o, name))
	return o
}

// change patches the spec of an object.
func (op *operator) change(o object, f func()) {
	op.t.Helper()
	base := o.DeepCopyObject().(object)
	f()
	must(op.t, direct.Patch(op.t.Context(), o, client.MergeFrom(base)))
}

// look asks the host to look at the object and its Secrets now; otherwise they are read again after a minute.
func (op *operator) look(o object) {
	op.controls.secrets.mu.Lock()
	clear(op.controls.secrets.reads)
	op.controls.secrets.mu.Unlock()
	op.waker.Notify(keyOf(o))
}

func keyOf(o object) registry.Key {
	return registry.Key{Kind: registry.Kind(kindOf(o)), UID: string(o.GetUID())}
}

func TestAProducerBecomesReadyAndItsStatusTellsHow(t *testing.T) {
	namespace := newNamespace(t)
	config, wire := onWire(t, nil)
	op := startOperator(t, operatorOptions{namespace: namespace, config: config})
	o := op.apply("Producer", "orders", goodProducer)
	op.waitReady(o, "orders")
	for conditionType, want := range map[string]string{
		proxyv1alpha1.ConditionReady: "True/Ready", proxyv1alpha1.ConditionAccepted: "True/Accepted",
		proxyv1alpha1.ConditionCredentialsReady: "True/NotRequired", proxyv1alpha1.ConditionConnected: "True/Connected",
		proxyv1alpha1.ConditionReconciling: "False/Succeeded", proxyv1alpha1.ConditionStalled: "False/Succeeded",
	} {
		if c := conditionOf(o, conditionType); string(c.Status)+"/"+c.Reason != want {
			t.Errorf("%s is %s/%s, want %s", conditionType, c.Status, c.Reason, want)
		}
	}
	s := o.Reported()
	if s.Group != namespace+"_orders" || s.Driver != "memory" || s.Endpoint != "proxy.test:8081" || s.ObservedGeneration != 1 || len(s.Hosts) != 0 {
		t.Errorf("status is %+v", s)
	}
	if n := op.opener.runningNow(string(o.GetUID())); n != 1 {
		t.Errorf("%d clients run, want 1", n)
	}
	op.waitEvent("Ready", "applications can use it")
	// The Lease, the finalizer, "starting", "ready", and one that met a cache behind the own write: a healthy object costs no more, and nothing as
	// time goes by.
	op.look(o)
	eventually(t, 10*time.Second, "two audits have looked at it", func() bool { return len(op.observer.auditsNow()) >= 2 })
	if w := wire.written(); len(w) > 5 {
		t.Errorf("%d writes for one healthy object: %q", len(w), w)
	}
}

// waitEvent waits for an Event with the reason whose note contains the text.
func (op *operator) waitEvent(reason, text string) eventsv1.Event {
	op.t.Helper()
	var found eventsv1.Event
	eventually(op.t, 10*time.Second, "an event "+reason+" with "+text, func() bool {
		var list eventsv1.EventList
		must(op.t, direct.List(op.t.Context(), &list, client.InNamespace(op.options.namespace)))
		i := slices.IndexFunc(list.Items, func(e eventsv1.Event) bool { return e.Reason == reason && strings.Contains(e.Note, text) })
		if i >= 0 {
			found = list.Items[i]
		}
		return i >= 0
	})
	return found
}

func TestAProducerWhoseBrokerIsDownSaysSoAndRecovers(t *testing.T) {
	op := newOperator(t, operatorOptions{namespace: newNamespace(t)})
	op.opener.fail = func(registry.Spec) error {
		return driver.Errorf(driver.Unavailable, "connection.nameServers[0]", "dial 10.0.0.9:40123->10.0.0.7:9876: connection refused")
	}
	op.start()
	o := op.apply("Producer", "orders", goodProducer)
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionReady, "False", proxyv1alpha1.ReasonBrokerUnavailable)
	if c := conditionOf(o, proxyv1alpha1.ConditionReady); !strings.Contains(c.Message, "host host-a:") || !strings.Contains(c.Message, "connection refused") {
		t.Errorf("the message does not name the host and the cause: %q", c.Message)
	}
	if c := conditionOf(o, proxyv1alpha1.ConditionStalled); c.Status != metav1.ConditionFalse {
		t.Errorf("Stalled is %s although the broker may come back by itself", c.Status)
	}
	hosts := o.Reported().Hosts
	if len(hosts) != 1 || hosts[0].Host != "host-a" || hosts[0].State != proxyv1alpha1.HostFailed || hosts[0].Incarnation != op.host.Incarnation() ||
		hosts[0].UID != o.GetUID() || hosts[0].Generation != 1 || strings.Contains(hosts[0].Message, "40123") {
		t.Errorf("status.hosts is %+v", hosts)
	}
	op.waitEvent(proxyv1alpha1.ReasonBrokerUnavailable, "connection refused")
	op.opener.set(func(f *opener) { f.fail = nil })
	op.waitReady(o, "orders")
	eventually(t, 5*time.Second, "the host's entry is withdrawn", func() bool {
		must(t, op.get(o, "orders"))
		return len(o.Reported().Hosts) == 0
	})
}

func TestTheSecretIsWaitedForAndItsRotationIsProven(t *testing.T) {
	op := newOperator(t, operatorOptions{namespace: newNamespace(t)})
	op.opener.fail = func(s registry.Spec) error {
		if s.Producer.Config.Connection.Credentials.SecretKey == "wrong" {
			return driver.Errorf(driver.Unauthorized, "", "the signature does not match")
		}
		return nil
	}
	op.start()
	o := op.apply("Producer", "orders", goodProducer+"\nconnection: {credentialsSecretRef: {name: acl}}")
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionReady, "False", proxyv1alpha1.ReasonSecretNotFound)
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionCredentialsReady, "False", proxyv1alpha1.ReasonSecretNotFound)

	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: op.options.namespace, Name: "acl"}, StringData: map[string]string{"accessKey": "me"}}
	must(t, direct.Create(t.Context(), secret))
	op.look(o)
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionCredentialsReady, "False", proxyv1alpha1.ReasonSecretKeyMissing)
	if c := conditionOf(o, proxyv1alpha1.ConditionReady); !strings.Contains(c.Message, `"secretKey"`) {
		t.Errorf("the message does not name the key that is missing: %q", c.Message)
	}
	setSecret := func(value string) {
		secret.StringData = map[string]string{"secretKey": value}
		must(t, direct.Update(t.Context(), secret))
		op.look(o)
	}
	setSecret("right-one")
	op.waitReady(o, "orders")
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionCredentialsReady, "True", proxyv1alpha1.ReasonCredentialsFound)

	setSecret("wrong")
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionCredentialsReady, "False", proxyv1alpha1.ReasonCredentialsRefused)
	if n := op.opener.runningNow(string(o.GetUID())); n != 1 {
		t.Errorf("%d clients run after a bad rotation, want the last good one", n)
	}
	setSecret("right-two")
	op.waitReady(o, "orders")

	// A Secret that goes while its client runs: the client stays, and deleting the object does not need it.
	must(t, direct.Delete(t.Context(), secret))
	op.look(o)
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionCredentialsReady, "False", proxyv1alpha1.ReasonSecretNotFound)
	if c := conditionOf(o, proxyv1alpha1.ConditionReady); c.Status != metav1.ConditionTrue || op.opener.runningNow(string(o.GetUID())) != 1 {
		t.Errorf("Ready is %s and %d clients run, want True and 1", c.Status, op.opener.runningNow(string(o.GetUID())))
	}
	op.waitNoSecret(o, "right-one", "right-two", "wrong")
}

// TestWhoRotatesASecretAndThenTouchesAnObjectGetsTheNewOne: of two objects that name one Secret, which was rotated, only the first one's pass read it; the
// other's had a copy of a moment ago, said that it was Ready, and went on with credentials that were then taken away.
func TestWhoRotatesASecretAndThenTouchesAnObjectGetsTheNewOne(t *testing.T) {
	op := newOperator(t, operatorOptions{namespace: newNamespace(t)})
	var mu sync.Mutex
	used := map[string]string{}
	op.opener.beforeOpen = func(s registry.Spec) {
		mu.Lock()
		defer mu.Unlock()
		used[s.Name] = s.Connection().Credentials.SecretKey
	}
	op.start()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: op.options.namespace, Name: "acl"}, StringData: map[string]string{"accessKey": "me", "secretKey": "v0"}}
	must(t, direct.Create(t.Context(), secret))
	names := []string{"one", "two", "three"}
	var objects []*proxyv1alpha1.Producer
	for _, name := range names {
		objects = append(objects, op.apply("Producer", name, goodProducer+"\nconnection: {credentialsSecretRef: {name: acl}}").(*proxyv1alpha1.Producer))
	}
	for i, name := range names {
		op.waitReady(objects[i], name)
	}
	for round := range 3 {
		want := fmt.Sprint("v", round+1)
		secret.StringData = map[string]string{"secretKey": want}
		must(t, direct.Update(t.Context(), secret))
		for _, o := range objects {
			op.change(o, func() { o.Spec.DrainTimeoutSeconds = new(int32(round + 40)) })
		}
		for i, name := range names {
			eventually(t, secretInterval/5, name+" uses "+want, func() bool {
				mu.Lock()
				defer mu.Unlock()
				return used[name] == want
			})
			op.waitReady(objects[i], name)
		}
	}
	// A new object too.
	secret.StringData = map[string]string{"secretKey": "last"}
	must(t, direct.Update(t.Context(), secret))
	op.waitReady(op.apply("Producer", "four", goodProducer+"\nconnection: {credentialsSecretRef: {name: acl}}"), "four")
	mu.Lock()
	defer mu.Unlock()
	if used["four"] != "last" {
		t.Errorf("an object that was made after the Secret was rotated opened with %q", used["four"])
	}
}

// waitNoSecret reads everything that the API server shows of an object, and its events, for the secret words.
func (op *operator) waitNoSecret(o object, words ...string) {
	op.t.Helper()
	must(op.t, op.get(o, o.GetName()))
	var list eventsv1.EventList
	must(op.t, direct.List(op.t.Context(), &list, client.InNamespace(op.options.namespace)))
	for _, text := range []any{o, list} {
		printed := toYAML(op.t, text)
		for _, word := range words {
			if strings.Contains(printed, word) {
				op.t.Errorf("the secret %q is in:\n%s", word, printed)
			}
		}
	}
}

func TestASuspendedProducerHasNoClientAndComesBack(t *testing.T) {
	op := startOperator(t, operatorOptions{namespace: newNamespace(t)})
	o := op.apply("Producer", "orders", goodProducer).(*proxyv1alpha1.Producer)
	op.waitReady(o, "orders")
	op.change(o, func() { o.Spec.Suspend = true })
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionReady, "False", proxyv1alpha1.ReasonSuspended)
	eventually(t, 5*time.Second, "no client runs", func() bool { return op.opener.runningNow("") == 0 })
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionReconciling, "False", proxyv1alpha1.ReasonSuspended)
	op.change(o, func() { o.Spec.Suspend = false })
	op.waitReady(o, "orders")
	if n := op.opener.runningNow(string(o.GetUID())); n != 1 {
		t.Errorf("%d clients run after the resume, want 1", n)
	}
}

func TestABadChangeLeavesTheLastGoodClient(t *testing.T) {
	op := newOperator(t, operatorOptions{namespace: newNamespace(t)})
	op.opener.fail = func(s registry.Spec) error {
		if slices.Contains(s.Connection().NameServers, "wrong:1") {
			return driver.Errorf(driver.Unavailable, "", "no such host")
		}
		return nil
	}
	op.start()
	o := op.apply("Producer", "orders", goodProducer).(*proxyv1alpha1.Producer)
	op.waitReady(o, "orders")
	op.change(o, func() { o.Spec.Connection.NameServers = []string{"wrong:1"} })
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionReady, "False", proxyv1alpha1.ReasonBrokerUnavailable)
	if c := conditionOf(o, proxyv1alpha1.ConditionReady); !strings.Contains(c.Message, "generation 1 keeps serving") {
		t.Errorf("the message does not say that the old client serves: %q", c.Message)
	}
	if n := op.opener.runningNow(string(o.GetUID())); n != 1 {
		t.Errorf("%d clients run, want the last good one", n)
	}
	op.change(o, func() { o.Spec.Connection.NameServers = nil })
	op.waitReady(o, "orders")
}

func TestOfTwoObjectsInOneGroupTheYoungerWaits(t *testing.T) {
	namespace := newNamespace(t)
	op := startOperator(t, operatorOptions{namespace: namespace})
	older := op.apply("Producer", "older", goodProducer+"\ngroup: g")
	op.waitReady(older, "older")
	eventually(t, 2*time.Second, "another second has begun, creation times have no smaller unit", func() bool {
		return time.Now().Unix() > older.GetCreationTimestamp().Unix()
	})
	younger := op.apply("Producer", "younger", goodProducer+"\ngroup: g")
	op.waitCondition(younger, "younger", proxyv1alpha1.ConditionAccepted, "False", proxyv1alpha1.ReasonGroupInUse)
	op.waitCondition(younger, "younger", proxyv1alpha1.ConditionReady, "False", proxyv1alpha1.ReasonGroupInUse)
	if c := conditionOf(younger, proxyv1alpha1.ConditionAccepted); !strings.Contains(c.Message, namespace+"/older") {
		t.Errorf("the message does not name the older object of the same namespace: %q", c.Message)
	}
	must(t, direct.Delete(t.Context(), older))
	op.waitReady(younger, "younger")
}

func TestWhatCanNeverWorkIsStalled(t *testing.T) {
	for _, c := range []struct {
		name, spec, reason, text string
		options                  operatorOptions
		fail                     error
	}{
		{name: "nobody names a name server", spec: goodProducer, reason: proxyv1alpha1.ReasonNameServersMissing, text: "spec.connection.nameServers",
			options: operatorOptions{defaults: []string{}}},
		{name: "the name server is not allowed", spec: goodProducer + "\nconnection: {nameServers: ['evil:1']}", reason: proxyv1alpha1.ReasonAddressRefused,
			text: `spec.connection.nameServers[0] "evil:1"`, options: operatorOptions{addresses: []string{"*.good.example"}}},
		{name: "the name server is the cloud's metadata service", spec: goodProducer + "\nconnection: {nameServers: ['169.254.169.254:80']}",
			reason: proxyv1alpha1.ReasonAddressRefused, text: "link-local"},
		{name: "the address for checks is not allowed", spec: goodProducer + "\ntransactions: {checkURL: 'http://evil/checks?a=b'}",
			reason: proxyv1alpha1.ReasonAddressRefused, text: `spec.transactions.checkURL: evil:80`, options: operatorOptions{addresses: []string{"*.good.example"}}},
		{name: "the address for checks is the cloud's metadata service", spec: goodProducer + "\ntransactions: {checkURL: 'http://169.254.169.254/latest'}",
			reason: proxyv1alpha1.ReasonAddressRefused, text: "link-local"},
		{name: "a broker address is refused", spec: goodProducer, reason: proxyv1alpha1.ReasonAddressRefused, text: "127.0.0.1",
			fail: driver.Errorf(driver.AddressRefused, "", "the route names a broker at 127.0.0.1:10911")},
		{name: "the driver cannot do it", spec: goodProducer, reason: proxyv1alpha1.ReasonUnsupported, text: "cannot",
			fail: driver.Errorf(driver.Unsupported, "", "this broker cannot")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.options.namespace = newNamespace(t)
			op := newOperator(t, c.options)
			if c.fail != nil {
				op.opener.fail = func(registry.Spec) error { return c.fail }
			}
			op.start()
			o := op.apply("Producer", "orders", c.spec)
			op.waitCondition(o, "orders", proxyv1alpha1.ConditionStalled, "True", c.reason)
			op.waitCondition(o, "orders", proxyv1alpha1.ConditionAccepted, "False", c.reason)
			if m := conditionOf(o, proxyv1alpha1.ConditionAccepted).Message; !strings.Contains(m, c.text) {
				t.Errorf("the message does not contain %q: %q", c.text, m)
			}
			must(t, direct.Delete(t.Context(), o))
			op.waitGone(o, 10*time.Second)
		})
	}
}

func TestAClientThatLosesItsBrokerIsReported(t *testing.T) {
	op := startOperator(t, operatorOptions{namespace: newNamespace(t)})
	o := op.apply("Producer", "orders", goodProducer)
	op.waitReady(o, "orders")
	op.opener.setHealth(driver.Errorf(driver.Unavailable, "", "the connection to the broker is lost"))
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionConnected, "False", proxyv1alpha1.ReasonBrokerUnavailable)
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionReady, "False", proxyv1alpha1.ReasonBrokerUnavailable)
	op.opener.setHealth(nil)
	op.waitReady(o, "orders")
}

// TestSeedReportProducersAreReleased: seed report row 1, "producers are created, never released". Create, suspend, change and delete over and over;
// every client that was ever opened is closed.
func TestSeedReportProducersAreReleased(t *testing.T) {
	op := startOperator(t, operatorOptions{namespace: newNamespace(t)})
	for i := range 5 {
		o := op.apply("Producer", "orders", goodProducer).(*proxyv1alpha1.Producer)
		op.waitReady(o, "orders")
		op.change(o, func() { o.Spec.Topics = append(o.Spec.Topics, "more") })
		op.waitReady(o, "orders")
		must(t, direct.Delete(t.Context(), o))
		op.waitGone(o, 10*time.Second)
		if opened := op.opener.openedEver(string(o.GetUID())); opened < 2 {
			t.Fatalf("round %d: %d clients were opened, want one per generation: otherwise this test shows nothing", i, opened)
		}
	}
	if n, entries := op.opener.runningNow(""), op.registry.List(); n != 0 || len(entries) != 0 {
		t.Errorf("%d clients and %d entries are left", n, len(entries))
	}
}

// TestSeedReportTheAuditFindsAndRepairs: seed report, "leak detections": a client without an object is found and released.
func TestSeedReportTheAuditFindsAndRepairs(t *testing.T) {
	op := startOperator(t, operatorOptions{namespace: newNamespace(t), allowed: []string{"client without an object"}})
	spec := registry.Spec{
		Key: registry.Key{Kind: registry.Producer, UID: "nobody"}, Namespace: op.options.namespace, Name: "nobody", Created: time.Now(), Driver: "memory", Group: "g",
		Producer: &registry.ProducerSpec{Config: driver.ProducerConfig{Topics: []string{"a"}}},
		Confirm:  confirmAlways,
	}
	op.registry.Acquire(spec)
	eventually(t, 5*time.Second, "the stray client runs", func() bool { return op.opener.runningNow("nobody") == 1 })
	eventually(t, 10*time.Second, "the audit has released it", func() bool { return op.opener.runningNow("nobody") == 0 })
	eventually(t, 5*time.Second, "the audit has reported it", func() bool {
		return slices.ContainsFunc(op.observer.auditsNow(), func(r registry.AuditReport) bool { return len(r.EntriesWithoutObject) == 1 })
	})
}

func TestExplainKnowsWhatWaitsForWhom(t *testing.T) {
	for _, c := range []struct {
		name, condition, reason string
		err                     error
		stalled                 bool
	}{
		{"a broker that does not answer is tried again", "Connected", "BrokerUnavailable", driver.Errorf(driver.Timeout, "", "x"), false},
		{"a busy broker is an unavailable one", "Connected", "BrokerUnavailable", driver.Errorf(driver.Throttled, "", "x"), false},
		{"a topic may be created later", "Connected", "TopicNotFound", driver.Errorf(driver.TopicNotFound, "", "x"), false},
		{"classic members of a group may leave", "Connected", "GroupHasClassicMembers", driver.Errorf(driver.GroupHasClassicMembers, "group", "x"), false},
		{"credentials may be corrected in the Secret", "CredentialsReady", "CredentialsRefused", driver.Errorf(driver.Unauthorized, "", "x"), false},
		{"a filter that does not parse waits for the user", "Accepted", "InvalidFilter", driver.Errorf(driver.InvalidFilter, "", "x"), true},
		{"a group in use waits for the user", "Accepted", "GroupInUse", &registry.GroupInUseError{Group: "g"}, true},
		{"an API server that is away is tried again", "Connected", "APIServerUnavailable", &registry.ConfirmError{Err: errors.New("x")}, false},
		{"a host that stops says so", "Connected", "ShuttingDown", registry.ErrGateClosed, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := explain(c.err)
			if v.condition != c.condition || v.reason != c.reason || v.stalled != c.stalled {
				t.Errorf("explain(%v) = %+v", c.err, v)
			}
		})
	}
}
