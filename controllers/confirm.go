// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// confirm is the look at the API server right before a client starts: it must still be the same object, carry the finalizer, and not be
// dying; and this host must still be known to those who remove finalizers. Without it a cache that lags would start clients nobody stops. A no
// needs no other pass: what the cache does not show yet comes as an event.
func (r *reconciler) confirm(obj object) func(ctx context.Context) error {
	name, key := client.ObjectKeyFromObject(obj), r.key(obj)
	return func(ctx context.Context) error {
		select {
		case <-r.host.Lost():
			return ErrHostLost
		default:
		}
		if entry, found := r.clients.Status(key); found && r.roll.has(ctx, types.UID(key.UID), entry.Since) {
			return nil
		}
		current := r.newObject()
		err := r.reader.Get(ctx, name, current)
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		if err != nil || string(current.GetUID()) != key.UID || !confirms(current) {
			return registry.ErrNotLive
		}
		return nil
	}
}

func confirms(o client.Object) bool {
	return o.GetDeletionTimestamp().IsZero() && controllerutil.ContainsFinalizer(o, proxyv1alpha1.Finalizer)
}

const (
	// rollAfter is how many objects of a kind are confirmed one by one within a second before others are confirmed from a list. rollQueue is how long
	// the one who makes it must have waited for its turn: only then do others stand behind it whom the list will serve. A list of 5,000 costs as much as
	// a hundred reads; with slower starts (37 a second were seen with 10,000 new objects on two cores) nothing is gained.
	rollAfter = 50
	rollQueue = time.Second
	// rollAge is how long after its beginning a list is believed.
	rollAge = 3 * time.Second
	// rollLimit bounds one list. One that took longer than rollSlow is of little use, and none is tried for rollPause.
	rollLimit = 5 * time.Second
	rollSlow  = 2 * time.Second
	rollPause = 30 * time.Second
	rollPage  = 2000
)

// rollCall confirms very many objects of a kind with one uncached list, where each would ask for itself: at a start that is nearly all that the API
// server has to do. A list is as good as a read of the one object when it began after the registry's entry was visible (rule 3): whoever has let this
// host report "released" looked for the entry before that, and saw an object that was dying already, which the list then shows as dying. The
// registry notes the time (Status.Since) inside the lock that makes the entry visible. Only a yes is taken from a list; the rest is asked for one by one.
//
// The nil rollCall has no list. It is safe for concurrent use.
type rollCall struct {
	kind       registry.Kind
	reader     client.Reader // uncached
	namespaces []string

	mu     sync.Mutex
	second time.Time // when the count of asked began
	asked  int
	last   *roll     // under way, or what it found
	pause  time.Time // until when no list is tried
}

// roll is one list; live is valid after done is closed, and empty when the list failed.
type roll struct {
	began time.Time
	done  chan struct{}
	live  map[types.UID]struct{}
}

// has reports whether a list that began after visible, and not long ago, shows the object alive with our finalizer. False is no answer.
func (c *rollCall) has(ctx context.Context, uid types.UID, visible time.Time) bool {
	if c == nil {
		return false
	}
	l, first := c.join(visible)
	switch {
	case l == nil:
		return false
	case first:
		c.call(ctx, l)
	default:
		select {
		case <-l.done:
		case <-ctx.Done():
			return false
		}
	}
	_, live := l.live[uid]
	return live && time.Since(l.began) <= rollAge
}

// join answers the list to look into, which the caller must make when it is the first; nil when there is none that helps.
func (c *rollCall) join(visible time.Time) (l *roll, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.second) > time.Second {
		c.second, c.asked = now, 0
	}
	c.asked++
	if c.last != nil && now.Sub(c.last.began) > rollAge && c.last.ended() {
		c.last = nil
	}
	switch {
	case c.last != nil && !c.last.began.Before(visible):
		return c.last, false
	case c.last != nil && !c.last.ended(), c.asked <= rollAfter, now.Sub(visible) < rollQueue, now.Before(c.pause):
		return nil, false
	}
	c.last = &roll{began: now, done: make(chan struct{})}
	return c.last, true
}

func (l *roll) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// call lists for everybody who has joined, also when the one who came first goes away. Its error is nobody's: each asks for itself then, and gets one.
func (c *rollCall) call(ctx context.Context, l *roll) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollLimit)
	defer cancel()
	live, err := c.list(ctx)
	c.mu.Lock()
	if err != nil || time.Since(l.began) > rollSlow {
		c.pause = time.Now().Add(rollPause)
	}
	c.mu.Unlock()
	if err == nil {
		l.live = live
	}
	close(l.done)
}

func (c *rollCall) list(ctx context.Context) (map[types.UID]struct{}, error) {
	live := map[types.UID]struct{}{}
	for _, namespace := range c.namespaces {
		err := eachObject(ctx, c.reader, c.kind, namespace, rollPage, func(o *metav1.PartialObjectMetadata) error {
			if confirms(o) {
				live[o.UID] = struct{}{}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return live, nil
}
