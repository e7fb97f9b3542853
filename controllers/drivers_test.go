// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/choice"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// declared is a driver that only says what it is.
type declared struct {
	driver.Driver
	name         string
	capabilities driver.Capabilities
}

func (d declared) Name() string                      { return d.name }
func (d declared) Capabilities() driver.Capabilities { return d.capabilities }

// testSet is a DriverSet with the capabilities that matter here.
func testSet(lines Lines) DriverSet {
	return DriverSet{
		ClientGo: declared{name: "ClientGo", capabilities: driver.Capabilities{SingleHost: true}},
		Remoting: declared{name: "Remoting", capabilities: driver.Capabilities{TLS: true, IdleConsumers: true, Transactions: true, Broadcast: true, Ordered: true}}, Lines: lines,
	}
}

// brokers are asked for their version by the chooser of a test.
type brokers struct {
	mu   sync.Mutex
	line choice.Line
	err  error
}

func (b *brokers) set(line choice.Line, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.line, b.err = line, err
}

func (b *brokers) probe(context.Context, driver.Connection) (choice.Finding, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return choice.Finding{Line: b.line, Evidence: "broker-a is of " + b.line.String()}, b.err
}

var errAway = driver.Errorf(driver.Unavailable, "", "connect to \"broker:10911\": connection refused")

// TestAutoFollowsTheBrokersVersion: an object waits for brokers that are away, uses the driver that fits when they come, keeps its client while they
// are away again, and changes the driver when they are others.
func TestAutoFollowsTheBrokersVersion(t *testing.T) {
	b := &brokers{err: errAway}
	op := newOperator(t, operatorOptions{namespace: newNamespace(t), probe: b.probe})
	var mu sync.Mutex
	var opened []string
	op.opener.beforeOpen = func(s registry.Spec) {
		mu.Lock()
		defer mu.Unlock()
		opened = append(opened, s.Driver)
	}
	op.start()
	o := op.apply("Consumer", "mailer", goodConsumer)
	op.waitCondition(o, "mailer", proxyv1alpha1.ConditionReady, "False", proxyv1alpha1.ReasonBrokerVersionUnknown)
	op.waitCondition(o, "mailer", proxyv1alpha1.ConditionConnected, "False", proxyv1alpha1.ReasonBrokerVersionUnknown)
	op.waitCondition(o, "mailer", proxyv1alpha1.ConditionStalled, "False", "")
	if c := conditionOf(o, proxyv1alpha1.ConditionReady); !strings.Contains(c.Message, "broker:10911") || !strings.Contains(c.Message, "spec.driver is Auto") {
		t.Errorf("the message tells neither who does not answer nor why it matters: %q", c.Message)
	}
	if n := op.opener.openedEver(string(o.GetUID())); n != 0 {
		t.Errorf("%d clients were opened without knowing the driver", n)
	}

	b.set(choice.Line5, nil)
	op.waitReady(o, "mailer")
	if d := o.Reported().Driver; d != "Remoting" {
		t.Errorf("status.driver is %q, want Remoting for brokers of 5.x", d)
	}
	b.set(choice.Unknown, errAway)
	time.Sleep(300 * time.Millisecond) // three looks at brokers that are away
	op.look(o)
	op.waitReady(o, "mailer")
	b.set(choice.Line4, nil)
	eventually(t, 10*time.Second, "the other driver is in effect", func() bool {
		must(t, op.get(o, "mailer"))
		return o.Reported().Driver == "ClientGo" && op.opener.runningNow(string(o.GetUID())) == 1
	})
	op.waitReady(o, "mailer")
	b.set(choice.Line5, nil)
	eventually(t, 10*time.Second, "and after the upgrade the first one again", func() bool {
		must(t, op.get(o, "mailer"))
		return o.Reported().Driver == "Remoting"
	})
	op.waitReady(o, "mailer")
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"Remoting", "ClientGo", "Remoting"}; !slices.Equal(opened, want) {
		t.Errorf("opened with %v, want %v", opened, want)
	}
	if n := op.opener.most(string(o.GetUID())); n != 1 {
		t.Errorf("%d clients of one Consumer at a time: two drivers in one group take each other's messages", n)
	}
}

// TestARestartWithoutBrokersDoesNothingWrong: the objects wait, and can be deleted.
func TestARestartWithoutBrokersDoesNothingWrong(t *testing.T) {
	namespace := newNamespace(t)
	b := &brokers{line: choice.Line5}
	first := startOperator(t, operatorOptions{namespace: namespace, probe: b.probe})
	o := first.apply("Producer", "orders", goodProducer)
	dying := first.apply("Consumer", "mailer", goodConsumer)
	first.waitReady(o, "orders")
	first.waitReady(dying, "mailer")
	first.stop()

	b.set(choice.Unknown, errAway)
	second := startOperator(t, operatorOptions{namespace: namespace, probe: b.probe, incarnates: first})
	second.waitCondition(o, "orders", proxyv1alpha1.ConditionReady, "False", proxyv1alpha1.ReasonBrokerVersionUnknown)
	if d := o.Reported().Driver; d != "Remoting" {
		t.Errorf("status.driver is %q, want the last that was in effect", d)
	}
	must(t, direct.Delete(t.Context(), dying))
	second.waitGone(dying, 10*time.Second)
	if n := second.opener.runningNow(""); n != 0 {
		t.Errorf("%d clients run", n)
	}
	b.set(choice.Line5, nil)
	second.waitReady(o, "orders")
}

