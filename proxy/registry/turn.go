// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"slices"
	"time"
)

// turn is one stay under the lock. What it decides to tell others is collected in after and done when the lock has been left.
type turn struct {
	*lockedState
	r     *Registry
	now   time.Time
	todo  []*entry
	after []func()
	// quiet is the entry whose change the caller is just being answered: Notify would only make it come again.
	quiet *entry
}

// turn runs f under the lock, lets every entry that was woken advance, and then acts outside of the lock.
func (r *Registry) turn(f func(t *turn)) {
	for _, act := range r.decide(f) {
		act()
	}
}

func (r *Registry) decide(f func(t *turn)) []func() {
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	t := &turn{lockedState: &r.state, r: r, now: time.Now()}
	f(t)
	for len(t.todo) > 0 {
		e := t.todo[0]
		t.todo = t.todo[1:]
		e.inTurn = false
		t.advance(e)
		t.settle(e)
	}
	return t.after
}

// wake lets e advance before the lock is left.
func (t *turn) wake(e *entry) {
	if !e.inTurn && !e.gone {
		e.inTurn = true
		t.todo = append(t.todo, e)
	}
}

// goRun starts a goroutine that Close joins.
func (t *turn) goRun(f func()) {
	if t.joined {
		panic("registry: a worker was started after Close had joined them all")
	}
	t.workers.Add(1)
	go func() {
		defer t.r.state.workers.Done()
		f()
	}()
}

// add makes the entry visible, before anything else happens for it.
func (t *turn) add(spec Spec) *entry {
	e := t.newEntry(spec, t.now)
	t.entries[e.key] = e
	t.names[e.objectName()] = append(t.names[e.objectName()], e)
	delete(t.receipts, e.key)
	t.join(e)
	t.startHealth()
	return e
}

// remove takes an entry out whose last client has been closed.
func (t *turn) remove(e *entry) {
	e.gone = true
	e.stopTimers()
	t.dequeue(e)
	t.leave(e)
	delete(t.entries, e.key)
	name := e.objectName()
	t.names[name] = slices.DeleteFunc(t.names[name], func(o *entry) bool { return o == e })
	if len(t.names[name]) == 0 {
		delete(t.names, name)
	}
	if !e.quietly {
		e.receipt.Reason, e.receipt.Took = e.reason, t.now.Sub(e.releasedAt)
		t.receipts[e.key] = e.receipt
	}
	if t.closing != nil {
		t.closeReceipts = append(t.closeReceipts, e.receipt)
	}
	if len(t.entries) == 0 {
		t.health.stop()
		t.health = nil
		if t.closing != nil {
			close(t.closing)
		}
	}
}

// release marks e as on its way out. The first reason is kept.
func (t *turn) release(e *entry, reason string) {
	if !e.releasing {
		e.releasing, e.reason, e.releasedAt = true, reason, t.now
		t.wakeGroup(e.group)
	}
	e.quietly = false
	t.wake(e)
}

// change takes over another spec.
func (t *turn) change(e *entry, spec Spec) {
	same := sameSettings(e.spec, spec)
	e.spec = spec
	t.rejoin(e)
	if same {
		t.adopt(e)
		return
	}
	e.seq++
	e.idle, e.waking = false, false
	e.failures, e.err, e.nextTry = 0, nil, time.Time{}
	e.retry.stop()
	e.retry = nil
	if e.attempt != nil {
		// What it is trying is not wanted any more: a wrong name server must not make the right one wait.
		e.attempt.cancel()
	}
}

// adopt gives the running client the parts of the spec that only the registry looks at.
func (t *turn) adopt(e *entry) {
	if e.live != nil && e.live.seq == e.seq {
		e.live.spec = e.spec
	}
	if e.idle {
		e.provenGeneration = e.spec.Generation
	}
	e.idleTimer.stop()
	e.idleTimer = nil
	t.armIdle(e)
}

// advance does the next thing that the facts of e ask for. It may be called at any time and as often as you like.
func (t *turn) advance(e *entry) {
	if e.gone {
		return
	}
	e.wantsSlot = false
	switch {
	case e.releasing:
		t.advanceReleasing(e)
	case e.live != nil:
		t.advanceRunning(e)
	default:
		t.advanceStopped(e)
	}
	if !e.wantsSlot {
		t.dequeue(e)
	}
}

func (t *turn) advanceReleasing(e *entry) {
	e.stopTimers()
	if e.attempt != nil {
		e.attempt.cancel()
	}
	if e.live != nil {
		t.retire(e)
	}
	if e.attempt == nil && len(e.closing) == 0 {
		t.remove(e)
	}
}

