// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"sync"
	"sync/atomic"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// gate is the life of a client: calls enter until it is shut, and shutting waits for those inside.
type gate struct {
	// done ends when the gate is shut; whoever waits inside leaves then.
	done chan struct{}
	once sync.Once
	// fault is the last broker-level error, for Err.
	fault atomic.Pointer[error]

	mu     sync.Mutex
	shut   bool
	inside sync.WaitGroup
}

func newGate() *gate { return &gate{done: make(chan struct{})} }

// enter lets a call in; the caller calls g.inside.Done at its end. It reports false when the gate is shut.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return false
	}
	g.inside.Add(1)
	return true
}

// close shuts the gate, waits for the calls inside and then calls last. Every caller returns when all of that is done.
func (g *gate) close(last func()) {
	g.once.Do(func() {
		g.mu.Lock()
		g.shut = true
		g.mu.Unlock()
		close(g.done)
		g.inside.Wait()
		last()
	})
}

// note keeps what Err reports: the connection or the credentials do not work, or they do again.
func (g *gate) note(err error) {
	switch {
	case err == nil:
		if g.fault.Load() != nil {
			g.fault.Store(nil)
		}
	case driver.ReasonOf(err) == driver.Unavailable, driver.ReasonOf(err) == driver.Unauthorized:
		g.fault.Store(&err)
	}
}

func (g *gate) err() error {
	if err := g.fault.Load(); err != nil {
		return *err
	}
	return nil
}
