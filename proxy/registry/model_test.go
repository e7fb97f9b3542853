// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// TestModel_RandomInterleavings drives the registry through random walks of object lives, uses, failures and time, against a world whose
// every call takes a random time or fails, and checks what must hold at every moment and what must hold at rest. MODEL_SEED starts one
// again (the scheduler still has its say).
func TestModel_RandomInterleavings(t *testing.T) {
	walks, first := 1000, uint64(1)
	if text := os.Getenv("MODEL_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("MODEL_SEED: %v", err)
		}
		walks, first = 1, seed
	}
	var opens int
	var failed bool
	for i := range walks {
		seed := first + uint64(i)
		synctest.Test(t, func(t *testing.T) {
			m := newModel(t, seed)
			m.walk(60)
			m.atRest()
			m.stop()
			opens += m.w.opened()
			if failed = t.Failed(); failed {
				t.Logf("repeat with MODEL_SEED=%d", seed)
			}
		})
		if failed {
			return
		}
	}
	if opens < walks*5 {
		t.Errorf("only %d clients were opened in %d walks: the model does not test much", opens, walks)
	}
}

// object is what the model knows about one object of the API server.
type object struct {
	spec Spec
	live bool // exists and is not dying
}

type model struct {
	*rig
	mu      sync.Mutex // guards rnd and objects: hooks run in workers
	rnd     *rand.Rand
	calm    bool // nothing fails any more
	objects map[Key]*object
	byName  map[objectName]*object
	count   int
	holds   sync.WaitGroup
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{rig: newRig(t), rnd: rand.New(rand.NewPCG(seed, 7)), objects: map[Key]*object{}, byName: map[objectName]*object{}}
	m.w.onOpen = func(ctx context.Context, s Spec) error {
		m.checkOpen(s)
		return m.trouble(ctx, 12*time.Second)
	}
	m.w.onProbe = func(ctx context.Context, _ Spec) error { return m.trouble(ctx, 5*time.Second) }
	m.w.onDrain = func(ctx context.Context, _ *fakeClient) DrainReport {
		m.sleep(ctx, 40*time.Second)
		return DrainReport{}
	}
	m.w.onClose = func(ctx context.Context, _ *fakeClient) error { m.sleep(ctx, 3*time.Second); return nil }
	m.w.update = func(*fakeClient, Spec) bool { return m.chance(30) }
	return m
}

// checkOpen: when a client is opened its UID has an entry, so a remover that looks now finds it; and of one UID there is never a second
// client that runs, never a second one of a consumer at all.
func (m *model) checkOpen(s Spec) {
	if n := m.w.countOf(s.Key); n > 2 || (s.Kind == Consumer && n > 1) {
		m.w.violate("%d clients of %s", n, s.Key)
	}
	if n := len(m.w.running(s.Key)); n > 2 {
		m.w.violate("%d running clients of %s", n, s.Key)
	}
	if _, found := m.Status(s.Key); !found {
		m.w.violate("%s is opened without an entry", s.Key)
	}
}

func (m *model) chance(percent int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rnd.IntN(100) < percent
}

func (m *model) number(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rnd.IntN(n)
}

func (m *model) isCalm() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calm
}

