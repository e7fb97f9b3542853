// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	utilcache "k8s.io/apimachinery/pkg/util/cache"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// reviewTimeout bounds one question to the API server.
const reviewTimeout = 5 * time.Second

// asker asks slow questions: an answer is kept for a while, the same question is asked once at a time, and only so many are under way. It is safe
// for concurrent use. A question is asked by the goroutine of the first who wants to know; there is no other goroutine.
type asker[T any] struct {
	ttl     time.Duration
	answers *utilcache.LRUExpireCache
	turns   chan struct{} // a place for each question under way
	mu      sync.Mutex
	flights map[string]*flight[T] // guarded by mu
	queue   int                   // most flights at a time, those waiting for their turn included
}

type answer[T any] struct {
	value T
	err   error
}

type flight[T any] struct {
	done chan struct{}
	answer[T]
}

func newAsker[T any](o AuthOptions) *asker[T] {
	return &asker[T]{
		ttl: o.TTL, answers: utilcache.NewLRUExpireCache(o.CacheSize), turns: make(chan struct{}, o.Reviews),
		flights: map[string]*flight[T]{}, queue: o.Reviews + o.Queue,
	}
}

var errTooManyQuestions = errors.New("too many callers wait for the API server's answer")

// ask answers from the cache, joins the same question under way, or asks.
func (a *asker[T]) ask(ctx context.Context, key string, question func(context.Context) (T, error)) (T, error) {
	if kept, found := a.answers.Get(key); found {
		return kept.(answer[T]).value, kept.(answer[T]).err
	}
	f, first, err := a.board(key)
	if err != nil {
		var none T
		return none, err
	}
	if first {
		a.fly(ctx, key, f, question)
		return f.value, f.err
	}
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

func (a *asker[T]) board(key string) (f *flight[T], first bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f := a.flights[key]; f != nil {
		return f, false, nil
	}
	if len(a.flights) >= a.queue {
		return nil, false, errTooManyQuestions
	}
	f = &flight[T]{done: make(chan struct{})}
	a.flights[key] = f
	return f, true, nil
}

// fly asks, for everybody who joined: when the one who came first goes away, the question is still answered.
func (a *asker[T]) fly(ctx context.Context, key string, f *flight[T], question func(context.Context) (T, error)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewTimeout)
	defer cancel()
	defer func() {
		a.mu.Lock()
		delete(a.flights, key)
		a.mu.Unlock()
		close(f.done)
	}()
	select {
	case a.turns <- struct{}{}:
		defer func() { <-a.turns }()
	case <-ctx.Done():
		f.err = fmt.Errorf("%w: %w", errTooManyQuestions, ctx.Err())
		return
	}
	f.value, f.err = question(ctx)
	if f.err == nil || errors.Is(f.err, server.ErrUnauthenticated) || errors.Is(f.err, server.ErrForbidden) {
		a.answers.Add(key, f.answer, a.ttl)
	}
}

// boundedSet remembers the keys that were added or seen last. Safe for concurrent use.
type boundedSet struct{ keys *utilcache.LRUExpireCache }

// rememberedFor is how long a caller that was valid keeps its place in the faster lane.
const rememberedFor = 24 * time.Hour

func newBoundedSet(size int) *boundedSet { return &boundedSet{utilcache.NewLRUExpireCache(size)} }

func (s *boundedSet) has(key string) bool {
	_, found := s.keys.Get(key)
	return found
}

func (s *boundedSet) add(key string) { s.keys.Add(key, struct{}{}, rememberedFor) }
