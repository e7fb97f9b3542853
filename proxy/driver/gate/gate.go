// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package gate is the life of a driver's client: calls enter until it is shut, and closing waits for those inside.
package gate

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Gate lets calls in until Close. All methods are safe for concurrent use. Make one with New; it holds no goroutine and no timer.
type Gate struct {
	life context.Context
	end  context.CancelFunc

	mu     sync.Mutex
	shut   bool
	inside sync.WaitGroup

	once   sync.Once
	closed chan struct{}
	result error // set before closed is closed
}

// New makes an open gate.
func New() *Gate {
	life, end := context.WithCancel(context.Background())
	return &Gate{life: life, end: end, closed: make(chan struct{})}
}

// Life ends when the gate is shut; whoever waits inside leaves then.
func (g *Gate) Life() context.Context { return g.life }

// Shut reports whether Close has begun.
func (g *Gate) Shut() bool { return g.life.Err() != nil }

// Enter lets a call in; the caller calls Leave at its end. It reports false when the gate is shut.
func (g *Gate) Enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return false
	}
	g.inside.Add(1)
	return true
}

// Leave ends what Enter or Stay began.
func (g *Gate) Leave() { g.inside.Done() }

// Stay counts one more inside, also when the gate is shut: for a caller that is inside and starts something that may outlive its own call.
func (g *Gate) Stay() { g.inside.Add(1) }

// Take waits, inside the gate, until n of s is free, and answers what gives it back. False: ctx has ended, or the gate was shut.
func (g *Gate) Take(ctx context.Context, s *semaphore.Weighted, n int64) (giveBack func(), ok bool) {
	giveBack = func() { s.Release(n) }
	if s.TryAcquire(n) {
		return giveBack, true
	}
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.life, cancel)()
	if s.Acquire(waiting, n) != nil {
		return nil, false
	}
	return giveBack, true
}

// Wait returns when nobody is inside. It is for Close's work, when nobody can enter any more.
func (g *Gate) Wait() { g.inside.Wait() }

// Close shuts the gate, ends its life and runs work, once and in a goroutine of its own, so that a caller can give up waiting while it goes on.
// Every caller waits for work's end and gets its error, or its own context's.
func (g *Gate) Close(ctx context.Context, work func() error) error {
	g.once.Do(func() {
		g.mu.Lock()
		g.shut = true
		g.mu.Unlock()
		g.end()
		go func() {
			g.result = work()
			close(g.closed)
		}()
	})
	select {
	case <-g.closed:
		return g.result
	default:
	}
	select {
	case <-g.closed:
		return g.result
	case <-ctx.Done():
		return ctx.Err()
	}
}
