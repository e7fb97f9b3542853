// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// The limits that Options do not offer.
const (
	// confirmAge is how old Confirm's answer may be at the moment of Open.
	confirmAge = 3 * time.Second
	// useGrace is how long users have to let go after the drain deadline (Use.Closing), before the client is closed under them.
	useGrace = 2 * time.Second
	// stableAfter: a client that ran so long has proven its specification; its failures are forgotten.
	stableAfter = time.Minute
	// defaultOpens is Options.OpensPerNameServers when it is not given.
	defaultOpens = 16
	// closedPolls is in how many health polls in a row a client must report driver.ErrClosed before it is opened anew.
	closedPolls = 2
)

// Options of a Registry. Opener is needed, everything else has a default.
type Options struct {
	Opener Opener
	// HostID names this host in the log.
	HostID string
	// Incarnation names this process (random by default): it is part of every ClientID, and what the audit knows its goroutines by, so two
	// registries of one process must not share it.
	Incarnation string
	// Notify is told the key whose Status has changed or whose entry has gone, so that its object is reconciled. It must not block; it
	// is called outside of every lock, but not for a change that Acquire itself has just answered.
	Notify   func(Key)
	Observer Observer
	Log      logr.Logger
	// OpenTimeout bounds one Open or Probe (15 s), ConfirmTimeout one Confirm (10 s), CloseTimeout one Close (7 s, so that a stop ends
	// within the drain deadline + 10 s).
	OpenTimeout, ConfirmTimeout, CloseTimeout time.Duration
	// HealthInterval is the time between two looks at Client.Err of all clients (5 s).
	HealthInterval time.Duration
	// OpensPerNameServers is how many clients may be opened at the same time towards one set of name servers (16).
	OpensPerNameServers int
}

func (o Options) withDefaults() Options {
	o.OpenTimeout = orDefault(o.OpenTimeout, 15*time.Second)
	o.ConfirmTimeout = orDefault(o.ConfirmTimeout, 10*time.Second)
	o.CloseTimeout = orDefault(o.CloseTimeout, 7*time.Second)
	o.HealthInterval = orDefault(o.HealthInterval, 5*time.Second)
	o.OpensPerNameServers = orDefault(o.OpensPerNameServers, defaultOpens)
	if o.Notify == nil {
		o.Notify = func(Key) {}
	}
	if o.Observer == nil {
		o.Observer = noObserver{}
	}
	if o.Incarnation == "" {
		o.Incarnation = fmt.Sprintf("%08x", rand.Uint32())
	}
	if o.Log.GetSink() == nil {
		o.Log = logr.Discard()
	}
	if o.HostID != "" {
		o.Log = o.Log.WithValues("host", o.HostID)
	}
	return o
}

