// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// moves is a RocketMQ whose groups are moved by any number of hosts.
type moves struct {
	mu   sync.Mutex
	done []string
	// fail answers the next moves with errors, one each.
	fail []error
	// hang lets moves of a host wait until their context ends.
	hang string
}

func (m *moves) by(host string) Mover {
	return func(ctx context.Context, namespace, name string, to driver.Target) (string, error) {
		m.mu.Lock()
		hang := m.hang == host
		m.mu.Unlock()
		if hang {
			<-ctx.Done()
			return "", driver.Errorf(driver.Timeout, "", "hung: %w", ctx.Err())
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.fail) > 0 {
			err := m.fail[0]
			m.fail = m.fail[1:]
			return "", err
		}
		m.done = append(m.done, to.String())
		return fmt.Sprintf("mark-%d", len(m.done)), nil
	}
}

func (m *moves) so() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.done...)
}

// annotate sets the annotation, or takes it away.
func (op *operator) annotate(name, value string) {
	op.t.Helper()
	c := &proxyv1alpha1.Consumer{}
	must(op.t, op.get(c, name))
	before := c.DeepCopy()
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	if c.Annotations[proxyv1alpha1.SeekAnnotation] = value; value == "" {
		delete(c.Annotations, proxyv1alpha1.SeekAnnotation)
	}
	must(op.t, direct.Patch(op.t.Context(), c, client.MergeFrom(before)))
}

// waitSeek waits until status.seek is as wanted.
func (op *operator) waitSeek(name, what string, wanted func(*proxyv1alpha1.SeekStatus) bool) *proxyv1alpha1.SeekStatus {
	op.t.Helper()
	c := &proxyv1alpha1.Consumer{}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		must(op.t, op.get(c, name))
		if c.Status.Seek != nil && wanted(c.Status.Seek) {
			return c.Status.Seek
		}
		if time.Now().After(deadline) {
			op.t.Fatalf("status.seek is not %s: %+v", what, c.Status.Seek)
		}
	}
}

func inState(state proxyv1alpha1.SeekState, to string) func(*proxyv1alpha1.SeekStatus) bool {
	return func(s *proxyv1alpha1.SeekStatus) bool { return s.State == state && s.To == to }
}

// wantEvent waits for an Event of the reason whose note has the text.
func (op *operator) wantEvent(reason, text string) {
	op.t.Helper()
	eventually(op.t, 10*time.Second, "an Event "+reason+" that says "+text, func() bool {
		list := &eventsv1.EventList{}
		must(op.t, direct.List(op.t.Context(), list, client.InNamespace(op.options.namespace)))
		for _, e := range list.Items {
			if e.Reason == reason && strings.Contains(e.Note, text) {
				return true
			}
		}
		return false
	})
}

// told keeps the last mark that each host's client was told.
type told struct {
	mu    sync.Mutex
	marks map[string]string
}

func (x *told) on(op *operator, host string) {
	op.opener.set(func(o *opener) {
		o.update = func(spec registry.Spec) bool {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.marks[host] = spec.Consumer.SeekMark
			return true
		}
	})
}

func (x *told) all(mark string, hosts ...string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, h := range hosts {
		if x.marks[h] != mark {
			return false
		}
	}
	return true
}

