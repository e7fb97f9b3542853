// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"

// Supersede takes out of the window what superseded names and no application has seen: a Seek has moved the group away from it, and the driver drops what
// is given back then. What applications have stays theirs. superseded does not block; it is called outside the lock.
func (w *Window) Supersede(superseded func(driver.Handle) bool) {
	type unseen struct {
		id     uint64
		handle driver.Handle
	}
	var all []unseen
	w.mu.Lock()
	for _, f := range w.flights {
		if f.unseen() {
			all = append(all, unseen{f.id, f.handle})
		}
	}
	w.mu.Unlock()
	var old []uint64
	for _, u := range all {
		if superseded(u.handle) {
			old = append(old, u.id)
		}
	}
	if len(old) == 0 {
		return
	}
	w.mu.Lock()
	var e effects
	now := w.now()
	for _, id := range old {
		if f := w.flights[id]; f != nil && f.unseen() {
			w.returnLocked(f, now, &e)
		}
	}
	w.refillLocked()
	w.unlockAnd(&e)
}

// unseen reports whether no application has f, and none is being told of it. Dead letters that wait to be written are among it: the group has moved away
// from them.
func (f *flight) unseen() bool {
	return f.state == held || f.state == queued || f.state == burying && !f.digging
}
