// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

func (op *operator) delete(o client.Object) {
	op.t.Helper()
	must(op.t, direct.Delete(op.t.Context(), o))
}

// TestC7DeleteEndsWhateverIsBroken is tests.md C7: gone within the drain time-out + 10 s.
func TestC7DeleteEndsWhateverIsBroken(t *testing.T) {
	broken := func(registry.Spec) error { return driver.Errorf(driver.Unavailable, "", "connection refused") }
	const drain = "\ndrainTimeoutSeconds: 1"
	within := 11 * time.Second
	t.Run("the broker is down", func(t *testing.T) {
		t.Parallel()
		op := newOperator(t, operatorOptions{namespace: newNamespace(t)})
		op.opener.fail = broken
		op.start()
		o := op.apply("Consumer", "x", goodConsumer+drain)
		op.waitCondition(o, "x", proxyv1alpha1.ConditionReady, "False", proxyv1alpha1.ReasonBrokerUnavailable)
		op.delete(o)
		op.waitGone(o, within)
	})
	t.Run("the Secret is gone", func(t *testing.T) {
		t.Parallel()
		op := startOperator(t, operatorOptions{namespace: newNamespace(t)})
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: op.options.namespace, Name: "acl"}, StringData: map[string]string{"accessKey": "a", "secretKey": "b"}}
		must(t, direct.Create(t.Context(), secret))
		o := op.apply("Producer", "x", goodProducer+drain+"\nconnection: {credentialsSecretRef: {name: acl}}")
		op.waitReady(o, "x")
		op.delete(secret)
		op.delete(o)
		op.waitGone(o, within)
	})
	t.Run("the namespace is deleted, its contents in any order", func(t *testing.T) {
		t.Parallel()
		op := startOperator(t, operatorOptions{namespace: newNamespace(t), allowed: []string{"Reconciler error", "unable to create new content"}})
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: op.options.namespace, Name: "acl"}, StringData: map[string]string{"accessKey": "a", "secretKey": "b"}}
		must(t, direct.Create(t.Context(), secret))
		p := op.apply("Producer", "x", goodProducer+drain+"\nconnection: {credentialsSecretRef: {name: acl}}")
		c := op.apply("Consumer", "y", goodConsumer+drain)
		op.waitReady(p, "x")
		op.waitReady(c, "y")
		// No namespace controller runs here: the namespace is terminating, and the test deletes what is in it, as that would.
		op.delete(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: op.options.namespace}})
		op.delete(secret)
		op.delete(c)
		op.delete(p)
		op.waitGone(p, within)
		op.waitGone(c, within)
	})
	t.Run("the operator is down and comes back", func(t *testing.T) {
		t.Parallel()
		namespace := newNamespace(t)
		op := startOperator(t, operatorOptions{namespace: namespace})
		o := op.apply("Producer", "x", goodProducer+drain)
		op.waitReady(o, "x")
		op.kill()
		op.delete(o)
		must(t, op.get(o, "x"))
		if !controllerutil.ContainsFinalizer(o, proxyv1alpha1.Finalizer) {
			t.Fatal("the finalizer went while no operator ran")
		}
		again := startOperator(t, operatorOptions{namespace: namespace, incarnates: op})
		eventually(t, time.Minute, "the host is back", func() bool { return again.controls.Primed(nil) == nil })
		again.waitGone(o, 10*time.Second)
	})
	t.Run("the right to write status is taken away and given back", func(t *testing.T) {
		t.Parallel()
		config, wire := onWire(t, nil)
		op := startOperator(t, operatorOptions{namespace: newNamespace(t), config: config, allowed: []string{"Reconciler error"}})
		o := op.apply("Producer", "x", goodProducer+drain)
		op.waitReady(o, "x")
		var refused sync.WaitGroup
		refused.Add(1)
		once := sync.OnceFunc(refused.Done)
		wire.setRefuse(func(r *http.Request) *http.Response {
			if strings.HasSuffix(r.URL.Path, "/status") {
				once()
				return status(r, http.StatusForbidden, metav1.StatusReasonForbidden)
			}
			return nil
		})
		op.delete(o)
		refused.Wait()
		must(t, op.get(o, "x"))
		if !controllerutil.ContainsFinalizer(o, proxyv1alpha1.Finalizer) {
			t.Fatal("the finalizer went although this host could not report")
		}
		wire.setRefuse(nil)
		op.waitGone(o, 10*time.Second)
	})
	t.Run("the client is still starting", func(t *testing.T) {
		t.Parallel()
		op := newOperator(t, operatorOptions{namespace: newNamespace(t)})
		op.opener.block = make(chan struct{}) // for ever
		op.start()
		o := op.apply("Consumer", "x", goodConsumer+drain)
		op.waitCondition(o, "x", proxyv1alpha1.ConditionConnected, "Unknown", proxyv1alpha1.ReasonStarting)
		op.delete(o)
		op.waitGone(o, within)
	})
	t.Run("the client drains until its deadline", func(t *testing.T) {
		t.Parallel()
		op := newOperator(t, operatorOptions{namespace: newNamespace(t)})
		op.opener.blockDrain = make(chan struct{}) // for ever
		op.start()
		o := op.apply("Consumer", "x", goodConsumer+drain)
		op.waitReady(o, "x")
		op.delete(o)
		op.waitCondition(o, "x", proxyv1alpha1.ConditionReady, "False", proxyv1alpha1.ReasonTerminating)
		op.waitGone(o, within)
		op.waitEvent(reasonReleased, "3 in flight, 1 finished, 0 given back, 2 left to their deadline")
	})
	t.Run("the client drains, and the last acknowledgement comes in time", func(t *testing.T) {
		t.Parallel()
		op := newOperator(t, operatorOptions{namespace: newNamespace(t)})
		release := make(chan struct{})
		op.opener.blockDrain = release
		op.start()
		o := op.apply("Consumer", "x", goodConsumer+"\ndrainTimeoutSeconds: 60")
		op.waitReady(o, "x")
		op.delete(o)
		op.waitCondition(o, "x", proxyv1alpha1.ConditionReady, "False", proxyv1alpha1.ReasonTerminating)
		if op.opener.runningNow(string(o.GetUID())) != 1 || !controllerutil.ContainsFinalizer(o, proxyv1alpha1.Finalizer) {
			t.Fatal("the client or the finalizer went before the drain had ended")
		}
		close(release)
		op.waitGone(o, 10*time.Second)
		op.waitEvent(reasonReleased, "3 in flight, 3 finished")
	})
	t.Run("it was never accepted", func(t *testing.T) {
		t.Parallel()
		op := startOperator(t, operatorOptions{namespace: newNamespace(t), defaults: []string{}})
		o := op.apply("Producer", "x", goodProducer)
		op.waitCondition(o, "x", proxyv1alpha1.ConditionStalled, "True", proxyv1alpha1.ReasonNameServersMissing)
		op.delete(o)
		op.waitGone(o, within)
	})
	t.Run("it is suspended", func(t *testing.T) {
		t.Parallel()
		op := startOperator(t, operatorOptions{namespace: newNamespace(t)})
		o := op.apply("Producer", "x", goodProducer+"\nsuspend: true")
		op.waitCondition(o, "x", proxyv1alpha1.ConditionReady, "False", proxyv1alpha1.ReasonSuspended)
		op.delete(o)
		op.waitGone(o, within)
	})
}

