// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"sigs.k8s.io/yaml"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/choice"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// operator is one host with everything that Setup wires, on the test's API server.
type operator struct {
	t        *testing.T
	options  operatorOptions
	opener   *opener
	host     *Host
	registry *registry.Registry
	waker    *Waker
	mgr      manager.Manager
	controls *Controllers
	log      *strictLog
	observer *countingObserver
	cancel   context.CancelFunc
	ended    chan error
	once     sync.Once
}

type operatorOptions struct {
	namespace  string // of objects and Leases
	hostID     string
	incarnates *operator // take over this one's opener, as a restarted process meets the same broker
	drivers    Drivers
	move       Mover
	probe      choice.Probe // with it, drivers is the real DriverSet and this is how it learns the brokers' version
	addresses  []string
	defaults   []string
	config     *rest.Config
	newClient  client.NewClientFunc
	renewEvery time.Duration
	// auditInterval is a second when absent.
	auditInterval time.Duration
	// leaseDuration and renewEvery are the host's; absent: its defaults.
	leaseDuration time.Duration
	allowed       []string
}

type countingObserver struct {
	mu     sync.Mutex
	forced int
	audits []registry.AuditReport
}

func (o *countingObserver) FinalizerForced(registry.Kind) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forced++
}

func (o *countingObserver) Audited(r registry.AuditReport, _ error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.audits = append(o.audits, r)
}

func (o *countingObserver) forcedNow() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.forced
}

// startOperator starts a host and stops it with the test.
func startOperator(t *testing.T, o operatorOptions) *operator {
	t.Helper()
	op := newOperator(t, o)
	op.start()
	return op
}

func newOperator(t *testing.T, o operatorOptions) *operator {
	t.Helper()
	needAPIServer(t)
	op := &operator{
		t: t, options: o.withDefaults(), opener: newOpener(), waker: &Waker{}, log: newStrictLog(t), observer: &countingObserver{},
		ended: make(chan error, 1),
	}
	op.log.allow(o.allowed...)
	if o.incarnates != nil {
		op.opener = o.incarnates.opener
	}
	op.wire()
	return op
}

func (o operatorOptions) withDefaults() operatorOptions {
	if o.hostID == "" {
		o.hostID = "host-a"
	}
	if o.drivers == nil {
		o.drivers = testDrivers{}
	}
	if o.defaults == nil {
		o.defaults = []string{"rocketmq.test:9876"}
	}
	if o.config == nil {
		o.config = restConfig
	}
	if o.auditInterval == 0 {
		o.auditInterval = time.Second
	}
	return o
}

func (op *operator) wire() {
	t, o, skip := op.t, op.options, true
	var err error
	op.mgr, err = ctrl.NewManager(o.config, ctrl.Options{
		Scheme: testScheme, Logger: op.log.logger(), Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		Cache:      cache.Options{DefaultNamespaces: map[string]cache.Config{o.namespace: {}}, DefaultTransform: Slim},
		Controller: config.Controller{SkipNameValidation: &skip}, NewClient: o.newClient,
	})
	must(t, err)
	uncached, err := client.New(o.config, client.Options{Scheme: testScheme})
	must(t, err)
	op.host, err = NewHost(HostOptions{
		Client: uncached, Namespace: o.namespace, HostID: o.hostID, LockDir: t.TempDir(), RenewEvery: o.renewEvery,
		LeaseDuration: o.leaseDuration, Log: op.log.logger(),
	})
	must(t, err)
	addresses, err := ParseAddressPolicy(o.addresses)
	must(t, err)
	op.registry = registry.New(registry.Options{
		Opener: op.opener, HostID: op.host.Name(), Incarnation: op.host.Incarnation(), Notify: op.waker.Notify, Log: op.log.logger(),
		HealthInterval: 100 * time.Millisecond,
	})
	op.controls, err = Setup(op.mgr, Options{
		Host: op.host, Registry: op.registry, Waker: op.waker, Drivers: op.drivers(), DefaultNameServers: o.defaults, Addresses: addresses,
		Namespaces: []string{o.namespace}, Endpoint: "proxy.test:8081", Observer: op.observer, AuditInterval: o.auditInterval, Move: o.move,
	})
	must(t, err)
}

