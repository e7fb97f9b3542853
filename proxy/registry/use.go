// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"sync/atomic"
)

// Use is one call or stream that holds a client. As long as it is held the client is not closed before its drain deadline. Release it
// exactly when the call or stream has ended; releasing twice does nothing.
type Use struct {
	r        *Registry
	e        *entry
	l        *live
	late     bool
	holders  int
	spec     Spec
	released atomic.Bool
}

// Client is what is held. Its methods may still be called while it drains.
func (u *Use) Client() Client { return u.l.client }

// Spec is what the client had when it was taken.
func (u *Use) Spec() Spec { return u.spec }

// Holders is how many calls and streams held the client when this one took it, itself included; 0 for a client that drains.
func (u *Use) Holders() int { return u.holders }

// Done is closed when the client drains or is replaced: take no new work, finish what is under way, then Release. A stream tells its
// receiver to come again.
func (u *Use) Done() <-chan struct{} { return u.l.done }

// Closing is closed when the drain is over and the client is about to be closed: let go now. Whoever does not within two seconds finds
// the client closed, and the receipt says Forced.
func (u *Use) Closing() <-chan struct{} { return u.l.ending }

// Release gives the client back.
func (u *Use) Release() {
	if u.released.Swap(true) {
		return
	}
	u.r.turn(func(t *turn) {
		if u.late {
			t.releaseLate(u.l)
			return
		}
		u.l.uses--
		u.l.lastUsed = t.now
		if u.l.uses > 0 {
			return
		}
		if u.l.draining {
			close(u.l.unused)
		} else {
			t.armIdle(u.e)
		}
	})
}

func (t *turn) releaseLate(l *live) {
	if l.late--; l.late == 0 && l.lateGone != nil {
		close(l.lateGone)
	}
}

// Use takes the client of the object that has this name now; of two UIDs with one name the newer. It starts an Idle client, without the
// API server, and waits for it within ctx. Errors: *NotFoundError (no entry, and none is expected), *NotReadyError (no client, with the reason), ErrDraining (it
// is being deleted or replaced, or this host is stopping: another host or a later try may work).
func (r *Registry) Use(ctx context.Context, kind Kind, namespace, name string) (*Use, error) {
	for {
		use, wait, err := r.tryUse(kind, namespace, name)
		if wait == nil {
			return use, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, notReady(kind, namespace, name, Starting, ctx.Err())
		}
	}
}

// tryUse takes a running client, or answers why not, or a channel that tells when to look again.
func (r *Registry) tryUse(kind Kind, namespace, name string) (use *Use, wait <-chan struct{}, err error) {
	r.turn(func(t *turn) {
		e := t.current(objectName{kind, namespace, name})
		switch {
		case e == nil && t.gateClosed:
			err = ErrDraining
		case e == nil:
			err = t.absent(objectName{kind, namespace, name})
		case e.releasing:
			err = ErrDraining
		case e.live != nil:
			e.live.uses++
			use = &Use{r: r, e: e, l: e.live, holders: e.live.uses, spec: e.live.spec}
		case t.gateClosed:
			err = ErrDraining
		case e.idle || e.startsAgain():
			e.waking = e.waking || e.idle
			e.idle = false
			t.wake(e)
			wait = e.waitChange()
		case e.state == Draining && e.err == nil:
			err = ErrDraining
		default:
			err = notReady(kind, namespace, name, e.state, e.err)
		}
	})
	return use, wait, err
}

// startsAgain reports whether a client that ran before is on its way back, so that waiting for it is better than refusing.
func (e *entry) startsAgain() bool {
	return e.ran && e.err == nil && (e.state == Starting || e.waking)
}

func (e *entry) waitChange() <-chan struct{} {
	if e.changed == nil {
		e.changed = make(chan struct{})
	}
	return e.changed
}

// current answers the entry that a name means: the newest that is not on its way out, else one that is.
func (t *turn) current(name objectName) *entry {
	var best *entry
	for _, e := range t.names[name] {
		switch {
		case best == nil, best.releasing && !e.releasing:
			best = e
		case e.releasing == best.releasing && best.olderThan(e):
			best = e
		}
	}
	return best
}

// UseDraining takes a client of this name that is draining, for a short call that settles what was delivered before (Ack, Nack): the drain
// waits for just that. It answers *NotFoundError when none is draining, or when it is being closed already.
func (r *Registry) UseDraining(kind Kind, namespace, name string) (use *Use, err error) {
	r.turn(func(t *turn) {
		var newest *entry
		var l *live
		for _, e := range t.names[objectName{kind, namespace, name}] {
			for c := range e.closing {
				if !c.sealed && (l == nil || newest.olderThan(e)) {
					newest, l = e, c
				}
			}
		}
		if l == nil {
			err = &NotFoundError{Kind: kind, Namespace: namespace, Name: name}
			return
		}
		l.late++
		use = &Use{r: r, e: newest, l: l, late: true, spec: l.spec}
	})
	return use, err
}

// UseOpen takes the client of key that runs or, when none does, one that drains, for a short call that settles what it has delivered. It starts none.
// False when there is none, or it is being closed already.
func (r *Registry) UseOpen(key Key) (use *Use, found bool) {
	r.turn(func(t *turn) {
		e := t.entries[key]
		if e == nil {
			return
		}
		l := e.live
		for c := range e.closing {
			if l == nil && !c.sealed {
				l = c
			}
		}
		switch {
		case l == nil:
			return
		case l.draining:
			l.late++
		default:
			l.uses++
		}
		use = &Use{r: r, e: e, l: l, late: l.draining, spec: l.spec}
	})
	return use, use != nil
}

func notReady(kind Kind, namespace, name string, state State, cause error) error {
	err := &NotReadyError{
		Kind: kind, Namespace: namespace, Name: name, State: state,
		Reason: ReasonStarting, Message: "its client is being opened: try again", Err: cause,
	}
	if cause != nil && state != Starting {
		err.Reason, err.Message = ReasonOf(cause), cause.Error()
	}
	return err
}