// TestANamedDriverNeedsNoAnswerOfTheBrokers: whoever names the driver is independent of the detection, and can be.
func TestANamedDriverNeedsNoAnswerOfTheBrokers(t *testing.T) {
	b := &brokers{err: errAway}
	op := startOperator(t, operatorOptions{namespace: newNamespace(t), probe: b.probe})
	for _, name := range []string{"ClientGo", "Remoting"} {
		o := op.apply("Producer", strings.ToLower(name), goodProducer+"\ngroup: "+name+"\ndriver: "+name)
		op.waitReady(o, o.GetName())
		if d := o.Reported().Driver; d != name {
			t.Errorf("status.driver is %q, want %s", d, name)
		}
	}
}

// TestTLSIsNeverLeftOut: with brokers of 4.x Auto is a driver that cannot encrypt, so the object is refused; the client that works stays.
func TestTLSIsNeverLeftOut(t *testing.T) {
	b := &brokers{line: choice.Line4}
	op := newOperator(t, operatorOptions{namespace: newNamespace(t), probe: b.probe})
	var mu sync.Mutex
	plain := 0
	op.opener.beforeOpen = func(s registry.Spec) {
		mu.Lock()
		defer mu.Unlock()
		if !s.Producer.Config.Connection.TLS.Enabled {
			plain++
		}
	}
	op.start()
	o := op.apply("Producer", "orders", goodProducer+"\nconnection: {tls: {serverName: broker}}")
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionAccepted, "False", proxyv1alpha1.ReasonUnsupported)
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionStalled, "True", proxyv1alpha1.ReasonUnsupported)
	for _, want := range []string{"spec.connection.tls", "broker-a is of 4.x", "Remoting"} {
		if c := conditionOf(o, proxyv1alpha1.ConditionReady); !strings.Contains(c.Message, want) {
			t.Errorf("the message does not have %q: %q", want, c.Message)
		}
	}
	b.set(choice.Line5, nil)
	op.waitReady(o, "orders")
	b.set(choice.Line4, nil)
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionAccepted, "False", proxyv1alpha1.ReasonUnsupported)
	if n := op.opener.runningNow(string(o.GetUID())); n != 1 {
		t.Errorf("%d clients run, want the one that worked", n)
	}
	mu.Lock()
	defer mu.Unlock()
	if plain != 0 {
		t.Errorf("%d clients were opened in plain text", plain)
	}
}

func TestAnIdleTimeOutNeedsADriverThatLeavesNothing(t *testing.T) {
	b := &brokers{line: choice.Line4}
	op := startOperator(t, operatorOptions{namespace: newNamespace(t), probe: b.probe})
	o := op.apply("Consumer", "mailer", goodConsumer+"\nidleTimeoutSeconds: 1")
	op.waitCondition(o, "mailer", proxyv1alpha1.ConditionAccepted, "False", proxyv1alpha1.ReasonUnsupported)
	if c := conditionOf(o, proxyv1alpha1.ConditionReady); !strings.Contains(c.Message, "spec.idleTimeoutSeconds") {
		t.Errorf("the message does not name the field: %q", c.Message)
	}
	b.set(choice.Line5, nil)
	op.waitCondition(o, "mailer", proxyv1alpha1.ConditionReady, "True", proxyv1alpha1.ReasonIdle)
}

func TestBroadcastingNeedsADriverThatCan(t *testing.T) {
	b := &brokers{line: choice.Line4}
	op := startOperator(t, operatorOptions{namespace: newNamespace(t), probe: b.probe})
	o := op.apply("Consumer", "mailer", goodConsumer+"\nmodel: Broadcasting")
	op.waitCondition(o, "mailer", proxyv1alpha1.ConditionAccepted, "False", proxyv1alpha1.ReasonUnsupported)
	if c := conditionOf(o, proxyv1alpha1.ConditionReady); !strings.Contains(c.Message, "spec.model") || !strings.Contains(c.Message, "ClientGo") {
		t.Errorf("the message names neither the field nor the driver: %q", c.Message)
	}
	b.set(choice.Line5, nil)
	op.waitCondition(o, "mailer", proxyv1alpha1.ConditionReady, "True", proxyv1alpha1.ReasonReady)
}

// fixedLines answer always the same and remember what was asked of them.
type fixedLines struct {
	found     choice.Finding
	err       error
	asked     int
	forgotten int
}

func (l *fixedLines) Ask(registry.Key, driver.Connection) (choice.Finding, error) {
	l.asked++
	return l.found, l.err
}
func (l *fixedLines) Recheck(registry.Key) {}
func (l *fixedLines) Forget(registry.Key)  { l.forgotten++ }