func TestTheAnnotationMovesAConsumerOnceOverAllHosts(t *testing.T) {
	namespace, broker, hears := newNamespace(t), &moves{}, &told{marks: map[string]string{}}
	hosts := make([]*operator, 2)
	for i, id := range []string{"host-a", "host-b"} {
		hosts[i] = newOperator(t, operatorOptions{namespace: namespace, hostID: id, renewEvery: 200 * time.Millisecond, move: broker.by(id)})
		hears.on(hosts[i], id)
		hosts[i].start()
	}
	op := hosts[0]
	o := op.apply("Consumer", "mailer", goodConsumer)
	op.waitReady(o, "mailer")
	eventually(t, 10*time.Second, "both hosts have a client", func() bool {
		return hosts[0].opener.runningNow("") == 1 && hosts[1].opener.runningNow("") == 1
	})
	op.annotate("mailer", " Latest ")
	s := op.waitSeek("mailer", "done", inState(proxyv1alpha1.SeekDone, "Latest"))
	if s.By != proxyv1alpha1.SeekByAnnotation || s.Annotation != "Latest" || s.Mark != "mark-1" || s.RequestedAt == nil || s.CompletedAt == nil || s.Message != "" {
		t.Errorf("status.seek is %+v", s)
	}
	eventually(t, 10*time.Second, "both hosts know what is from before", func() bool { return hears.all("mark-1", "host-a", "host-b") })
	op.wantEvent("Sought", "moved to Latest by annotation")

	// The same value is done: neither another change nor another pass moves again. Taken away and set anew, it is another wish.
	change := raw(t, "Consumer", namespace, "mailer", goodConsumer+"\nmaxInFlight: 7")
	must(t, direct.Get(t.Context(), client.ObjectKeyFromObject(change), change))
	change.Object["spec"].(map[string]any)["maxInFlight"] = int64(7)
	must(t, direct.Update(t.Context(), change))
	op.waitReady(o, "mailer")
	op.annotate("mailer", "")
	op.waitSeek("mailer", "without the annotation", func(s *proxyv1alpha1.SeekStatus) bool { return s.Annotation == "" })
	if done := broker.so(); len(done) != 1 {
		t.Errorf("moved %q, want once", done)
	}
	op.annotate("mailer", "Latest")
	op.waitSeek("mailer", "done again", func(s *proxyv1alpha1.SeekStatus) bool { return s.State == proxyv1alpha1.SeekDone && s.Mark == "mark-2" })
	op.annotate("mailer", "2026-11-26T09:00:00.5+01:00")
	op.waitSeek("mailer", "done a third time", inState(proxyv1alpha1.SeekDone, "2026-11-26T08:00:00.5Z"))
	eventually(t, 10*time.Second, "both hosts know the last one", func() bool { return hears.all("mark-3", "host-a", "host-b") })
	if done := strings.Join(broker.so(), " "); done != "Latest Latest 2026-11-26T08:00:00.5Z" {
		t.Errorf("moved to %q", done)
	}
	if c := conditionOf(o, proxyv1alpha1.ConditionReady); c.Status != "True" {
		t.Errorf("a seek is no trouble of the Consumer: %+v", c)
	}
}

func TestABadAnnotationSaysWhatToWriteAndAGoodOneWorksAfterIt(t *testing.T) {
	broker := &moves{}
	op := startOperator(t, operatorOptions{namespace: newNamespace(t), move: broker.by("host-a")})
	op.waitReady(op.apply("Consumer", "mailer", goodConsumer), "mailer")
	for _, bad := range []string{"yesterday", "latest", "2026-11-26", "1764144000", strings.Repeat("x", 5000), "ü" + strings.Repeat("ü", 90)} {
		op.annotate("mailer", bad)
		s := op.waitSeek("mailer", "failed for "+bad, func(s *proxyv1alpha1.SeekStatus) bool {
			return s.State == proxyv1alpha1.SeekFailed && s.Annotation == clip(bad)
		})
		if !strings.Contains(s.Message, "RFC 3339") || !strings.Contains(s.Message, proxyv1alpha1.SeekAnnotation) {
			t.Errorf("%q: the message is %q", bad, s.Message)
		}
	}
	op.wantEvent("SeekFailed", "RFC 3339")
	op.annotate("mailer", "Earliest")
	op.waitSeek("mailer", "done", inState(proxyv1alpha1.SeekDone, "Earliest"))
	if done := broker.so(); len(done) != 1 {
		t.Errorf("moved %q", done)
	}
}

func TestASeekIsTriedUntilItWorksOrNeverCan(t *testing.T) {
	broker := &moves{fail: []error{
		driver.Errorf(driver.Unavailable, "", "broker-a is away"), &registry.NotFoundError{Kind: registry.Consumer, Namespace: "n", Name: "mailer"},
	}}
	op := newOperator(t, operatorOptions{namespace: newNamespace(t), move: broker.by("host-a")})
	op.start()
	op.waitReady(op.apply("Consumer", "mailer", goodConsumer), "mailer")
	op.annotate("mailer", "Earliest")
	op.waitSeek("mailer", "under way with the reason", func(s *proxyv1alpha1.SeekStatus) bool {
		return s.State == proxyv1alpha1.SeekMoving && strings.Contains(s.Message, "broker-a is away")
	})
	if s := op.waitSeek("mailer", "done", inState(proxyv1alpha1.SeekDone, "Earliest")); s.Message != "" {
		t.Errorf("the message of what was overcome is still there: %q", s.Message)
	}
	broker.mu.Lock()
	broker.fail = []error{driver.Errorf(driver.Unsupported, "driver", "the driver ClientGo cannot move a group")}
	broker.mu.Unlock()
	op.annotate("mailer", "Latest")
	s := op.waitSeek("mailer", "failed", inState(proxyv1alpha1.SeekFailed, "Latest"))
	if !strings.Contains(s.Message, "ClientGo cannot") || s.Mark != "mark-1" {
		t.Errorf("status.seek is %+v; what the last seek left for the hosts must stay", s)
	}
	op.wantEvent("SeekFailed", "ClientGo cannot")
}

