// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// world is the model of the host protocol: one API server, several processes of the operator with their real registry, Lease and reconciler, and a
// scheduler that decides what happens next. Every call to the API server, and every open and close of a client, waits until the scheduler
// grants it; caches see a version when the scheduler delivers it. It lives in a synctest bubble: synctest.Wait tells when everybody waits.
type world struct {
	t   testing.TB
	api *fakeAPI
	// trace is what happened, for the report of a failure.
	trace []string

	mu        sync.Mutex
	parked    []*parkedCall
	processes []*process
	// stripped: the finalizer was taken off by hand; the promise of a proof is given up then, that of the end is not.
	stripped  map[types.UID]bool
	violation error
}

// parkedCall is a request under way.
type parkedCall struct {
	by      *process
	what    string
	mutates bool
	do      func() error
	done    chan error
	// ghost: the caller has gone (crash or time-out); the request may still arrive.
	ghost bool
}

// process is one incarnation of a host.
type process struct {
	w    *world
	pod  string
	host *Host
	reg  *registry.Registry
	r    *reconciler

	ctx  context.Context
	kill context.CancelFunc

	// Everything below is guarded by w.mu.
	ready, passing, dead, gone bool
	view                       map[string]int
	dirty                      map[string]bool
	due                        map[string]time.Time
	running                    map[types.UID]int
}

var errDead = errors.New("the process is dead")

func newWorld(t testing.TB) *world {
	return &world{t: t, api: newFakeAPI(), stripped: map[types.UID]bool{}}
}

func (w *world) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

type noEvents struct{}

func (noEvents) Eventf(_, _ runtime.Object, _, _, _, _ string, _ ...any) {}

// boot makes a process of a pod and lets it take its Lease. Its cache begins at the version that view names, as a watch cache may.
func (w *world) boot(pod string, view map[string]int) *process {
	p := &process{
		w: w, pod: pod, view: view, dirty: map[string]bool{}, due: map[string]time.Time{}, running: map[types.UID]int{},
	}
	p.ctx, p.kill = context.WithCancel(context.Background())
	uncached := &fakeClient{api: w.api, call: p.call}
	cached := &fakeClient{api: w.api, call: p.call, view: p.seen}
	host, err := NewHost(HostOptions{
		Client: uncached, Namespace: "system", PodName: pod, PodUID: types.UID(pod + "-uid"), Log: logr.Discard(),
	})
	must(w.t, err)
	waker, names := &Waker{}, newTracker()
	p.host = host
	p.reg = registry.New(registry.Options{Opener: worldOpener{p}, HostID: host.Name(), Incarnation: host.Incarnation(), Notify: waker.Notify, CloseTimeout: time.Hour})
	policy, err := ParseAddressPolicy(nil)
	must(w.t, err)
	p.r = &reconciler{
		objectKind: producerKind{}, client: cached, reader: uncached, clients: p.reg, host: host, names: names,
		connect: &connector{secrets: newSharedSecrets(uncached), defaultNameServers: []string{"namesrv:9876"}, policy: policy}, changes: newChanges(),
		drivers: testDrivers{}, events: newEventRecorder(noEvents{}, logr.Discard()), observer: noObserver{}, now: time.Now,
	}
	waker.plug(registry.Producer, func(key registry.Key) {
		if name, found := names.name(key); found {
			w.mu.Lock()
			defer w.mu.Unlock()
			p.dirty[name.Name] = true
		}
	})
	for name, version := range view {
		p.dirty[name] = version > 0
	}
	w.mu.Lock()
	w.processes = append(w.processes, p)
	w.mu.Unlock()
	go func() {
		err := host.Acquire(p.ctx)
		w.mu.Lock()
		defer w.mu.Unlock()
		p.ready = err == nil
	}()
	return p
}

