// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a small broker side: it makes clients, knows which are open, and notes what must never be.
type world struct {
	mu      sync.Mutex
	open    map[*fakeClient]struct{} // from the call of Open until the return of Close
	inGroup map[groupKey]map[Key]int // the same, by group and object
	opens   []Spec                   // specs of the calls of Open, in order
	probes  int
	broken  []string
	lefts   map[string]int
	pending int
	maxOpen int // most calls of Open at the same time

	// The hooks decide what happens; nil = works at once. They run outside of mu.
	onOpen  func(ctx context.Context, spec Spec) error
	onProbe func(ctx context.Context, spec Spec) error
	onDrain func(ctx context.Context, c *fakeClient) DrainReport
	onClose func(ctx context.Context, c *fakeClient) error
	// update is the answer of Client.Update; nil = false.
	update func(c *fakeClient, spec Spec) bool
}

type fakeClient struct {
	w    *world
	spec Spec
	id   driver.ClientID

	mu       sync.Mutex
	err      error
	drained  bool
	isClosed bool
	updates  int
}

func newWorld() *world {
	return &world{open: map[*fakeClient]struct{}{}, inGroup: map[groupKey]map[Key]int{}}
}

func (w *world) violate(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = append(w.broken, fmt.Sprintf(format, args...))
}

func (w *world) Open(ctx context.Context, spec Spec, id driver.ClientID) (Client, error) {
	c := &fakeClient{w: w, spec: spec, id: id}
	onOpen := w.look()
	w.enter(c)
	if onOpen != nil {
		if err := onOpen(ctx, spec); err != nil {
			w.leave(c)
			return nil, err
		}
	}
	w.mu.Lock()
	w.pending--
	w.mu.Unlock()
	return c, nil
}

// enter counts the client from the call on, and checks who else is there.
func (w *world) enter(c *fakeClient) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opens = append(w.opens, c.spec)
	w.pending++
	w.maxOpen = max(w.maxOpen, w.pending)
	w.open[c] = struct{}{}
	members := w.inGroup[groupOf(c.spec)]
	if members == nil {
		members = map[Key]int{}
		w.inGroup[groupOf(c.spec)] = members
	}
	members[c.spec.Key]++
	if len(members) > 1 {
		w.broken = append(w.broken, fmt.Sprintf("%s is in one group with another object's client", c.id))
	}
	if limit := map[Kind]int{Producer: 2, Consumer: 1}[c.spec.Kind]; members[c.spec.Key] > limit {
		w.broken = append(w.broken, fmt.Sprintf("%d clients of %s in one group", members[c.spec.Key], c.spec.Key))
	}
}

// remove takes a client out; mu is held.
func (w *world) remove(c *fakeClient) {
	delete(w.open, c)
	members := w.inGroup[groupOf(c.spec)]
	if members[c.spec.Key]--; members[c.spec.Key] == 0 {
		delete(members, c.spec.Key)
	}
}

func (w *world) leave(c *fakeClient) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending--
	w.remove(c)
}

func (w *world) Probe(ctx context.Context, spec Spec) error {
	w.look()
	w.mu.Lock()
	w.probes++
	w.mu.Unlock()
	if w.onProbe != nil {
		return w.onProbe(ctx, spec)
	}
	return nil
}

func (w *world) Leftovers() map[string]int { return w.lefts }

// running are the clients of key that are open and not draining.
func (w *world) running(key Key) (list []*fakeClient) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.open {
		c.mu.Lock()
		if c.spec.Key == key && !c.drained {
			list = append(list, c)
		}
		c.mu.Unlock()
	}
	return list
}

func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.open)
}

func (w *world) opened() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.opens)
}

func (w *world) countOf(key Key) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.open {
		if c.spec.Key == key {
			n++
		}
	}
	return n
}

func (c *fakeClient) Drain(ctx context.Context) DrainReport {
	c.w.look()
	c.mu.Lock()
	twice := c.drained
	c.drained = true
	c.mu.Unlock()
	if twice {
		c.w.violate("%s was drained twice", c.id)
	}
	if c.w.onDrain != nil {
		return c.w.onDrain(ctx, c)
	}
	return DrainReport{InFlight: 3, Drained: 2, GivenBack: 1}
}

func (c *fakeClient) Close(ctx context.Context) error {
	c.w.look()
	c.mu.Lock()
	bad := c.isClosed || !c.drained
	c.isClosed = true
	c.mu.Unlock()
	if bad {
		c.w.violate("%s was closed twice or undrained", c.id)
	}
	var err error
	if c.w.onClose != nil {
		err = c.w.onClose(ctx, c)
	}
	c.w.mu.Lock()
	c.w.remove(c)
	c.w.mu.Unlock()
	return err
}

func (c *fakeClient) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *fakeClient) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

func (c *fakeClient) Update(spec Spec) bool {
	c.mu.Lock()
	c.updates++
	c.mu.Unlock()
	return c.w.update != nil && c.w.update(c, spec)
}

// ledger is an Observer that keeps sums, and a Notify that keeps keys.
type ledger struct {
	mu       sync.Mutex
	states   map[State]int
	moves    []string
	opened   int
	failed   int
	drained  int
	leaks    map[string]int
	notified []Key
}

func newLedger() *ledger { return &ledger{states: map[State]int{}, leaks: map[string]int{}} }

func (l *ledger) StateChanged(_ Kind, from, to State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.states[from]--
	l.states[to]++
	l.moves = append(l.moves, string(from)+">"+string(to))
}

func (l *ledger) Opened(_ Kind, _ string, _ time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed++
		return
	}
	l.opened++
}

