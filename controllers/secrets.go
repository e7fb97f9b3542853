// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// secretShared is how long the answer about a Secret, be it that there is none, counts for other objects that name it.
	secretShared = 5 * time.Second
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

// get answers a Secret's data, which the caller must not change, as a read has found it that began at most secretShared ago.
func (s *sharedSecrets) get(ctx context.Context, key client.ObjectKey) (map[string][]byte, error) {
	read, first := s.join(key)
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

func (s *sharedSecrets) join(key client.ObjectKey) (read *secretRead, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(s.reads, func(_ client.ObjectKey, r *secretRead) bool { return now.Sub(r.began) > secretShared })
	if read := s.reads[key]; read != nil {
		return read, false
	}
	read = &secretRead{began: now, done: make(chan struct{})}
	s.reads[key] = read
	return read, true
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
