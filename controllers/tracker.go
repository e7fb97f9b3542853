// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// tracker remembers what one process needs to find its way between names and UIDs. It decides nothing: what runs is the registry's truth,
// what should run the API server's.
type tracker struct {
	mu    sync.Mutex
	names map[registry.Key]types.NamespacedName
	// byName lists the UIDs seen under a name that may still have an entry in the registry.
	byName map[kindName][]registry.Key
	// wrote is the version that this process's last write of a status made, until a pass has started from it or read uncached.
	wrote map[registry.Key]string
	// tried are the names that had a pass which came to a decision, until the host is primed; nil afterwards.
	tried map[kindName]struct{}
}

type kindName struct {
	kind registry.Kind
	name types.NamespacedName
}

func newTracker() *tracker {
	return &tracker{
		names: map[registry.Key]types.NamespacedName{}, byName: map[kindName][]registry.Key{}, wrote: map[registry.Key]string{},
		tried: map[kindName]struct{}{},
	}
}

// remember records that key goes by name.
func (t *tracker) remember(key registry.Key, name types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.names[key] = name
	of := kindName{key.Kind, name}
	if !slices.Contains(t.byName[of], key) {
		t.byName[of] = append(t.byName[of], key)
	}
}

// forget drops everything about key.
func (t *tracker) forget(key registry.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := kindName{key.Kind, t.names[key]}
	t.byName[of] = slices.DeleteFunc(t.byName[of], func(k registry.Key) bool { return k == key })
	if len(t.byName[of]) == 0 {
		delete(t.byName, of)
	}
	delete(t.names, key)
	delete(t.wrote, key)
}

func (t *tracker) name(key registry.Key) (types.NamespacedName, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name, found := t.names[key]
	return name, found
}

// keys lists the UIDs known under a name, except one.
func (t *tracker) keys(kind registry.Kind, name types.NamespacedName, except string) []registry.Key {
	t.mu.Lock()
	defer t.mu.Unlock()
	var keys []registry.Key
	for _, key := range t.byName[kindName{kind, name}] {
		if key.UID != except {
			keys = append(keys, key)
		}
	}
	return keys
}

// all lists every key.
func (t *tracker) all() []registry.Key {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.names))
}

// noteTried records that a name had a pass which came to a decision.
func (t *tracker) noteTried(of kindName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tried != nil {
		t.tried[of] = struct{}{}
	}
}

func (t *tracker) wasTried(of kindName) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, tried := t.tried[of]
	return tried
}

// stopNoting ends what noteTried does.
func (t *tracker) stopNoting() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tried = nil
}

// setWrote records the version of an own write.
func (t *tracker) setWrote(key registry.Key, version string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wrote[key] = version
}

// mayBeBehind reports whether a version from the cache may be older than the own last write, and forgets that write.
func (t *tracker) mayBeBehind(key registry.Key, version string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	wrote, found := t.wrote[key]
	delete(t.wrote, key)
	return found && wrote != version
}

// Waker turns the registry's Notify into passes of the controllers. Notify never blocks: the controller's work queue is what coalesces.
// The zero value is ready; it is safe for concurrent use.
type Waker struct {
	mu      sync.Mutex
	wake    map[registry.Kind]func(registry.Key)
	pending map[registry.Key]struct{} // before the controllers run
}

// Notify asks for a pass over the object of key. It is the registry's Options.Notify.
func (w *Waker) Notify(key registry.Key) {
	w.mu.Lock()
	wake := w.wake[key.Kind]
	if wake == nil {
		if w.pending == nil {
			w.pending = map[registry.Key]struct{}{}
		}
		w.pending[key] = struct{}{}
	}
	w.mu.Unlock()
	if wake != nil {
		wake(key)
	}
}

// source is where a controller's queue is plugged in.
func (w *Waker) source(kind registry.Kind, names *tracker) func(context.Context, workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	return func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		w.plug(kind, func(key registry.Key) {
			if name, found := names.name(key); found {
				queue.Add(reconcile.Request{NamespacedName: name})
			}
		})
		return nil
	}
}

func (w *Waker) plug(kind registry.Kind, wake func(registry.Key)) {
	w.mu.Lock()
	if w.wake == nil {
		w.wake = map[registry.Kind]func(registry.Key){}
	}
	w.wake[kind] = wake
	var early []registry.Key
	for key := range w.pending {
		if key.Kind == kind {
			early = append(early, key)
			delete(w.pending, key)
		}
	}
	w.mu.Unlock()
	for _, key := range early {
		wake(key)
	}
}
