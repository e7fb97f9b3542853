// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// mode is what an attempt does.
type mode int

const (
	opening  mode = iota // confirm, open, install (beside a producer's old client)
	probing              // confirm, probe; then the consumer's old client is retired and opening follows
	updating             // ask the running client whether it can take the change
)

// attempt is one worker of an entry: it has a goroutine from begin to finish, and an entry has at most one.
type attempt struct {
	mode   mode
	spec   Spec
	seq    int
	group  groupKey
	id     driver.ClientID
	slots  *slots
	target *live // of updating
	// confirm: the API server must be asked; occupies: the group was taken.
	confirm, occupies bool
	// ctx lives until the attempt ends or is not wanted any more: release, a newer spec, an older object, the gate.
	ctx    context.Context
	cancel context.CancelFunc
}

// outcome is what an attempt found. At most one of client, err, notLive and waiting says something.
type outcome struct {
	client  Client
	err     error
	notLive bool
	// waiting: confirmed, but the group is still occupied.
	waiting bool
	// accepted is the answer of Update.
	accepted bool
}

// begin starts an attempt when the name servers have a slot for it; else e is queued.
func (t *turn) begin(e *entry, m mode) {
	a := &attempt{mode: m, spec: e.spec, seq: e.seq, group: e.group, target: e.live}
	if m != updating {
		if a.slots = t.takeSlot(e, serversOf(e.spec)); a.slots == nil {
			return
		}
		// A client that ran and was closed by us is opened again without the API server: the entry has been visible ever since, so the
		// object cannot have gone without asking this host.
		a.confirm = !e.proven || m == probing || e.live != nil
		t.starts++
		a.id = clientID(e.spec, t.r.opts.Incarnation, t.starts)
		a.spec = withClientID(e.spec, a.id)
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	e.attempt = a
	t.goRun(func() { t.r.runAttempt(e, a) })
}

// runAttempt runs under the client's label, which every goroutine of the library inherits; the audit counts by it.
func (r *Registry) runAttempt(e *entry, a *attempt) {
	defer a.cancel()
	pprof.Do(a.ctx, pprof.Labels(clientLabel, string(a.id)), func(ctx context.Context) {
		found := r.try(ctx, e, a)
		r.turn(func(t *turn) { t.finish(e, a, found) })
	})
}

func (r *Registry) try(ctx context.Context, e *entry, a *attempt) outcome {
	if a.mode == updating {
		return outcome{accepted: a.target.client.Update(a.spec)}
	}
	for {
		if found, ok := r.confirmLive(ctx, e, a); !ok {
			return found
		}
		switch r.mayGoOn(e, a) {
		case goOn:
			return r.open(ctx, a)
		case askAgain:
			continue
		default:
			return outcome{waiting: true}
		}
	}
}

// confirmLive asks whether the object is live, unless that need not be asked or was asked just now. False ends the attempt with the outcome.
func (r *Registry) confirmLive(ctx context.Context, e *entry, a *attempt) (outcome, bool) {
	if r.confirmedLately(e, a) {
		return outcome{}, true
	}
	ctx, cancel := context.WithTimeout(ctx, r.opts.ConfirmTimeout)
	defer cancel()
	err := a.spec.Confirm(ctx)
	switch {
	case errors.Is(err, ErrNotLive):
		return outcome{notLive: true, err: err}, false
	case err != nil:
		return outcome{err: &ConfirmError{Err: err}}, false
	}
	r.turn(func(t *turn) { t.confirmed(e) })
	return outcome{}, true
}

func (r *Registry) confirmedLately(e *entry, a *attempt) bool {
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	return !a.confirm || e.isFresh(time.Now())
}

// isFresh reports whether Confirm's last answer may still be acted on.
func (e *entry) isFresh(now time.Time) bool {
	return !e.confirmedAt.IsZero() && now.Sub(e.confirmedAt) <= confirmAge
}

// confirmed notes that the object of e was live just now: it may have the group of younger ones, and every other UID of its name is gone.
func (t *turn) confirmed(e *entry) {
	e.confirmedAt = t.now
	for _, o := range t.names[e.objectName()] {
		if o != e && !o.releasing {
			t.release(o, "another object of the same name is live")
		}
	}
	if !e.claimed {
		e.claimed = true
		t.wakeGroup(e.group)
	}
}

type permission int

const (
	goOn permission = iota
	askAgain
	stop
)

// mayGoOn is the last look before the network: still wanted, Confirm's answer still fresh, the group free. Then the group is taken.
func (r *Registry) mayGoOn(e *entry, a *attempt) (p permission) {
	r.turn(func(t *turn) {
		switch {
		case a.ctx.Err() != nil, e.releasing, t.gateClosed, e.group != a.group:
			p = stop
		case a.confirm && !e.isFresh(t.now):
			p = askAgain
		case t.elder(e) != nil, t.occupiedByOther(e):
			p = stop
		case a.mode == opening:
			a.occupies = true
			t.occupy(a.group, e)
		}
	})
	return p
}

// open is the network part. An attempt that probed has no client, and no error when the probe succeeded.
func (r *Registry) open(ctx context.Context, a *attempt) outcome {
	ctx, cancel := context.WithTimeout(ctx, r.opts.OpenTimeout)
	defer cancel()
	if a.mode == probing {
		return outcome{err: r.opts.Opener.Probe(ctx, a.spec)}
	}
	began := time.Now()
	client, err := r.opts.Opener.Open(ctx, a.spec, a.id)
	if client == nil && err == nil {
		err = driver.Errorf(driver.Unsupported, "", "the driver %s answered neither a client nor an error: report this as a bug", a.spec.Driver)
	}
	if err != nil {
		client = nil
	}
	r.opts.Observer.Opened(a.spec.Kind, a.spec.Driver, time.Since(began), err)
	return outcome{client: client, err: err}
}

// finish takes the result of an attempt into the entry and lets it advance.
func (t *turn) finish(e *entry, a *attempt, found outcome) {
	unwanted := a.ctx.Err() != nil
	e.attempt = nil
	if a.slots != nil {
		t.giveSlot(a.slots)
	}
	switch {
	case a.mode == updating:
		t.finishUpdate(e, a, found.accepted)
	case found.client != nil:
		t.install(e, a, found.client)
	case found.notLive:
		t.dropNotLive(e)
	case found.waiting || unwanted:
		// Not a failure: it waits for the group, or for nothing.
	case found.err != nil:
		t.failed(e, found.err)
		t.logFailure(e, a)
	case a.mode == probing:
		e.err = nil
		e.proven = false
		if e.live != nil { // it may have died and been retired meanwhile
			t.retire(e)
		}
	}
	if a.occupies && found.client == nil {
		t.vacate(a.group, e)
	}
	t.wake(e)
}

func (t *turn) finishUpdate(e *entry, a *attempt, accepted bool) {
	if !accepted {
		e.refusedSeq = a.seq
		return
	}
	a.target.spec, a.target.seq = a.spec, a.seq
	if e.live == a.target && e.seq == a.seq {
		e.err = nil
		t.adopt(e)
	}
}

// install hands the new client out. One that came too late (released, evicted, gate) is closed at once; until then the entry stays.
func (t *turn) install(e *entry, a *attempt, client Client) {
	l := &live{
		client: client, id: a.id, spec: a.spec, seq: a.seq, group: a.group, since: t.now, lastUsed: t.now,
		done: make(chan struct{}), ending: make(chan struct{}), unused: make(chan struct{}),
	}
	if e.releasing || t.gateClosed || e.group != a.group || (a.ctx.Err() != nil && e.key.Kind == Consumer) {
		t.close(e, l)
		return
	}
	if e.live != nil {
		t.retire(e)
	}
	e.live = l
	e.waking = false
	e.err, e.nextTry = nil, time.Time{}
	e.proven, e.ran, e.provenGeneration = true, true, a.spec.Generation
	if l.seq == e.seq {
		t.adopt(e)
		e.provenGeneration = e.spec.Generation
	}
}

// dropNotLive ends an entry whose object is not live. When nothing ran, nobody is told: the view that acquired it is behind, and its
// own next event brings the reconciler back; telling it now would only make it acquire again and again from the old view.
func (t *turn) dropNotLive(e *entry) {
	if e.releasing {
		return
	}
	t.release(e, "the object is not live any more")
	e.quietly = e.live == nil && len(e.closing) == 0 && !e.ran
}

func (t *turn) logFailure(e *entry, a *attempt) {
	err, retryAt, attempts := e.err, e.nextTry, e.failures
	log, spec, m := t.r.opts.Log, a.spec, a.mode
	t.after = append(t.after, func() {
		log.Info("client could not be opened", "kind", spec.Kind, "namespace", spec.Namespace, "name", spec.Name, "uid", spec.UID,
			"generation", spec.Generation, "probe", m == probing, "reason", ReasonOf(err), "message", err.Error(),
			"failures", attempts, "nextTry", retryAt)
	})
}

// clientID names one started client: readable in the broker's connection list, unique in the world.
func clientID(spec Spec, incarnation string, start uint64) driver.ClientID {
	return driver.ClientID(fmt.Sprintf("%s_%s_%s_%s_%d", cut(spec.Namespace, 32), cut(spec.Name, 32), cut(spec.UID, 8), incarnation, start))
}

func cut(s string, n int) string {
	return s[:min(n, len(s))]
}