// call parks a request until the scheduler grants it or the caller gives up.
func (p *process) call(ctx context.Context, what string, mutates bool, do func() error) error {
	c := &parkedCall{by: p, what: p.pod + ": " + what, mutates: mutates, do: do, done: make(chan error, 1)}
	p.w.mu.Lock()
	if p.dead {
		p.w.mu.Unlock()
		return errDead
	}
	p.w.parked = append(p.w.parked, c)
	p.w.mu.Unlock()
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
	case <-p.ctx.Done():
	}
	p.w.abandon(c)
	return errors.Join(errDead, ctx.Err())
}

// abandon: what was asked for may still happen; what was only read is of no use any more.
func (w *world) abandon(c *parkedCall) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.mutates {
		c.ghost = true
		return
	}
	w.unpark(c)
}

// unpark is called with mu held.
func (w *world) unpark(c *parkedCall) {
	w.parked = slices.DeleteFunc(w.parked, func(o *parkedCall) bool { return o == c })
}

// seen is what the process's cache holds.
func (p *process) seen(name string) *proxyv1alpha1.Producer {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.w.at(name, p.view[name])
}

// at is version number n of an object, from 1; nil = none.
func (w *world) at(name string, n int) *proxyv1alpha1.Producer {
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	if n == 0 {
		return nil
	}
	return w.api.history[name][n-1]
}

func (w *world) versions(name string) int {
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	return len(w.api.history[name])
}

// deliver brings a process's cache to version n, as one event, and marks the object for a pass when the real predicate wants one.
func (w *world) deliver(p *process, name string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, after := w.at(name, p.view[name]), w.at(name, n)
	p.view[name] = n
	switch {
	case before == nil && after == nil:
	case before == nil || after == nil:
		p.dirty[name] = true
	default:
		if worthAPass().Update(event.UpdateEvent{ObjectOld: before, ObjectNew: after}) {
			p.dirty[name] = true
		}
	}
}

// pass runs Reconcile in a goroutine, as a worker of the controller does.
func (w *world) pass(p *process, name string) {
	w.mu.Lock()
	p.passing, p.dirty[name] = true, false
	delete(p.due, name)
	w.mu.Unlock()
	go func() {
		result, err := p.r.Reconcile(p.ctx, ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: name}})
		w.mu.Lock()
		defer w.mu.Unlock()
		p.passing = false
		if err != nil {
			p.dirty[name] = true
		} else if result.RequeueAfter > 0 {
			p.due[name] = time.Now().Add(result.RequeueAfter)
		}
	}()
}

// grant lets a request through.
func (w *world) grant(c *parkedCall, answer bool) {
	w.mu.Lock()
	w.unpark(c)
	w.mu.Unlock()
	err := c.do()
	if !answer {
		err = errors.New("the answer was lost")
	}
	c.done <- err
}

// refuse fails a request before it had an effect.
func (w *world) refuse(c *parkedCall) {
	w.mu.Lock()
	w.unpark(c)
	w.mu.Unlock()
	c.done <- errors.New("the API server is overloaded")
}

// crash ends a process at once: its clients are gone with it, requests under way may still arrive.
func (w *world) crash(p *process) {
	w.mu.Lock()
	p.dead, p.ready = true, false
	p.running = map[types.UID]int{}
	w.mu.Unlock()
	p.kill()
	synctest.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p.reg.Close(ctx)
}

// worldOpener opens clients that only count.
type worldOpener struct{ p *process }

func (o worldOpener) Open(ctx context.Context, spec registry.Spec, _ driver.ClientID) (registry.Client, error) {
	opened := false
	err := o.p.call(ctx, "open the client of "+spec.UID, false, func() error {
		o.p.w.opened(o.p, types.UID(spec.UID))
		opened = true
		return nil
	})
	if !opened {
		return nil, err
	}
	return &worldClient{p: o.p, uid: types.UID(spec.UID)}, nil
}

func (worldOpener) Probe(context.Context, registry.Spec) error { return nil }
func (worldOpener) Leftovers() map[string]int                  { return nil }

type worldClient struct {
	p   *process
	uid types.UID
}