func TestResolveChoosesTheDriver(t *testing.T) {
	four, five := choice.Finding{Line: choice.Line4, Evidence: "seen"}, choice.Finding{Line: choice.Line5}
	encrypted := driver.Connection{TLS: driver.TLS{Enabled: true}}
	for _, c := range []struct {
		name       string
		requested  proxyv1alpha1.DriverName
		connection driver.Connection
		lines      fixedLines
		memory     bool
		want       string
		reason     string // of the error
		asks       bool
	}{
		{name: "Auto with brokers of 5.x", requested: "Auto", lines: fixedLines{found: five}, want: "Remoting", asks: true},
		{name: "Auto with brokers of 4.x", requested: "Auto", lines: fixedLines{found: four}, want: "ClientGo", asks: true},
		{name: "absent is Auto", lines: fixedLines{found: five}, want: "Remoting", asks: true},
		{name: "Auto while the brokers are asked", requested: "Auto", reason: "undecided", asks: true},
		{name: "Auto with brokers away", requested: "Auto", lines: fixedLines{err: errAway}, reason: "BrokerVersionUnknown", asks: true},
		{name: "Auto with a broker at a forbidden address", requested: "Auto", lines: fixedLines{err: driver.Errorf(driver.AddressRefused, "", "x")}, reason: "AddressRefused", asks: true},
		{name: "Auto on a host that stops", requested: "Auto", lines: fixedLines{err: driver.Errorf(driver.Closed, "", "x")}, reason: "ShuttingDown", asks: true},
		{name: "Auto of a demonstration", requested: "Auto", memory: true, want: "Memory"},
		{name: "a named driver", requested: "ClientGo", lines: fixedLines{found: five}, want: "ClientGo"},
		{name: "the other named driver", requested: "Remoting", lines: fixedLines{found: four}, want: "Remoting"},
		{name: "a driver of another version of the operator", requested: "Quic", reason: "Unsupported"},
		{name: "tls with 5.x", requested: "Auto", connection: encrypted, lines: fixedLines{found: five}, want: "Remoting", asks: true},
		{name: "tls with 4.x", requested: "Auto", connection: encrypted, lines: fixedLines{found: four}, want: "ClientGo", reason: "Unsupported", asks: true},
		{name: "tls with ClientGo, by an object older than the rule", requested: "ClientGo", connection: encrypted, want: "ClientGo", reason: "Unsupported"},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := testSet(&c.lines)
			if c.memory {
				set.Memory = declared{name: "Memory"}
			}
			name, _, err := set.Resolve(registry.Key{UID: "u"}, c.requested, c.connection)
			reason := ""
			var stalled *Stalled
			var waiting *Waiting
			switch {
			case errors.Is(err, ErrUndecided):
				reason = "undecided"
			case errors.As(err, &stalled):
				reason = stalled.Reason
			case errors.As(err, &waiting):
				reason = waiting.Reason
			case err != nil:
				t.Errorf("an error of no kind: %v", err)
			}
			if name != c.want || reason != c.reason {
				t.Errorf("resolved to %q, %v; want %q and reason %q", name, err, c.want, c.reason)
			}
			if (c.lines.asked == 1) != c.asks || (c.lines.forgotten == 1) == c.asks {
				t.Errorf("asked %d times, forgotten %d times", c.lines.asked, c.lines.forgotten)
			}
		})
	}
}

func TestTransactionsNeedADriverThatHasThem(t *testing.T) {
	b := &brokers{line: choice.Line4}
	op := startOperator(t, operatorOptions{namespace: newNamespace(t), probe: b.probe})
	o := op.apply("Producer", "orders", goodProducer+"\ntransactions: {}")
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionAccepted, "False", proxyv1alpha1.ReasonUnsupported)
	if c := conditionOf(o, proxyv1alpha1.ConditionReady); !strings.Contains(c.Message, "spec.transactions") || !strings.Contains(c.Message, "Remoting") {
		t.Errorf("the message does not name the field and what to do: %q", c.Message)
	}
	b.set(choice.Line5, nil)
	op.waitReady(o, "orders")
}

func TestOrderNeedsADriverThatDeliversInOrder(t *testing.T) {
	b := &brokers{line: choice.Line4}
	op := startOperator(t, operatorOptions{namespace: newNamespace(t), probe: b.probe})
	o := op.apply("Consumer", "mailer", goodConsumer+"\norder: Ordered")
	op.waitCondition(o, "mailer", proxyv1alpha1.ConditionAccepted, "False", proxyv1alpha1.ReasonUnsupported)
	if c := conditionOf(o, proxyv1alpha1.ConditionReady); !strings.Contains(c.Message, "spec.order") || !strings.Contains(c.Message, "Remoting") {
		t.Errorf("the message does not name the field and what to do: %q", c.Message)
	}
	b.set(choice.Line5, nil)
	op.waitCondition(o, "mailer", proxyv1alpha1.ConditionReady, "True", proxyv1alpha1.ReasonReady)
}