func orDefault[T int | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

type noObserver struct{}

func (noObserver) StateChanged(Kind, State, State)           {}
func (noObserver) Opened(Kind, string, time.Duration, error) {}
func (noObserver) Drained(Kind, string, Receipt)             {}
func (noObserver) LeakDetected(string, int)                  {}

// Registry knows which clients run in this process. It is safe for concurrent use. Close must be called and joins everything.
//
// There is one lock, lockedState.mu, and it guards lockedState with everything that is reached from it (entries, running clients,
// groups, slots). Nothing that may block, and nothing of others (Opener, Client, Confirm, Notify, Observer, Log), is called under it:
// a turn decides under the lock and acts after it.
type Registry struct {
	opts  Options
	state lockedState

	// drainLimit ends every drain under way, hardLimit every Close of a client. They live as long as the registry; Close(ctx) ends them
	// when its own time runs out.
	drainLimit, hardLimit context.Context
	endDrains, endCloses  context.CancelFunc
}

// lockedState is everything under mu.
type lockedState struct {
	mu sync.Mutex

	entries  map[Key]*entry
	names    map[objectName][]*entry
	groups   map[groupKey]*group
	slots    map[string]*slots
	receipts map[Key]Receipt
	// expected are objects without an entry, by name and the names by key; see Expect.
	expected      map[objectName]expected
	expectedNames map[Key]objectName
	// starts numbers the clients of this process.
	starts uint64
	health *timer
	audit  auditMemory

	gateClosed bool
	// closing is made by the first Close; it is closed when the last entry has gone. closeReceipts are of the entries it met.
	closing       chan struct{}
	closeReceipts []Receipt

	// workers counts goroutines and armed timers. It is added to only under mu and before joined, and waited for after joined.
	workers sync.WaitGroup
	joined  bool
}

type objectName struct {
	kind            Kind
	namespace, name string
}

// New makes an empty registry. It starts nothing; without a running client it has no goroutine.
func New(o Options) *Registry {
	r := &Registry{opts: o.withDefaults()}
	r.state.entries = map[Key]*entry{}
	r.state.names = map[objectName][]*entry{}
	r.state.groups = map[groupKey]*group{}
	r.state.slots = map[string]*slots{}
	r.state.receipts = map[Key]Receipt{}
	r.state.expected = map[objectName]expected{}
	r.state.expectedNames = map[Key]objectName{}
	r.drainLimit, r.endDrains = context.WithCancel(context.Background())
	r.hardLimit, r.endCloses = context.WithCancel(context.Background())
	return r
}

// Acquire states what should run for an object and answers what does. It is idempotent, repeated on every pass, and never blocks. The
// latest spec wins; a generation lower than the one known is an old view and changes nothing. While the entry of an earlier Release
// drains, the answer is its Status (Draining); the caller comes again when Notify tells that it has gone. After CloseGate nothing is
// taken over and Status.Err is ErrGateClosed; a spec that cannot be is answered with driver.ErrInvalid.
func (r *Registry) Acquire(spec Spec) Status {
	if err := validate(spec); err != nil {
		return Status{State: Failed, Desired: spec.Generation, Driver: spec.Driver, Err: err}
	}
	var e *entry
	var refused bool
	r.turn(func(t *turn) {
		t.unexpect(spec.Key)
		e = t.entries[spec.Key]
		refused = t.gateClosed
		if refused {
			return
		}
		if e == nil {
			e = t.add(spec)
		} else if !e.releasing && spec.Generation >= e.spec.Generation {
			t.change(e, spec)
		}
		t.quiet = e
		t.wake(e)
	})
	if refused {
		status := Status{State: Stopped, Desired: spec.Generation, Driver: spec.Driver}
		if e != nil {
			status = r.statusOf(e)
		}
		status.Err = ErrGateClosed
		return status
	}
	return r.statusOf(e)
}

func validate(spec Spec) error {
	switch {
	case spec.UID == "":
		return driver.Errorf(driver.Invalid, "metadata.uid", "%s %s/%s: the UID is empty", spec.Kind, spec.Namespace, spec.Name)
	case spec.Confirm == nil:
		return driver.Errorf(driver.Invalid, "", "%s %s/%s: no Confirm: a client must not start unconfirmed", spec.Kind, spec.Namespace, spec.Name)
	case spec.Kind == Producer && spec.Producer != nil && spec.Consumer == nil,
		spec.Kind == Consumer && spec.Consumer != nil && spec.Producer == nil:
		return nil
	default:
		return driver.Errorf(driver.Invalid, "spec", "%s %s/%s: needs exactly the part of its kind", spec.Kind, spec.Namespace, spec.Name)
	}
}

// Release states that nothing may run for the key any more. It starts the drain (once) and answers done when there is no entry: every
// client has been closed, or there never was one. It never blocks; call it on every pass. The receipt is complete when done and is
// kept until Forget.
func (r *Registry) Release(key Key, reason string) (done bool, receipt Receipt) {
	r.turn(func(t *turn) {
		t.unexpect(key)
		if e := t.entries[key]; e != nil {
			t.release(e, reason)
		}
	})
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	if e := r.state.entries[key]; e != nil {
		return false, e.receipt
	}
	receipt, known := r.state.receipts[key]
	if !known {
		receipt = Receipt{Key: key, Reason: reason}
	}
	return true, receipt
}

// Forget drops the receipt that Release kept. An entry that is still there is not touched.
func (r *Registry) Forget(key Key) {
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	delete(r.state.receipts, key)
}

// Status answers what is known about a key; false when there is no entry.
func (r *Registry) Status(key Key) (Status, bool) {
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	e := r.state.entries[key]
	if e == nil {
		return Status{State: Stopped}, false
	}
	return e.status(), true
}

// SpecOf is what the last Acquire of key stated; false when there is no entry.
func (r *Registry) SpecOf(key Key) (Spec, bool) {
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	e := r.state.entries[key]
	if e == nil {
		return Spec{}, false
	}
	return e.spec, true
}

func (r *Registry) statusOf(e *entry) Status {
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	return e.status()
}

// List answers every entry, in no order.
func (r *Registry) List() []EntryInfo {
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	infos := make([]EntryInfo, 0, len(r.state.entries))
	for _, e := range r.state.entries {
		infos = append(infos, e.info())
	}
	return infos
}