// TestAnotherHostFinishesTheSeekOfOneThatIsGone: the first host dies while it moves the group.
func TestAnotherHostFinishesTheSeekOfOneThatIsGone(t *testing.T) {
	namespace, broker := newNamespace(t), &moves{hang: "host-a"}
	options := operatorOptions{namespace: namespace, hostID: "host-a", renewEvery: 200 * time.Millisecond, leaseDuration: time.Second, move: broker.by("host-a")}
	first := startOperator(t, options)
	first.waitReady(first.apply("Consumer", "mailer", goodConsumer), "mailer")
	first.annotate("mailer", "Earliest")
	first.waitSeek("mailer", "under way", func(s *proxyv1alpha1.SeekStatus) bool {
		return s.State == proxyv1alpha1.SeekMoving && s.Host == "host-a"
	})
	options.hostID, options.move = "host-b", broker.by("host-b")
	second := startOperator(t, options)
	eventually(t, 10*time.Second, "the second host sees both", func() bool { return len(second.host.Peers()) == 2 })
	first.kill()
	if s := second.waitSeek("mailer", "done", inState(proxyv1alpha1.SeekDone, "Earliest")); s.Host != "host-b" {
		t.Errorf("status.seek is %+v", s)
	}
	if done := broker.so(); len(done) != 1 {
		t.Errorf("moved %q", done)
	}
}

func TestACallOfSeekIsRecorded(t *testing.T) {
	broker := &moves{}
	op := startOperator(t, operatorOptions{namespace: newNamespace(t), move: broker.by("host-a")})
	o := op.apply("Consumer", "mailer", goodConsumer)
	op.waitReady(o, "mailer")
	entered, leave := make(chan struct{}), make(chan struct{})
	call := func(key registry.Key, move Mover) error {
		to := driver.Target{To: driver.Earliest}
		return op.controls.Seeks().Seek(t.Context(), server.Seek{
			Key: key, Namespace: op.options.namespace, Name: "mailer", To: to, By: "system:serviceaccount:shop:ops",
			Move: func(ctx context.Context) (string, error) { return move(ctx, op.options.namespace, "mailer", to) },
		})
	}
	key := registry.Key{Kind: registry.Consumer, UID: string(o.GetUID())}
	first := make(chan error, 1)
	go func() {
		first <- call(key, func(ctx context.Context, namespace, name string, to driver.Target) (string, error) {
			close(entered)
			<-leave
			return broker.by("host-a")(ctx, namespace, name, to)
		})
	}()
	<-entered
	if s := op.waitSeek("mailer", "under way", inState(proxyv1alpha1.SeekMoving, "Earliest")); s.By != "system:serviceaccount:shop:ops" {
		t.Errorf("status.seek is %+v", s)
	}
	if err := call(key, broker.by("host-a")); driver.ReasonOf(err) != driver.Unavailable || !strings.Contains(err.Error(), "under way") {
		t.Errorf("a second seek meanwhile: %v", err)
	}
	close(leave)
	must(t, <-first)
	if s := op.waitSeek("mailer", "done", inState(proxyv1alpha1.SeekDone, "Earliest")); s.Mark != "mark-1" {
		t.Errorf("status.seek is %+v", s)
	}
	refused := driver.Errorf(driver.Unauthorized, "", "grant Update")
	err := call(key, func(context.Context, string, string, driver.Target) (string, error) { return "", refused })
	if !errors.Is(err, refused) {
		t.Errorf("a seek that fails answers %v", err)
	}
	if s := op.waitSeek("mailer", "failed", inState(proxyv1alpha1.SeekFailed, "Earliest")); !strings.Contains(s.Message, "grant Update") || s.Mark != "mark-1" {
		t.Errorf("status.seek is %+v", s)
	}
	if err := call(registry.Key{Kind: registry.Consumer, UID: "another"}, broker.by("host-a")); driver.ReasonOf(err) != driver.Unavailable {
		t.Errorf("a seek of an object that is gone: %v", err)
	}
	if done := broker.so(); len(done) != 1 {
		t.Errorf("moved %q", done)
	}
}
