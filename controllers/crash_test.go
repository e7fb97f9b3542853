// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
)

// TestC1ACrashAtEveryWriteEndsTheSame is tests.md C1: the writes of a story (create, change and delete both kinds) are counted; for each of them the process
// dies before it is sent and after it was stored, and another one starts. The objects must end as without the crash.
func TestC1ACrashAtEveryWriteEndsTheSame(t *testing.T) {
	reference, writes := crashStory(t, "", 0, false)
	t.Logf("%d writes: %q", len(writes), writes)
	every := 1
	if testing.Short() {
		every = 4
	}
	for at := 1; at <= len(writes); at += every {
		for _, afterCommit := range []bool{false, true} {
			t.Run(fmt.Sprintf("write %d %s, committed %v", at, writes[at-1], afterCommit), func(t *testing.T) {
				t.Parallel()
				if got, _ := crashStory(t, reference, at, afterCommit); got != reference {
					t.Errorf("after the crash the objects are\n%s\nwithout it\n%s", got, reference)
				}
			})
		}
	}
}

// crashStory plays the story and answers how the objects looked when they were ready, and the first process's writes. After a crash they have until they
// look as wanted, 20 s after the beginning at most.
func crashStory(t *testing.T, want string, dieAt int, afterCommit bool) (objects string, writes []string) {
	begun, namespace := time.Now(), newNamespace(t)
	config, wire := onWire(t, func(w *wire) { w.dieAt, w.afterCommit = dieAt, afterCommit })
	op := newOperator(t, operatorOptions{namespace: namespace, config: config, allowed: []string{errProcessDied.Error(), "context canceled"}})
	later := &successor{t: t, died: op, wire: wire, want: want}
	later.begin()
	defer later.stop()

	producer := op.apply("Producer", "orders", goodProducer).(*proxyv1alpha1.Producer)
	consumer := op.apply("Consumer", "mailer", goodConsumer).(*proxyv1alpha1.Consumer)
	op.waitReady(producer, "orders")
	op.waitReady(consumer, "mailer")
	op.change(producer, func() { producer.Spec.Topics = []string{"orders", "payments"} })
	op.change(consumer, func() { consumer.Spec.MaxInFlight = 7 })
	op.waitReady(producer, "orders")
	op.waitReady(consumer, "mailer")
	eventually(t, 10*time.Second, "each has one client", func() bool {
		return op.opener.runningNow(string(producer.GetUID())) == 1 && op.opener.runningNow(string(consumer.GetUID())) == 1
	})
	op.waitReady(producer, "orders")
	op.waitReady(consumer, "mailer")
	objects = later.look(producer) + later.look(consumer)
	for later.wire.isDead() && objects != later.want {
		if t.Context().Err() != nil || time.Since(begun) > 20*time.Second {
			break // the caller compares and shows the difference
		}
		time.Sleep(50 * time.Millisecond)
		objects = later.look(producer) + later.look(consumer)
	}
	op.delete(producer)
	op.delete(consumer)
	op.waitGone(producer, 10*time.Second)
	op.waitGone(consumer, 10*time.Second)
	// A Producer's new client is up before its old one drains; a Consumer never has two, or its group would have two members.
	if p, c := op.opener.most(string(producer.GetUID())), op.opener.most(string(consumer.GetUID())); p > 2 || c > 1 {
		t.Errorf("the Producer had %d clients at a time, the Consumer %d, want at most 2 and 1", p, c)
	}
	return objects, wire.written()
}

// successor starts a new process when the first one dies, as the kubelet does.
type successor struct {
	t    *testing.T
	died *operator
	wire *wire
	want string

	group sync.WaitGroup
	over  chan struct{}
}

func (s *successor) begin() {
	s.over = make(chan struct{})
	next := newOperator(s.t, operatorOptions{namespace: s.died.options.namespace, incarnates: s.died, allowed: []string{"context canceled"}})
	ready := make(chan struct{})
	s.group.Go(func() {
		select {
		case <-ready:
		case <-s.over:
			return
		}
		select {
		case <-s.wire.died:
			s.died.kill()
			next.start()
		case <-s.over:
			if s.wire.isDead() {
				s.died.kill()
			}
		}
	})
	s.died.startOrDie(s.wire)
	close(ready)
}

// startOrDie starts a host whose first write, its Lease, may be the one at which it dies.
func (op *operator) startOrDie(w *wire) {
	if w.dieAt == 1 {
		op.ended <- nil
		op.cancel = func() {}
		if err := op.host.Acquire(deadline(op.t, 2*time.Second)); err == nil {
			op.t.Error("a process that died has its Lease")
		}
		return
	}
	op.start()
}

