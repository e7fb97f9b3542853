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

// While the API server cannot be asked, the last good answer counts on: the data plane lives without the API server. A clear no is never
// overruled, and an answer older than trustedFor is worth nothing.
const (
	trustedFor = 10 * time.Minute
	// patience bounds how long a caller with a good old answer waits for a new one, againAfter how soon the next caller asks again after
	// that was in vain.
	patience   = time.Second
	againAfter = 15 * time.Second
)

// asker asks slow questions: an answer is kept for a while, the same question is asked once at a time, and only so many are under way. It is safe
// for concurrent use. A question is asked by the goroutine of the first who wants to know; there is no other goroutine.
type asker[T any] struct {
	ttl     time.Duration
	answers *utilcache.LRUExpireCache // of answer[T], good ones for trustedFor, others for ttl
	turns   chan struct{}             // a place for each question under way
	mu      sync.Mutex
	flights map[string]*flight[T] // guarded by mu
	queue   int                   // most flights at a time, those waiting for their turn included
}

type answer[T any] struct {
	value T
	err   error
	// given is when the API server said so, fresh until when nobody asks again.
	given, fresh time.Time
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
	old, known := a.kept(key)
	if known && time.Now().Before(old.fresh) {
		return old.value, old.err
	}
	f, first, err := a.board(key)
	if err == nil && first {
		limit := reviewTimeout
		if known {
			limit = patience
		}
		a.fly(ctx, limit, key, f, question)
	}
	if err == nil && !first {
		select {
		case <-f.done:
		case <-ctx.Done():
			var none T
			return none, ctx.Err()
		}
	}
	if err == nil {
		err = f.err
	}
	if known && err != nil && !isNo(err) {
		a.trust(key, old)
		return old.value, nil
	}
	if err != nil {
		var none T
		return none, err
	}
	return f.value, nil
}

// fresh answers from the cache what need not be asked again.
func (a *asker[T]) fresh(key string) (T, error, bool) {
	old, known := a.kept(key)
	return old.value, old.err, known && time.Now().Before(old.fresh)
}

// kept is what is remembered for key. An old answer that was not a yes is worth nothing.
func (a *asker[T]) kept(key string) (answer[T], bool) {
	entry, found := a.answers.Get(key)
	if !found {
		return answer[T]{}, false
	}
	kept := entry.(answer[T])
	return kept, kept.err == nil || time.Now().Before(kept.fresh)
}

// trust lets an old good answer count a little longer, but no longer than trustedFor in all.
func (a *asker[T]) trust(key string, old answer[T]) {
	if left := trustedFor - time.Since(old.given); left > 0 {
		old.fresh = time.Now().Add(min(againAfter, left))
		a.answers.Add(key, old, left)
	}
}

// isNo reports whether err is the API server's answer and not its absence.
func isNo(err error) bool {
	return errors.Is(err, server.ErrUnauthenticated) || errors.Is(err, server.ErrForbidden)
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

// fly asks, for everybody who joined: when the one who came first goes away, the question is still answered, within limit.
func (a *asker[T]) fly(ctx context.Context, limit time.Duration, key string, f *flight[T], question func(context.Context) (T, error)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
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
	f.answer = a.keep(key, f.answer)
}

// keep remembers what the API server has just said.
func (a *asker[T]) keep(key string, said answer[T]) answer[T] {
	said.given = time.Now()
	said.fresh = said.given.Add(a.ttl)
	switch {
	case said.err == nil:
		a.answers.Add(key, said, trustedFor)
	case isNo(said.err):
		a.answers.Add(key, said, a.ttl)
	}
	return said
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