func (t *turn) advanceRunning(e *entry) {
	if winner := t.evictor(e); winner != nil {
		t.evict(e, winner)
		return
	}
	if e.live.closedPolls >= closedPolls {
		t.reopen(e)
		return
	}
	if e.attempt != nil || e.live.seq == e.seq {
		return
	}
	if sameSettings(e.live.spec, e.spec) {
		// Changed and changed back before anything was done about it.
		e.live.seq, e.err = e.seq, nil
		t.adopt(e)
		return
	}
	if e.refusedSeq != e.seq && e.live.spec.Driver == e.spec.Driver && e.live.group == e.group {
		t.begin(e, updating)
		return
	}
	t.replace(e)
}

// replace opens what the changed spec needs, while the last good client works on.
func (t *turn) replace(e *entry) {
	if t.gateClosed || (e.key.Kind == Producer && len(e.closing) > 0) {
		return
	}
	if other := t.elder(e); other != nil {
		e.err = inUse(e, other)
		return
	}
	if t.occupiedByOther(e) && e.claimed {
		return
	}
	if !t.due(e) {
		return
	}
	mode := opening
	if e.key.Kind == Consumer {
		mode = probing
	}
	t.begin(e, mode)
}

func (t *turn) advanceStopped(e *entry) {
	if e.attempt != nil {
		if other := t.elder(e); other != nil && other.claimed {
			e.attempt.cancel()
		}
		return
	}
	if e.idle {
		t.outrank(e)
		return
	}
	if t.gateClosed {
		e.err = ErrGateClosed
		return
	}
	if other := t.elder(e); other != nil {
		e.err = inUse(e, other)
		return
	}
	if ReasonOf(e.err) == ReasonGroupInUse {
		e.err = nil
	}
	// A consumer's old client must be gone before the new one joins the group. A producer's may still be closing, but only one.
	if len(e.closing) > 1 || (e.key.Kind == Consumer && len(e.closing) > 0) {
		return
	}
	if e.claimed && t.occupiedByOther(e) {
		return
	}
	if t.due(e) {
		t.begin(e, opening)
	}
}

// evict stops a running client because an older object claims its group.
func (t *turn) evict(e, winner *entry) {
	if e.attempt != nil {
		e.attempt.cancel()
	}
	t.retire(e)
	e.claimed, e.proven, e.confirmedAt = false, false, time.Time{}
	e.err = inUse(e, winner)
	t.wake(e)
}

// outrank takes the group from an idle one for which an older object has come: Idle would promise a start that cannot be.
func (t *turn) outrank(e *entry) {
	if other := t.elder(e); other != nil && other.claimed {
		e.idle, e.claimed, e.proven, e.confirmedAt = false, false, false, time.Time{}
		e.err = inUse(e, other)
	}
}

// reopen replaces a client that says that it will never work again.
func (t *turn) reopen(e *entry) {
	cause := e.live.err
	stable := t.now.Sub(e.live.since) >= stableAfter
	t.retire(e)
	if stable {
		e.failures, e.err, e.nextTry = 0, nil, time.Time{}
	} else {
		t.failed(e, cause)
	}
	t.wake(e)
}

// settle compares the state with what was told before and tells the difference.
func (t *turn) settle(e *entry) {
	from := e.state
	if now := e.stateNow(); now != from {
		e.state, e.since = now, t.now
		t.tellState(e, from)
	}
	is := told{state: e.state, generation: e.generation()}
	if err := e.trouble(); err != nil {
		is.err = err.Error()
	}
	if is == e.told {
		return
	}
	e.told = is
	if e.changed != nil {
		close(e.changed)
		e.changed = nil
	}
	if e != t.quiet && !(e.gone && e.quietly) {
		key := e.key
		t.after = append(t.after, func() { t.r.opts.Notify(key) })
	}
}

func (t *turn) tellState(e *entry, from State) {
	o, to, kind := &t.r.opts, e.state, e.key.Kind
	kv := []any{"kind", kind, "namespace", e.spec.Namespace, "name", e.spec.Name, "uid", e.key.UID, "from", from, "to", to}
	if e.live != nil {
		kv = append(kv, "client", e.live.id)
	}
	if err := e.trouble(); err != nil {
		kv = append(kv, "reason", ReasonOf(err), "message", err.Error())
	}
	t.after = append(t.after, func() {
		o.Observer.StateChanged(kind, from, to)
		o.Log.Info("client changed state", kv...)
	})
}