func (w *wire) setRefuse(f func(*http.Request) *http.Response) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuse = f
}

// TestTheEndOfAnUnusedClientIsNotToldTwice: the condition Terminating, written for each client that was closed in milliseconds, cost as much as its
// deletion.
func TestTheEndOfAnUnusedClientIsNotToldTwice(t *testing.T) {
	t.Parallel()
	config, wire := onWire(t, nil)
	op := startOperator(t, operatorOptions{namespace: newNamespace(t), config: config})
	o := op.apply("Producer", "x", goodProducer)
	op.waitReady(o, "x")
	before := len(wire.written())
	op.delete(o)
	op.waitGone(o, 10*time.Second)
	for _, w := range wire.written()[before:] {
		if strings.HasSuffix(w, " "+statusManager) {
			t.Errorf("%s: the conditions of an object whose client closes at once were written", w)
		}
	}
	if n := len(wire.written()) - before; n == 0 {
		t.Error("no write was seen")
	}
}

// TestAHostThatCannotFinishItsLastReportsTakesItsLeaseAway: with very many dying objects and a busy API server the last reports took all of the time, the
// process ended with an error, and its Lease stayed for all of them to wait for.
func TestAHostThatCannotFinishItsLastReportsTakesItsLeaseAway(t *testing.T) {
	t.Parallel()
	config, wire := onWire(t, nil)
	op := startOperator(t, operatorOptions{namespace: newNamespace(t), config: config})
	o := op.apply("Producer", "x", goodProducer)
	op.waitReady(o, "x")
	wire.setRefuse(func(r *http.Request) *http.Response {
		if strings.HasSuffix(r.URL.Path, "/status") {
			<-r.Context().Done()
		}
		return nil
	})
	op.delete(o)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	op.registry.Close(ctx)
	must(t, op.controls.Leave(ctx))
	var lease coordinationv1.Lease
	if err := direct.Get(t.Context(), op.host.key(), &lease); !apierrors.IsNotFound(err) {
		t.Errorf("after Leave the Lease is there: %v", err)
	}
	wire.setRefuse(nil)
}