// drivers are those of the options, or the real set with a chooser that asks the options' probe.
func (op *operator) drivers() Drivers {
	if op.options.probe == nil {
		return op.options.drivers
	}
	chooser := choice.New(choice.Options[registry.Key]{
		Probe: op.options.probe, Wake: op.waker.Notify, Every: 100 * time.Millisecond, Log: op.log.logger(),
	})
	op.t.Cleanup(chooser.Close)
	return testSet(chooser)
}

// start does what main does, in its order.
func (op *operator) start() {
	op.t.Helper()
	must(op.t, op.host.Acquire(op.t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	op.cancel = func() {
		// client-go calls what the end of a manager interrupts an error, each time in other words.
		op.log.allow("context canceled")
		cancel()
	}
	go func() { op.ended <- op.mgr.Start(ctx) }()
	op.t.Cleanup(op.stop)
}

// stop is the orderly end of a host; a second call does nothing.
func (op *operator) stop() {
	op.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		op.registry.Close(ctx)
		if err := op.controls.Leave(ctx); err != nil {
			op.t.Errorf("leave: %v", err)
		}
		op.cancel()
		if err := <-op.ended; err != nil && !errors.Is(err, ErrHostLost) {
			op.t.Errorf("the manager ended with %v", err)
		}
	})
}