func (c *worldClient) Drain(context.Context) registry.DrainReport { return registry.DrainReport{} }
func (c *worldClient) Err() error                                 { return nil }
func (c *worldClient) Update(registry.Spec) bool                  { return true }
func (c *worldClient) Close(ctx context.Context) error {
	return c.p.call(ctx, "close the client of "+string(c.uid), false, func() error {
		c.p.w.mu.Lock()
		defer c.p.w.mu.Unlock()
		c.p.running[c.uid]--
		return nil
	})
}

// opened records a client and checks the write-ahead promise.
func (w *world) opened(p *process, uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p.running[uid]++
	if p.running[uid] > 1 {
		w.violation = fmt.Errorf("%s runs %d clients of %s", p.pod, p.running[uid], uid)
	}
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	if w.api.leases[p.host.Name()] == nil {
		w.violation = fmt.Errorf("%s started a client of %s without a Lease", p.pod, uid)
	}
}

// check is the safety of the protocol: a client that runs has an object that waits for it.
func (w *world) check() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	if w.violation != nil {
		return w.violation
	}
	guarded := map[types.UID]bool{}
	for _, o := range w.api.objects {
		guarded[o.UID] = controllerutil.ContainsFinalizer(o, proxyv1alpha1.Finalizer)
	}
	for _, p := range w.processes {
		for uid, n := range p.running {
			if n > 0 && !p.dead && !guarded[uid] && !w.stripped[uid] {
				return fmt.Errorf("%s runs a client of %s, which is gone or has no finalizer", p.pod, uid)
			}
		}
	}
	return nil
}

// settled is the liveness: dying objects are gone, and every host that is alive runs one client of each live object and nothing else.
func (w *world) settled() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	live := map[types.UID]bool{}
	for _, o := range w.api.objects {
		if o.DeletionTimestamp != nil {
			return fmt.Errorf("%s (%s) is still dying: finalizers %v, hosts %v", o.Name, o.UID, o.Finalizers, o.Status.Hosts)
		}
		live[o.UID] = true
		if ready := conditionOf(o, proxyv1alpha1.ConditionReady); ready.Status != metav1.ConditionTrue || len(o.Status.Hosts) > 0 {
			return fmt.Errorf("%s (%s) runs, but its status says Ready %s %s and lists %v", o.Name, o.UID, ready.Status, ready.Reason, o.Status.Hosts)
		}
	}
	for _, p := range w.processes {
		if p.dead || p.gone {
			continue
		}
		for uid := range live {
			if p.running[uid] != 1 {
				return fmt.Errorf("%s runs %d clients of %s, want 1", p.pod, p.running[uid], uid)
			}
		}
		for uid, n := range p.running {
			if n > 0 && !live[uid] {
				return fmt.Errorf("%s still runs a client of %s, which is gone", p.pod, uid)
			}
		}
	}
	return nil
}

// settle lets everything through until the world is at rest, in at most two minutes of its time.
func (w *world) settle() {
	w.t.Helper()
	var last error
	for range 60 {
		for range 200 {
			synctest.Wait()
			w.verify()
			if !w.oneFairStep() {
				break
			}
		}
		if last = w.settled(); last == nil {
			return
		}
		w.elapse(2 * time.Second)
	}
	w.fail("the world does not come to rest: %v", last)
}

// oneFairStep does everything that can be done now; false = nothing.
func (w *world) oneFairStep() bool {
	if calls := w.requests(); len(calls) > 0 {
		for _, c := range calls {
			w.grant(c, true)
		}
		return true
	}
	did := false
	for _, p := range w.alive() {
		for _, name := range w.names() {
			if n := w.versions(name); p.viewOf(name) < n {
				w.deliver(p, name, n)
				did = true
			}
			if p.wantsPass(name) {
				w.pass(p, name)
				did = true
				break
			}
		}
	}
	return did
}

// elapse moves the clock; hosts that live renew their Leases meanwhile, unless they lost them.
func (w *world) elapse(d time.Duration) {
	time.Sleep(d)
	for _, p := range w.alive() {
		w.api.mu.Lock()
		if l := w.api.leases[p.host.Name()]; l != nil && holder(l) == p.host.Incarnation() {
			renewed := l.DeepCopy()
			now := metav1.NowMicro()
			renewed.Spec.RenewTime, renewed.ResourceVersion = &now, w.api.next()
			w.api.leases[l.Name] = renewed
		}
		w.api.mu.Unlock()
	}
}

