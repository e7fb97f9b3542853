// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
)

const (
	// secretShared is how long a Secret's content counts for other objects that name it, and secretFailureShared how long a failure to get it does,
	// be it that there is none.
	secretShared        = 5 * time.Second
	secretFailureShared = time.Second
	// secretReadLimit bounds one read.
	secretReadLimit = 10 * time.Second
)

// sharedSecrets reads Secrets one by one and lets all who ask for the same one within a few seconds have the same answer: thousands of objects name one
// Secret, and each reads it again every minute. It keeps nothing for longer, and is safe for concurrent use.
type sharedSecrets struct {
	reader client.Reader

	mu    sync.Mutex
	reads map[client.ObjectKey]*secretRead // guarded by mu
}

// secretRead is one question; data and err are valid after done is closed and are not changed then.
type secretRead struct {
	began time.Time
	done  chan struct{}
	data  map[string][]byte
	err   error
}

func newSharedSecrets(reader client.Reader) *sharedSecrets {
	return &sharedSecrets{reader: reader, reads: map[client.ObjectKey]*secretRead{}}
}

// get answers a Secret's data, which the caller must not change, as a read has found it that began at most secretShared ago, and not before since. since
// is when this process heard of the object's last change: who writes the Secret and then the object means the new Secret.
func (s *sharedSecrets) get(ctx context.Context, key client.ObjectKey, since time.Time) (map[string][]byte, error) {
	read, first := s.join(key, since)
	if first {
		read.ask(ctx, s.reader, key)
	}
	select {
	case <-read.done:
		return read.data, read.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *sharedSecrets) join(key client.ObjectKey, since time.Time) (read *secretRead, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(s.reads, func(_ client.ObjectKey, r *secretRead) bool { return r.isOld(now) })
	if read := s.reads[key]; read != nil && !read.began.Before(since) {
		return read, false
	}
	read = &secretRead{began: now, done: make(chan struct{})}
	s.reads[key] = read
	return read, true
}

func (r *secretRead) isOld(now time.Time) bool {
	limit := secretShared
	select {
	case <-r.done:
		if r.err != nil {
			limit = secretFailureShared
		}
	default:
	}
	return now.Sub(r.began) > limit
}

// ask reads for everybody who has joined: when the one who came first goes away, the others still get an answer.
func (r *secretRead) ask(ctx context.Context, reader client.Reader, key client.ObjectKey) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), secretReadLimit)
	defer cancel()
	defer close(r.done)
	var secret corev1.Secret
	r.err = reader.Get(ctx, key, &secret)
	r.data = secret.Data
}

// changes remembers when this process heard last that an object which names a Secret was made or changed. Safe for concurrent use.
type changes struct {
	mu    sync.Mutex
	heard map[types.NamespacedName]time.Time // guarded by mu
}

func newChanges() *changes { return &changes{heard: map[types.NamespacedName]time.Time{}} }

// of answers the zero time for an object that names no Secret.
func (c *changes) of(name types.NamespacedName) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heard[name]
}

// note records that the object was seen changed just now.
func (c *changes) note(o client.Object) {
	ours, ok := o.(object)
	if !ok || !namesSecret(&ours.Common().Connection) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard[client.ObjectKeyFromObject(o)] = time.Now()
}

func (c *changes) forget(name types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.heard, name)
}

// noting is the filter p, which also notes the changes that it lets through: before they reach the queue, so that the pass they cause knows of them.
func (c *changes) noting(p predicate.Predicate) predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool {
			c.note(e.Object)
			return p.Create(e)
		},
		UpdateFunc: func(e event.UpdateEvent) bool {
			worth := p.Update(e)
			if worth {
				c.note(e.ObjectNew)
			}
			return worth
		},
		DeleteFunc: func(e event.DeleteEvent) bool {
			c.forget(client.ObjectKeyFromObject(e.Object))
			return p.Delete(e)
		},
		GenericFunc: p.Generic,
	}
}
