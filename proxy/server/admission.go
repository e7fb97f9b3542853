// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"sync"
)

// admission counts what is under way, in all and per caller, and refuses above the limits. A caller without calls takes no memory.
type admission struct {
	limits Limits

	mu      sync.Mutex // guards what follows
	closed  bool
	calls   int
	callers map[string]*presence
}

// presence is what one caller has under way.
type presence struct{ calls, streams int }

// enter takes one place on this host; leave gives it back.
func (a *admission) enter() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.calls >= a.limits.MaxConcurrentCalls {
		return limitReached("MaxConcurrentCalls", "this host has %d calls and streams under way, which is all it takes; try again with back-off", a.calls)
	}
	a.calls++
	return nil
}

func (a *admission) leave() {
	a.mu.Lock()
	a.calls--
	a.mu.Unlock()
}

// close refuses everything from now on.
func (a *admission) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
}

// enterCaller takes one place of the caller's own; leaveCaller gives it back.
func (a *admission) enterCaller(name string, stream bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.callers[name]
	if p == nil {
		if a.callers == nil {
			a.callers = make(map[string]*presence)
		}
		p = &presence{}
		a.callers[name] = p
	}
	count, limit, limitName, what := &p.calls, a.limits.MaxCallsPerCaller, "MaxCallsPerCaller", "calls"
	if stream {
		count, limit, limitName, what = &p.streams, a.limits.MaxStreamsPerCaller, "MaxStreamsPerCaller", "streams"
	}
	if *count >= limit {
		return limitReached(limitName, "the caller %q has %d %s under way on this host, which is all that one caller may have", name, *count, what)
	}
	*count++
	return nil
}

func (a *admission) leaveCaller(name string, stream bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.callers[name]
	if stream {
		p.streams--
	} else {
		p.calls--
	}
	if *p == (presence{}) {
		delete(a.callers, name)
	}
}
