// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package scale

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
)

// pair is a Producer and a Consumer of the same name.
func pair(namespace, name, topic, group string, driver v1alpha1.DriverName) (*v1alpha1.Producer, *v1alpha1.Consumer) {
	p := &v1alpha1.Producer{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	p.Spec.Driver, p.Spec.Topics = driver, []string{topic}
	c := &v1alpha1.Consumer{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	c.Spec.Driver, c.Spec.Group = driver, group
	c.Spec.Subscriptions, c.Spec.StartFrom = []v1alpha1.Subscription{{Topic: topic}}, v1alpha1.StartFromEarliest
	return p, c
}

// declare creates n pairs and answers how long that took.
func (c *cluster) declare(t *testing.T, n int, pair func(i int) (*v1alpha1.Producer, *v1alpha1.Consumer)) time.Duration {
	t.Helper()
	began := time.Now()
	must(t, inParallel(n, func(i int) error {
		p, consumer := pair(i)
		if err := c.client.Create(t.Context(), p); err != nil {
			return err
		}
		return c.client.Create(t.Context(), consumer)
	}))
	return time.Since(began)
}

// audience follows the conditions of all objects by watches.
type audience struct {
	mu    sync.Mutex
	ready map[string]bool // by kind and name; an object that is gone is not in it
	// changed is closed and replaced at each change.
	changed chan struct{}
}

// watchAll watches both kinds until the test ends.
func (c *cluster) watchAll(t *testing.T) *audience {
	t.Helper()
	a := &audience{ready: map[string]bool{}, changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	t.Cleanup(func() { cancel(); watching.Wait() })
	for _, list := range []client.ObjectList{&v1alpha1.ProducerList{}, &v1alpha1.ConsumerList{}} {
		must(t, c.client.List(ctx, list))
		must(t, meta.EachListItem(list, func(o runtime.Object) error { a.note(watch.Added, o); return nil }))
		watching.Go(func() {
			for ctx.Err() == nil {
				c.watchOnce(ctx, list, a)
			}
		})
	}
	return a
}

// watchOnce follows from the list's version on, and leaves in list where it came to.
func (c *cluster) watchOnce(ctx context.Context, list client.ObjectList, a *audience) {
	w, err := c.client.Watch(ctx, list, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.GetResourceVersion()}})
	if err != nil {
		return
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		o, ok := e.Object.(client.Object)
		if !ok {
			return
		}
		list.SetResourceVersion(o.GetResourceVersion())
		a.note(e.Type, e.Object)
	}
}

func (a *audience) note(what watch.EventType, o runtime.Object) {
	reported, ok := o.(interface {
		client.Object
		Reported() *v1alpha1.ClientStatus
	})
	if !ok {
		return
	}
	ready := meta.FindStatusCondition(reported.Reported().Conditions, v1alpha1.ConditionReady)
	name := fmt.Sprintf("%T/%s/%s", o, reported.GetNamespace(), reported.GetName())
	a.mu.Lock()
	defer a.mu.Unlock()
	if what == watch.Deleted {
		delete(a.ready, name)
	} else {
		a.ready[name] = ready != nil && ready.Status == metav1.ConditionTrue && ready.ObservedGeneration == reported.GetGeneration()
	}
	close(a.changed)
	a.changed = make(chan struct{})
}

// counts answers how many objects there are and how many of them are Ready.
func (a *audience) counts() (objects, ready int, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.ready {
		if r {
			ready++
		}
	}
	return len(a.ready), ready, a.changed
}

// await waits until there are so many objects and so many of them are Ready, and answers how long that took since began.
func (a *audience) await(t *testing.T, began time.Time, within time.Duration, objects, ready int) time.Duration {
	t.Helper()
	limit := time.After(within - time.Since(began))
	for {
		haveObjects, haveReady, changed := a.counts()
		if haveObjects == objects && haveReady == ready {
			return time.Since(began)
		}
		select {
		case <-changed:
			time.Sleep(10 * time.Millisecond) // to count ten thousand objects for each of their changes would slow down what is measured
		case <-limit:
			t.Fatalf("after %s there are %d objects, %d of them Ready; awaited are %d and %d", within, haveObjects, haveReady, objects, ready)
		}
	}
}