// TestEveryHostMustReportBeforeTheFinalizerGoes: two hosts; one cannot finish; the other must wait for it.
func TestEveryHostMustReportBeforeTheFinalizerGoes(t *testing.T) {
	namespace := newNamespace(t)
	quick := startOperator(t, operatorOptions{namespace: namespace, hostID: "quick"})
	slow := newOperator(t, operatorOptions{namespace: namespace, hostID: "slow"})
	release := make(chan struct{})
	slow.opener.blockDrain = release
	slow.start()
	o := quick.apply("Producer", "orders", goodProducer+"\ndrainTimeoutSeconds: 60")
	for _, op := range []*operator{quick, slow} {
		eventually(t, 10*time.Second, "both hosts run it", func() bool { return op.opener.runningNow(string(o.GetUID())) == 1 })
	}
	quick.delete(o)
	eventually(t, 10*time.Second, "the quick host has reported", func() bool {
		must(t, quick.get(o, "orders"))
		e := entryOf(o, "quick")
		return e != nil && releasedBy(e, o, quick.host.Incarnation())
	})
	eventually(t, 5*time.Second, "the quick host has looked again", func() bool { return quick.looked(o) })
	must(t, quick.get(o, "orders"))
	if !controllerutil.ContainsFinalizer(o, proxyv1alpha1.Finalizer) || slow.opener.runningNow(string(o.GetUID())) != 1 {
		t.Fatal("the finalizer went before the slow host had reported")
	}
	close(release)
	quick.waitGone(o, 10*time.Second)
	slow.waitEvent(reasonReleased, "host slow")
}

// looked forces a pass and reports that one has written or decided something: the object's entry is untouched, so the pass was a look.
func (op *operator) looked(o object) bool {
	op.look(o)
	s, found := op.registry.Status(keyOf(o))
	return !found || s.State == registry.Draining
}

// TestADeadHostIsForcedAfterTheDeadline: rule 11. The killed host's Lease stays; after its duration and the drain deadline + 10 s it is not waited for.
func TestADeadHostIsForcedAfterTheDeadline(t *testing.T) {
	namespace := newNamespace(t)
	dead := startOperator(t, operatorOptions{namespace: namespace, hostID: "dead", renewEvery: 200 * time.Millisecond, leaseDuration: time.Second})
	op := newOperator(t, operatorOptions{namespace: namespace, hostID: "alive", renewEvery: 200 * time.Millisecond, leaseDuration: time.Second})
	var mu sync.Mutex
	ahead := time.Duration(0)
	for _, r := range op.controls.reconcilers {
		r.now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(ahead)
		}
	}
	op.start()
	o := op.apply("Producer", "orders", goodProducer+"\ndrainTimeoutSeconds: 5")
	op.waitReady(o, "orders")
	dead.kill()
	op.delete(o)
	eventually(t, 10*time.Second, "the dead host's Lease is stale", func() bool {
		return slices.ContainsFunc(op.host.Peers(), func(p Peer) bool { return p.Name == "dead" && p.Stale })
	})
	must(t, op.get(o, "orders"))
	if op.observer.forcedNow() != 0 || !controllerutil.ContainsFinalizer(o, proxyv1alpha1.Finalizer) {
		t.Fatal("the finalizer was forced before the deadline")
	}
	mu.Lock()
	ahead = 16 * time.Second
	mu.Unlock()
	op.waitGone(o, 10*time.Second)
	op.waitEvent(reasonForced, "dead")
	if n := op.observer.forcedNow(); n != 1 {
		t.Errorf("%d forced finalizers were counted, want 1", n)
	}
}