// sleep waits a random time; sometimes it does not care about its context.
func (m *model) sleep(ctx context.Context, most time.Duration) {
	d := time.Duration(m.number(int(most)))
	if m.isCalm() {
		d /= 1000
	} else if m.chance(10) {
		time.Sleep(d)
		return
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (m *model) trouble(ctx context.Context, most time.Duration) error {
	m.sleep(ctx, most)
	if !m.isCalm() && m.chance(25) {
		return errDown
	}
	return nil
}

// confirm reads the truth at a moment between its call and its return.
func (m *model) confirm(key Key) func(context.Context) error {
	return func(ctx context.Context) error {
		m.sleep(ctx, 2*time.Second)
		m.mu.Lock()
		live := m.objects[key].live
		m.mu.Unlock()
		m.sleep(ctx, 2*time.Second)
		switch {
		case !live:
			return ErrNotLive
		case !m.isCalm() && m.chance(15):
			return errors.New("the API server is away")
		}
		return nil
	}
}

func (m *model) walk(steps int) {
	for range steps {
		switch n := m.number(100); {
		case n < 15:
			m.create()
		case n < 40:
			m.reconcile()
		case n < 50:
			m.change()
		case n < 60:
			m.remove()
		case n < 75:
			m.useSome()
		case n < 80:
			m.kill()
		case n < 83:
			m.auditNow()
		case n < 95:
			time.Sleep(time.Duration(m.number(int(20 * time.Second))))
		default:
			synctest.Wait()
		}
		m.sound()
	}
}

func (m *model) pick() *object {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.count == 0 {
		return nil
	}
	uid := m.rnd.IntN(m.count)
	for _, kind := range []Kind{Producer, Consumer} {
		if o := m.objects[Key{kind, fmt.Sprint(uid)}]; o != nil {
			return o
		}
	}
	return nil
}

func (m *model) create() {
	kind := []Kind{Producer, Consumer}[m.number(2)]
	s := of(kind, fmt.Sprintf("n%d", m.number(4)), fmt.Sprint(m.count))
	s.Group = fmt.Sprintf("g%d", m.number(3))
	s.Created = epoch.Add(time.Duration(m.number(3)) * time.Hour)
	s.IdleTimeout = time.Duration(m.number(3)) * 7 * time.Second
	s.Confirm = m.confirm(s.Key)
	s = at(s, 1, fmt.Sprintf("ns%d:1", m.number(2)))
	m.mu.Lock()
	defer m.mu.Unlock()
	where := objectName{kind, s.Namespace, s.Name}
	if o := m.byName[where]; o != nil && o.live {
		return
	}
	o := &object{spec: s, live: true}
	m.objects[s.Key], m.byName[where] = o, o
	m.count++
}

// reconcile passes once over a random object, sometimes with a view that is behind.
func (m *model) reconcile() {
	o := m.pick()
	if o == nil {
		return
	}
	m.mu.Lock()
	live, s := o.live, o.spec
	m.mu.Unlock()
	if !live && m.chance(30) {
		live = true // the cache does not know yet that it is gone
	}
	m.pass(o, live, s)
}

func (m *model) pass(o *object, live bool, s Spec) {
	if live {
		m.Acquire(s)
		return
	}
	if done, _ := m.Release(s.Key, "deleted"); done && m.w.countOf(s.Key) > 0 {
		m.w.violate("%s was released while it has a client", s.Key)
	}
}

func (m *model) change() {
	if o := m.pick(); o != nil {
		servers, limit, tune := fmt.Sprintf("ns%d:1", m.number(3)), m.number(3), m.chance(50)
		m.mu.Lock()
		defer m.mu.Unlock()
		if tune {
			o.spec = tuned(o.spec, o.spec.Generation+1, limit)
		} else {
			o.spec = at(o.spec, o.spec.Generation+1, servers)
		}
	}
}

func (m *model) remove() {
	if o := m.pick(); o != nil {
		m.mu.Lock()
		o.live = false
		m.mu.Unlock()
	}
}

// useSome holds a client for a while, and checks that nobody closes it under a user that lets go in time.
func (m *model) useSome() {
	o := m.pick()
	if o == nil {
		return
	}
	m.mu.Lock()
	name := objectName{o.spec.Kind, o.spec.Namespace, o.spec.Name}
	m.mu.Unlock()
	hold := time.Duration(m.number(int(30 * time.Second)))
	m.holds.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		u, err := m.Use(ctx, name.kind, name.namespace, name.name)
		if err != nil {
			return
		}
		defer u.Release()
		select {
		case <-time.After(hold):
		case <-u.Done():
		}
		c := u.Client().(*fakeClient)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.isClosed {
			m.w.violate("%s was closed under a user that lets go at once", c.id)
		}
	})
}

func (m *model) kill() {
	if o := m.pick(); o != nil {
		for _, c := range m.w.running(o.spec.Key) {
			c.fail(driver.ErrClosed)
		}
	}
}

func (m *model) auditNow() {
	_, err := m.Audit(context.Background(), m.list)
	if err != nil {
		m.w.violate("audit: %v", err)
	}
}

func (m *model) list(context.Context) (map[Key]struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := map[Key]struct{}{}
	for key, o := range m.objects {
		if o.live {
			keys[key] = struct{}{}
		}
	}
	return keys, nil
}

// atRest lets everything work, passes over every object as reconcilers do, and checks the end.
func (m *model) atRest() {
	m.mu.Lock()
	m.calm = true
	m.mu.Unlock()
	for range 4 {
		for _, o := range m.objects {
			m.pass(o, o.live, o.spec)
		}
		after(3 * time.Minute)
	}
	m.holds.Wait()
	winners := map[groupKey]*object{}
	for _, o := range m.objects {
		key := groupOf(o.spec)
		if best := winners[key]; o.live && (best == nil || older(o, best)) {
			winners[key] = o
		}
	}
	for _, o := range m.objects {
		m.checkEnd(o, winners[groupOf(o.spec)])
	}
}

func older(a, b *object) bool {
	if !a.spec.Created.Equal(b.spec.Created) {
		return a.spec.Created.Before(b.spec.Created)
	}
	return a.spec.UID < b.spec.UID
}

func (m *model) checkEnd(o, winner *object) {
	m.t.Helper()
	status, found := m.Status(o.spec.Key)
	clients := m.w.countOf(o.spec.Key)
	switch {
	case !o.live:
		if found || clients != 0 {
			m.t.Errorf("%s is gone but has an entry (%v, %s) and %d clients", o.spec.Key, found, status.State, clients)
		}
	case o != winner:
		var inUse *GroupInUseError
		if status.State != Failed && status.State != Running || !errors.As(status.Err, &inUse) {
			winning, _ := m.Status(winner.spec.Key)
			m.t.Errorf("%s lost its group to %s but is %+v; the winner is %+v", o.spec.Key, winner.spec.Key, status, winning)
		}
	case status.State == Idle && o.spec.IdleTimeout > 0:
		if clients != 0 || status.Generation != o.spec.Generation {
			m.t.Errorf("%s is idle: %+v, %d clients", o.spec.Key, status, clients)
		}
	default:
		if status.State != Running || status.Generation != o.spec.Generation || status.Err != nil || clients != 1 {
			m.t.Errorf("%s should run: %+v, %d clients", o.spec.Key, status, clients)
		}
	}
}

func (m *model) stop() {
	m.mu.Lock()
	m.calm = m.rnd.IntN(2) == 0
	m.mu.Unlock()
	m.finish()
}