// kill ends the host as kill -9 does: no report, the Lease stays, and its clients are gone with the process.
func (op *operator) kill() {
	op.once.Do(func() {
		op.cancel()
		if err := <-op.ended; err != nil {
			op.t.Logf("the killed manager ended with %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		op.registry.Close(ctx)
		if err := op.host.lock.Close(); err != nil {
			op.t.Errorf("give up the file lock: %v", err)
		}
	})
}

// opener is a small working Opener: its clients carry nothing, but they count, fail, hang and drain as told.
type opener struct {
	mu      sync.Mutex
	running map[string]int // clients by UID
	opened  map[string]int // ever, by UID
	peak    map[string]int // most clients at a time, by UID
	fail    func(registry.Spec) error
	// block holds every Open until it is closed; blockDrain every Drain.
	block, blockDrain chan struct{}
	// beforeOpen is called after the entry was confirmed, right before the client counts as running.
	beforeOpen func(registry.Spec)
	probe      func(registry.Spec) error
	// update answers Update, under mu; nil = every change needs another client.
	update func(registry.Spec) bool
	health error // of every client that runs
}

func newOpener() *opener {
	return &opener{running: map[string]int{}, opened: map[string]int{}, peak: map[string]int{}}
}

func (o *opener) set(change func(o *opener)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(o)
}

func (o *opener) Open(ctx context.Context, spec registry.Spec, _ driver.ClientID) (registry.Client, error) {
	o.mu.Lock()
	fail, block, before := o.fail, o.block, o.beforeOpen
	o.mu.Unlock()
	if before != nil {
		before(spec)
	}
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return nil, driver.Errorf(driver.Timeout, "", "hung: %w", ctx.Err())
		}
	}
	if fail != nil {
		if err := fail(spec); err != nil {
			return nil, err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.running[spec.UID]++
	o.peak[spec.UID] = max(o.peak[spec.UID], o.running[spec.UID])
	o.opened[spec.UID]++
	return &testClient{opener: o, spec: spec}, nil
}

func (o *opener) Probe(_ context.Context, spec registry.Spec) error {
	o.mu.Lock()
	fail := o.fail
	if o.probe != nil {
		fail = o.probe
	}
	o.mu.Unlock()
	if fail != nil {
		return fail(spec)
	}
	return nil
}

func (o *opener) Leftovers() map[string]int { return nil }

// runningNow counts the clients of a UID, or of all with "".
func (o *opener) runningNow(uid string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if uid != "" {
		return o.running[uid]
	}
	n := 0
	for _, c := range o.running {
		n += c
	}
	return n
}

func (o *opener) openedEver(uid string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.opened[uid]
}

type testClient struct {
	opener *opener
	spec   registry.Spec
	once   sync.Once
}

func (c *testClient) Drain(ctx context.Context) registry.DrainReport {
	c.opener.mu.Lock()
	block := c.opener.blockDrain
	c.opener.mu.Unlock()
	if block == nil {
		return registry.DrainReport{}
	}
	select {
	case <-block:
		return registry.DrainReport{InFlight: 3, Drained: 3}
	case <-ctx.Done():
		return registry.DrainReport{InFlight: 3, Drained: 1, LeftLeased: 2}
	}
}

func (c *testClient) Close(context.Context) error {
	c.once.Do(func() {
		c.opener.mu.Lock()
		defer c.opener.mu.Unlock()
		c.opener.running[c.spec.UID]--
	})
	return nil
}

func (c *testClient) Err() error {
	c.opener.mu.Lock()
	defer c.opener.mu.Unlock()
	return c.opener.health
}

func (c *testClient) Update(spec registry.Spec) bool {
	c.opener.mu.Lock()
	defer c.opener.mu.Unlock()
	if c.opener.update == nil {
		return false
	}
	return c.opener.update(spec)
}

// testDrivers resolves everything to one driver.
type testDrivers struct{ capabilities driver.Capabilities }

func (d testDrivers) Resolve(registry.Key, proxyv1alpha1.DriverName, driver.Connection) (string, driver.Capabilities, error) {
	return "memory", d.capabilities, nil
}

func (testDrivers) Doubt(registry.Key)  {}
func (testDrivers) Forget(registry.Key) {}

// get reads an object into o, uncached.
func (op *operator) get(o object, name string) error {
	return direct.Get(op.t.Context(), client.ObjectKey{Namespace: op.options.namespace, Name: name}, o)
}

// waitReady waits until the object of that name is ready in its present generation, and leaves it in o.
func (op *operator) waitReady(o object, name string) {
	op.t.Helper()
	op.waitCondition(o, name, proxyv1alpha1.ConditionReady, "True", "")
}

// waitCondition waits for a condition of the present generation; an empty reason is any.
func (op *operator) waitCondition(o object, name, conditionType, status, reason string) {
	op.t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		must(op.t, op.get(o, name))
		c := conditionOf(o, conditionType)
		if string(c.Status) == status && (reason == "" || c.Reason == reason) && c.ObservedGeneration == o.GetGeneration() {
			return
		}
		if time.Now().After(deadline) {
			op.t.Fatalf("%s is not %s/%s after 15 s: generation %d, status %+v", conditionType, status, reason, o.GetGeneration(), *o.Reported())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// waitGone waits until the object has gone from the API server and no client of it runs.
func (op *operator) waitGone(o object, within time.Duration) {
	op.t.Helper()
	uid, name := o.GetUID(), o.GetName()
	eventually(op.t, within, "the object "+name+" has gone", func() bool {
		current := o.DeepCopyObject().(object)
		err := op.get(current, name)
		return apierrors.IsNotFound(err) || (err == nil && current.GetUID() != uid)
	})
	if n := op.opener.runningNow(string(uid)); n != 0 {
		op.t.Errorf("%d clients run although the object has gone", n)
	}
}

func (o *opener) setHealth(err error) { o.set(func(o *opener) { o.health = err }) }

func (o *countingObserver) auditsNow() []registry.AuditReport {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.audits)
}

func confirmAlways(context.Context) error { return nil }

func toYAML(t testing.TB, o any) string {
	t.Helper()
	b, err := yaml.Marshal(o)
	must(t, err)
	return string(b)
}

// in is the same operator, for the use of a subtest.
func (op *operator) in(t *testing.T) *operator {
	return &operator{t: t, options: op.options, opener: op.opener, host: op.host, registry: op.registry, waker: op.waker, controls: op.controls, observer: op.observer}
}

func (o *opener) most(uid string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.peak[uid]
}

// deadline is a context that ends with the test or after d.
func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// frozenCache makes the cached reads of hosts stand still at one version of one object.
type frozenCache struct {
	mu     sync.Mutex
	at     *proxyv1alpha1.Producer // nil = the cache is as it is
	looked int
}

func (f *frozenCache) wrap(config *rest.Config, options client.Options) (client.Client, error) {
	c, err := client.New(config, options)
	return &frozenClient{Client: c, cache: f}, err
}

func (f *frozenCache) freeze(o *proxyv1alpha1.Producer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.looked = o.DeepCopy(), 0
}

func (f *frozenCache) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = nil
}

func (f *frozenCache) looks() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.looked
}

type frozenClient struct {
	client.Client
	cache *frozenCache
}

func (c *frozenClient) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	c.cache.mu.Lock()
	p, is := o.(*proxyv1alpha1.Producer)
	if is && c.cache.at != nil && key == client.ObjectKeyFromObject(c.cache.at) {
		defer c.cache.mu.Unlock()
		c.cache.looked++
		c.cache.at.DeepCopyInto(p)
		return nil
	}
	c.cache.mu.Unlock()
	return c.Client.Get(ctx, key, o, opts...)
}