// TestC5OtherPeoplesFinalizersSurvive is tests.md C5: a thousand races of our adding and removing with somebody else's.
func TestC5OtherPeoplesFinalizersSurvive(t *testing.T) {
	op := startOperator(t, operatorOptions{namespace: newNamespace(t)})
	objects, each := 50, 10 // 50 objects, ten finalizers while ours comes and ten while it goes
	if testing.Short() {
		objects = 10
	}
	t.Run("at the same time", func(t *testing.T) {
		for i := range objects {
			name := fmt.Sprintf("x-%d", i)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				op := op.in(t)
				op.churn(name, each, true)
				o := &proxyv1alpha1.Producer{}
				op.waitReady(o, name)
				op.delete(o)
				op.churn(name, each, false) // a new one is refused on a dying object: they take theirs off, one by one
				op.waitGone(o, 15*time.Second)
			})
		}
	})
}

// churn is somebody else: creates the object and adds finalizers while the operator adds its own, or takes them off while the operator does. After each
// step all that should be there must be there.
func (op *operator) churn(name string, n int, adding bool) {
	t, theirs := op.t, make([]string, n)
	for i := range theirs {
		theirs[i] = fmt.Sprintf("others.example/f%d", i)
	}
	if adding {
		o := raw(t, "Producer", op.options.namespace, name, goodProducer)
		o.SetFinalizers(theirs[:1])
		must(t, direct.Create(t.Context(), o))
	}
	for i := range theirs {
		err := retry.RetryOnConflict(retry.DefaultBackoff, func() error { return op.changeFinalizers(name, theirs, i, adding) })
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func (op *operator) changeFinalizers(name string, theirs []string, i int, adding bool) error {
	o := &proxyv1alpha1.Producer{}
	if err := op.get(o, name); err != nil {
		return err
	}
	want := theirs[:max(i, 1)]
	if !adding {
		want = theirs[i:]
	}
	for _, f := range want {
		if !slices.Contains(o.Finalizers, f) {
			return fmt.Errorf("%s is lost, left are %v", f, o.Finalizers)
		}
	}
	base := o.DeepCopy()
	if adding {
		controllerutil.AddFinalizer(o, theirs[i])
	} else {
		controllerutil.RemoveFinalizer(o, theirs[i])
	}
	return direct.Patch(op.t.Context(), o, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
}

// TestAFinalizerThatWasStrippedByHandComesBackOrTheClientGoes: people do it. On a live object it is added again; a deleted one releases its client.
func TestAFinalizerThatWasStrippedByHandComesBackOrTheClientGoes(t *testing.T) {
	op := startOperator(t, operatorOptions{namespace: newNamespace(t)})
	o := op.apply("Producer", "orders", goodProducer+"\ndrainTimeoutSeconds: 1")
	op.waitReady(o, "orders")
	strip := func() { op.change(o, func() { o.SetFinalizers(nil) }) }
	strip()
	eventually(t, 10*time.Second, "the finalizer is back", func() bool {
		must(t, op.get(o, "orders"))
		return controllerutil.ContainsFinalizer(o, proxyv1alpha1.Finalizer)
	})
	if n := op.opener.runningNow(string(o.GetUID())); n != 1 {
		t.Errorf("%d clients run, want the same one", n)
	}
	op.opener.set(func(f *opener) { f.blockDrain = make(chan struct{}) })
	op.delete(o)
	if err := op.get(o, "orders"); err == nil {
		strip()
	} else if !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	op.opener.set(func(f *opener) { f.blockDrain = nil })
	eventually(t, 20*time.Second, "the client is gone", func() bool { return op.opener.runningNow("") == 0 })
}