func (s *successor) stop() {
	close(s.over)
	s.group.Wait()
}

// look is how an object reads, without what differs from run to run.
func (s *successor) look(o object) string {
	s.t.Helper()
	must(s.t, direct.Get(s.t.Context(), client.ObjectKeyFromObject(o), o))
	plain := o.DeepCopyObject().(object)
	plain.SetManagedFields(nil)
	plain.SetUID("")
	plain.SetResourceVersion("")
	plain.SetNamespace("")
	plain.SetCreationTimestamp(metav1.Time{})
	status := plain.Reported()
	status.Group = strings.Replace(status.Group, o.GetNamespace(), "namespace", 1)
	for i := range status.Conditions {
		status.Conditions[i].LastTransitionTime = metav1.Time{}
	}
	return toYAML(s.t, plain)
}

// TestC2AStaleCacheStartsNothing is tests.md C2 on a real API server: the cache of a host, and that of its successor, stand still while the object is
// deleted by force and recreated.
func TestC2AStaleCacheStartsNothing(t *testing.T) {
	namespace := newNamespace(t)
	frozen := &frozenCache{}
	op := newOperator(t, operatorOptions{namespace: namespace, newClient: frozen.wrap, auditInterval: time.Hour})
	op.start()
	o := op.apply("Producer", "orders", goodProducer).(*proxyv1alpha1.Producer)
	op.waitReady(o, "orders")
	first := string(o.GetUID())

	frozen.freeze(o)
	op.kill()
	op.delete(o)
	op.change(o, func() { o.SetFinalizers(nil) })
	second := op.apply("Producer", "orders", goodProducer)

	next := newOperator(t, operatorOptions{namespace: namespace, newClient: frozen.wrap, incarnates: op})
	next.start()
	eventually(t, 10*time.Second, "the new process has looked at its stale cache", func() bool { return frozen.looks() > 2 })
	if n := next.opener.openedEver(first); n != 1 {
		t.Errorf("the object that is gone had %d clients, want the one before it went", n)
	}
	frozen.thaw()
	next.waitReady(second, "orders")
	if n := next.opener.openedEver(first); n != 1 || next.opener.runningNow(first) != 0 || next.opener.runningNow(string(second.GetUID())) != 1 {
		t.Errorf("opened for the first object: %d; running: %d and %d, want 1; 0 and 1", n, next.opener.runningNow(first), next.opener.runningNow(string(second.GetUID())))
	}
}

// TestC4ErrorsOfTheAPIServerPass is tests.md C4 in its short form: most writes are refused for a while; afterwards everything is as it should be, and
// no object has cost many writes.
func TestC4ErrorsOfTheAPIServerPass(t *testing.T) {
	config, wire := onWire(t, nil)
	op := newOperator(t, operatorOptions{namespace: newNamespace(t), config: config, allowed: []string{"Reconciler error"}})
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(1, 1))
	op.start()
	wire.setRefuse(func(r *http.Request) *http.Response {
		mu.Lock()
		n := random.IntN(100)
		mu.Unlock()
		switch {
		case !strings.Contains(r.URL.Path, "/proxy.rocketmq.io/") || r.URL.Query().Get("watch") != "":
			return nil
		case r.Method != http.MethodGet && n < 50:
			return status(r, http.StatusConflict, metav1.StatusReasonConflict)
		case n >= 70:
			return status(r, http.StatusInternalServerError, metav1.StatusReasonInternalError)
		}
		return nil
	})
	var all []object
	for i := range 5 {
		all = append(all, op.apply("Producer", fmt.Sprintf("p-%d", i), goodProducer))
	}
	eventually(t, 30*time.Second, "every object has its finalizer in spite of it", func() bool {
		for _, o := range all {
			must(t, op.get(o, o.GetName()))
			if len(o.GetFinalizers()) == 0 {
				return false
			}
		}
		return true
	})
	wire.setRefuse(nil)
	for _, o := range all {
		op.waitReady(o, o.GetName())
		op.delete(o)
	}
	for _, o := range all {
		op.waitGone(o, 20*time.Second)
		n := 0
		for _, w := range wire.written() {
			if strings.Contains(w, o.GetName()) {
				n++
			}
		}
		t.Logf("%s: %d writes tried", o.GetName(), n)
	}
}
