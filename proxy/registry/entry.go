// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// entry is the life of the clients of one object. Everything in it is guarded by lockedState.mu.
type entry struct {
	key Key
	// spec is the last one acquired, seq counts the changes in it that a client would notice, group is its group.
	spec  Spec
	seq   int
	group groupKey

	// live is the client that is handed out; nil = none. closing are those that drain or close.
	live    *live
	closing map[*live]struct{}
	// attempt is the one worker that confirms, opens, probes or updates; queued the place where the entry waits for its turn.
	attempt   *attempt
	queue     *slots
	place     *place
	wantsSlot bool

	// releasing: no client may be opened any more and the entry goes when the last one has been closed.
	releasing  bool
	quietly    bool // gone before anything ran: nobody has to be told
	reason     string
	releasedAt time.Time
	receipt    Receipt

	// idle: closed for lack of use. waking: a Use wants it back, so the next ones wait too.
	idle, waking bool
	// claimed: the object was confirmed, so it may have the group of a younger one. proven: a client has run since then, so it may
	// be opened again without asking the API server. ran: a client has run at all.
	claimed, proven, ran bool
	provenGeneration     int64
	confirmedAt          time.Time
	// refusedSeq: Client.Update said for this seq that it needs another client.
	refusedSeq int

	failures int
	err      error
	nextTry  time.Time

	retry, idleTimer *timer

	state State
	since time.Time
	gone  bool
	// changed is closed at the next change; made by those who wait.
	changed chan struct{}
	told    told
	inTurn  bool
}

// told is what Notify was last called for.
type told struct {
	state      State
	generation int64
	err        string
}

// live is one client from the return of Open to the return of Close.
type live struct {
	client Client
	id     driver.ClientID
	spec   Spec
	seq    int
	group  groupKey
	since  time.Time

	// uses is the count of calls and streams. Once draining it only falls, and unused is closed when it is 0. late counts the short
	// calls of UseDraining, refused once sealed.
	uses, late   int
	lastUsed     time.Time
	draining     bool
	sealed       bool
	done         chan struct{} // draining began
	ending       chan struct{} // the drain is over, Close is next
	unused       chan struct{}
	lateGone     chan struct{} // made when sealed with late > 0
	err          error
	closedPolls  int
	drainTimeout time.Duration
}

func (s *lockedState) newEntry(spec Spec, now time.Time) *entry {
	return &entry{
		key: spec.Key, spec: spec, seq: 1, group: groupOf(spec), closing: map[*live]struct{}{},
		receipt: Receipt{Key: spec.Key}, state: Stopped, since: now,
	}
}

// stateNow derives the state from the facts.
func (e *entry) stateNow() State {
	switch {
	case e.gone:
		return Stopped
	case e.releasing:
		return Draining
	case e.live != nil:
		return Running
	case len(e.closing) > 0 && e.attempt == nil:
		return Draining
	case e.idle:
		return Idle
	case e.err != nil:
		return Failed
	default:
		return Starting
	}
}

// trouble is what Status.Err tells.
func (e *entry) trouble() error {
	if e.err == nil && e.live != nil {
		return e.live.err
	}
	return e.err
}

// generation is what Status.Generation tells.
func (e *entry) generation() int64 {
	switch {
	case e.live != nil:
		return e.live.spec.Generation
	case e.state == Idle:
		return e.provenGeneration
	default:
		return 0
	}
}

func (e *entry) status() Status {
	s := Status{
		State: e.state, Generation: e.generation(), Desired: e.spec.Generation, Driver: e.spec.Driver,
		Err: e.trouble(), Since: e.since, Queued: e.queue != nil,
	}
	if e.live != nil {
		s.ClientID, s.Driver = e.live.id, e.live.spec.Driver
	}
	if e.retry != nil {
		s.NextTry = e.nextTry
	}
	return s
}

func (e *entry) info() EntryInfo {
	info := EntryInfo{
		Key: e.key, Namespace: e.spec.Namespace, Name: e.spec.Name, Group: e.spec.Group,
		Status: e.status(), Releasing: e.releasing, Reason: e.reason,
	}
	if e.live != nil {
		info.Uses = e.live.uses
	}
	for l := range e.closing {
		info.Uses += l.uses
	}
	return info
}

func (e *entry) objectName() objectName {
	return objectName{e.spec.Kind, e.spec.Namespace, e.spec.Name}
}

// older tells which of two objects has the group: by creation time, then by UID.
func (e *entry) olderThan(o *entry) bool {
	if !e.spec.Created.Equal(o.spec.Created) {
		return e.spec.Created.Before(o.spec.Created)
	}
	return e.key.UID < o.key.UID
}
