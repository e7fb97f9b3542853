// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"sync"
)

// gate is the life of a client: calls enter until it is shut, and closing waits for those inside. Closing happens once, in a goroutine of its
// own, so that a caller of Close can give up waiting while it goes on.
type gate struct {
	// life ends when the gate is shut; whoever waits inside leaves then.
	life context.Context
	end  context.CancelFunc

	mu     sync.Mutex
	shut   bool
	inside sync.WaitGroup

	once   sync.Once
	closed chan struct{}
	result error // set before closed is closed
}

func newGate() *gate {
	life, end := context.WithCancel(context.Background())
	return &gate{life: life, end: end, closed: make(chan struct{})}
}

// enter lets a call in; the caller calls leave at its end. It reports false when the gate is shut.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return false
	}
	g.inside.Add(1)
	return true
}

func (g *gate) leave() { g.inside.Done() }

// close shuts the gate and runs work, once; every caller waits for its end or for its own context's.
func (g *gate) close(ctx context.Context, work func() error) error {
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