func (l *ledger) Drained(Kind, string, Receipt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drained++
}

func (l *ledger) LeakDetected(kind string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaks[kind] += n
}

func (l *ledger) notify(key Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notified = append(l.notified, key)
}

func (l *ledger) notices(key Key) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.notified {
		if k == key {
			n++
		}
	}
	return n
}

func (l *ledger) leaksOf(kind string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leaks[kind]
}

// rig is a registry with its world.
type rig struct {
	*Registry
	t *testing.T
	w *world
	l *ledger
}

// inBubble runs f with fake time; afterwards the registry is closed, and the bubble ends only when every goroutine has.
func inBubble(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		f(t, r)
		r.finish()
	})
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, w: newWorld(), l: newLedger()}
	r.Registry = New(Options{Opener: r.w, HostID: "host-a", Incarnation: "inc1", Notify: r.l.notify, Observer: r.l})
	return r
}

func (r *rig) finish() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	r.Close(ctx)
	r.sound()
	if n := r.w.count(); n != 0 {
		r.t.Errorf("%d clients are open after Close", n)
	}
	for state, n := range r.l.states {
		if state != Stopped && n != 0 {
			r.t.Errorf("the observer's sum of %s is %d after Close", state, n)
		}
	}
	s := &r.Registry.state
	if len(s.entries)+len(s.names)+len(s.groups)+len(s.slots) != 0 {
		r.t.Errorf("left in the books: %d entries, %d names, %d groups, %d slots", len(s.entries), len(s.names), len(s.groups), len(s.slots))
	}
}

// sound fails the test on anything that must never be.
func (r *rig) sound() {
	r.t.Helper()
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	for _, v := range r.w.broken {
		r.t.Error("violated: " + v)
	}
}

func (r *rig) acquire(spec Spec) Status {
	r.t.Helper()
	status := r.Acquire(spec)
	synctest.Wait()
	return status
}

func (r *rig) wantState(key Key, want State) Status {
	r.t.Helper()
	synctest.Wait()
	status, found := r.Status(key)
	if status.State != want {
		r.t.Fatalf("state of %s is %s (err %v), want %s", key, status.State, status.Err, want)
	}
	if found != (want != Stopped) {
		r.t.Fatalf("found of %s is %v in state %s", key, found, want)
	}
	return status
}

func (r *rig) use(kind Kind, name string) *Use {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	u, err := r.Use(ctx, kind, "shop", name)
	if err != nil {
		r.t.Fatalf("use %s: %v", name, err)
	}
	return u
}

// hooks orders a test's setting of a hook before every later look at it, for the race detector: a timer of the bubble orders nothing.
var hooks sync.Mutex

func (w *world) look() (onOpen func(context.Context, Spec) error) {
	hooks.Lock()
	defer hooks.Unlock()
	return w.onOpen
}

// after lets fake time pass.
func after(d time.Duration) {
	hooks.Lock()
	hooks.Unlock() //nolint:staticcheck // the order is the purpose
	time.Sleep(d)
	synctest.Wait()
}

func isLive(context.Context) error { return nil }

var epoch = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

func producer(name, uid string) Spec {
	return Spec{
		Key: Key{Producer, uid}, Namespace: "shop", Name: name, Generation: 1, Created: epoch, Driver: "Fake", Group: "shop_" + name,
		Producer: &ProducerSpec{Config: driver.ProducerConfig{
			Connection: driver.Connection{NameServers: []string{"ns:9876"}, AllowAddress: func(string) error { return nil }},
			Group:      "shop_" + name, Topics: []string{"orders"},
		}},
		DrainTimeout: 30 * time.Second, Confirm: isLive,
	}
}

func consumer(name, uid string) Spec {
	return Spec{
		Key: Key{Consumer, uid}, Namespace: "shop", Name: name, Generation: 1, Created: epoch, Driver: "Fake", Group: name,
		Consumer: &ConsumerSpec{Config: driver.ConsumerConfig{
			Connection:    driver.Connection{NameServers: []string{"ns:9876"}, AllowAddress: func(string) error { return nil }},
			Group:         name,
			Subscriptions: []driver.Subscription{{Topic: "orders"}},
		}, MaxInFlight: 10},
		DrainTimeout: 30 * time.Second, Confirm: isLive,
	}
}

func of(kind Kind, name, uid string) Spec {
	if kind == Producer {
		return producer(name, uid)
	}
	return consumer(name, uid)
}

// at answers spec with another generation and name servers: a change that needs another client.
func at(spec Spec, generation int64, servers ...string) Spec {
	spec.Generation = generation
	if spec.Producer != nil {
		p := *spec.Producer
		p.Config.Connection.NameServers = slices.Clone(servers)
		spec.Producer = &p
	}
	if spec.Consumer != nil {
		c := *spec.Consumer
		c.Config.Connection.NameServers = slices.Clone(servers)
		spec.Consumer = &c
	}
	return spec
}

// tuned answers spec with another generation and a limit that a client may take over while it runs.
func tuned(spec Spec, generation int64, limit int) Spec {
	spec = withClientID(spec, "") // copies
	spec.Generation = generation
	if spec.Producer != nil {
		spec.Producer.MaxMessageBytes = limit
	} else {
		spec.Consumer.MaxInFlight = limit
	}
	return spec
}

// until answers a hook that waits for gate, whatever its context says.
func until(gate <-chan struct{}) func(context.Context, Spec) error {
	return func(context.Context, Spec) error {
		<-gate
		return nil
	}
}

var errDown = driver.Errorf(driver.Unavailable, "connection.nameServers[0]", "nobody answers at ns:9876")