func (w *world) requests() []*parkedCall {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.parked)
}

// request finds the parked call whose text contains all words.
func (w *world) request(words ...string) *parkedCall {
	w.t.Helper()
	synctest.Wait()
	for _, c := range w.requests() {
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(c.what, word) }) {
			return c
		}
	}
	var all []string
	for _, c := range w.requests() {
		all = append(all, c.what)
	}
	w.fail("no request %q is under way, only %q", words, all)
	return nil
}

// until grants the other requests of a host until it makes the one that contains all words, and answers that.
func (w *world) until(host string, words ...string) *parkedCall {
	w.t.Helper()
	for range 50 {
		synctest.Wait()
		w.verify()
		var other *parkedCall
		for _, c := range w.requests() {
			if !strings.HasPrefix(c.what, host+": ") {
				continue
			}
			if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(c.what, word) }) {
				return c
			}
			other = c
		}
		if other == nil {
			break
		}
		w.grant(other, true)
	}
	return w.request(words...)
}

// let grants the request that contains all words, and waits until its caller has gone on.
func (w *world) let(words ...string) {
	w.t.Helper()
	w.grant(w.request(words...), true)
	synctest.Wait()
	w.verify()
}

func (w *world) verify() {
	w.t.Helper()
	if err := w.check(); err != nil {
		w.fail("%v", err)
	}
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf(format+"\nwhat happened:\n  %s", append(args, strings.Join(w.trace, "\n  "))...)
}

// alive are the processes that have their Lease and have not ended.
func (w *world) alive() []*process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.processes), func(p *process) bool { return p.dead || p.gone || !p.ready })
}

func (w *world) names() []string {
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	var names []string
	for name := range w.api.history {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (p *process) viewOf(name string) int {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.view[name]
}

func (p *process) wantsPass(name string) bool {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	due, timed := p.due[name]
	return !p.passing && (p.dirty[name] || (timed && !time.Now().Before(due)))
}

// runs counts the clients of a UID on a process.
func (p *process) runs(uid types.UID) int {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.running[uid]
}

// The user's hands.

func (w *world) create(name string) types.UID {
	o := &proxyv1alpha1.Producer{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	o.Spec.Topics = []string{"orders"}
	must(w.t, w.api.create(o))
	return o.UID
}

func (w *world) delete(name string) {
	o := &proxyv1alpha1.Producer{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	must(w.t, client.IgnoreNotFound(w.api.remove(o)))
}

// strip takes the finalizers off by hand, as people do.
func (w *world) strip(name string) {
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	if o := w.api.objects[name]; o != nil {
		w.mu.Lock()
		w.stripped[o.UID] = true
		w.mu.Unlock()
		p := o.DeepCopy()
		p.Finalizers = nil
		w.api.store(p)
	}
}

// collect is the garbage collector after the pod of a dead process was deleted.
func (w *world) collect(p *process) {
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	delete(w.api.leases, p.host.Name())
}

// end lets every goroutine go, so that the bubble can close.
func (w *world) end() {
	w.mu.Lock()
	all := slices.Clone(w.processes)
	w.mu.Unlock()
	for _, p := range all {
		w.crash(p)
	}
}

var fakeProducer proxyv1alpha1.Producer

// drainRequests grants requests that contain the text, until there is none.
func (w *world) drainRequests(text string) {
	w.t.Helper()
	for {
		synctest.Wait()
		w.verify()
		i := slices.IndexFunc(w.requests(), func(c *parkedCall) bool { return strings.Contains(c.what, text) })
		if i < 0 {
			return
		}
		w.grant(w.requests()[i], true)
	}
}

// lose takes a request off the scheduler's hands; the test lets it arrive itself.
func (w *world) lose(c *parkedCall) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unpark(c)
}
