// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/source"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// Observer is told what metrics count. It must not block. nil is allowed in Options.
type Observer interface {
	// FinalizerForced: a finalizer was taken off although dead hosts had not reported.
	FinalizerForced(kind registry.Kind)
	// Audited: an audit ended.
	Audited(report registry.AuditReport, err error)
}

type noObserver struct{}

func (noObserver) FinalizerForced(registry.Kind)       {}
func (noObserver) Audited(registry.AuditReport, error) {}

// Options are what Setup needs. Everything without "absent" must be set.
type Options struct {
	// Host is this process among the hosts; its Lease is acquired before the manager starts.
	Host *Host
	// Registry runs the clients. Its Options.Notify is Waker.Notify.
	Registry Clients
	Waker    *Waker
	Drivers  Drivers
	// DefaultNameServers are for objects that name none. Absent: such objects are not accepted.
	DefaultNameServers []string
	// Addresses decides which name servers and brokers clients may be sent to; the default name servers are trusted by Setup.
	Addresses *AddressPolicy
	// Namespaces are those that the manager's cache is restricted to. Absent: all.
	Namespaces []string
	// Endpoint is where applications reach the proxy, for status.endpoint. Absent: not shown.
	Endpoint string
	// Move moves the group of a Consumer from this host, for its annotation. Absent: Consumers are not moved.
	Move Mover
	// HostsChanged is called after the set of live hosts has changed. It must not block. Absent: nobody is told.
	HostsChanged func()
	// AuditInterval is the time between audits. Absent: a minute.
	AuditInterval time.Duration
	// Workers is how many objects of a kind are reconciled at a time. Absent: 16, as a pass mostly waits for the API server.
	Workers int
	// Observer counts for metrics. Absent: nobody does.
	Observer Observer
}

// Controllers is what Setup wired. Its life is the manager's.
type Controllers struct {
	options     Options
	names       *tracker
	reconcilers []*reconciler
	primer      *primer
	secrets     *sharedSecrets
	seeks       *seeker
	lags        *lagWriter
}

// Seeks moves Consumers for callers; nil without Options.Move.
func (c *Controllers) Seeks() server.Seeker {
	if c.seeks == nil {
		return nil
	}
	return c.seeks
}

// Setup adds to the manager: the controllers of both kinds, the renewal of the host's Lease, the wait for the first passes, and the audit. All of them run without leader
// election. When the Lease is lost the manager's Start returns ErrHostLost; the caller then closes the registry and ends the process.
//
// The order around it, in main: NewHost, registry.New with Waker.Notify, Setup, Host.Acquire, manager.Start. To stop, with the manager still
// running: registry.CloseGate, drain, registry.Close, Controllers.Leave, then end the manager's context.
func Setup(mgr ctrl.Manager, o Options) (*Controllers, error) {
	if o.Host == nil || o.Registry == nil || o.Waker == nil || o.Drivers == nil || o.Addresses == nil {
		return nil, errors.New("controllers.Setup: Host, Registry, Waker, Drivers and Addresses must be set")
	}
	o = o.withDefaults()
	if err := o.Addresses.Trust(o.DefaultNameServers); err != nil {
		return nil, err
	}
	c := &Controllers{options: o, names: newTracker()}
	c.primer = &primer{names: c.names, clients: o.Registry, done: make(chan struct{})}
	c.secrets = newSharedSecrets(mgr.GetAPIReader())
	connect := &connector{secrets: c.secrets, defaultNameServers: o.DefaultNameServers, policy: o.Addresses}
	events := newEventRecorder(mgr.GetEventRecorder("rocketmq-proxy"), mgr.GetLogger().WithName("events"))
	c.seeks, c.lags = newSeeker(mgr, o, c.names, events), newLagWriter(mgr, o, c.names)
	for _, kind := range []objectKind{producerKind{}, consumerKind{}} {
		r := newReconciler(kind, mgr, o, c.names, connect, events)
		if kind.kind() == registry.Consumer {
			r.seeks = c.seeks
		}
		if err := r.setup(mgr, o); err != nil {
			return nil, fmt.Errorf("set up the controller of %ss: %w", kind.kind(), err)
		}
		c.reconcilers = append(c.reconcilers, r)
	}
	runnables := []onEveryHost{c.keepLease, c.primer.run(mgr), c.audit(mgr)}
	if c.seeks != nil {
		runnables = append(runnables, c.seeks.run)
	}
	for _, runnable := range runnables {
		if err := mgr.Add(runnable); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (o Options) withDefaults() Options {
	if o.AuditInterval == 0 {
		o.AuditInterval = time.Minute
	}
	if o.Workers == 0 {
		o.Workers = 16
	}
	if len(o.Namespaces) == 0 {
		o.Namespaces = []string{metav1.NamespaceAll}
	}
	if o.HostsChanged == nil {
		o.HostsChanged = func() {}
	}
	if o.Observer == nil {
		o.Observer = noObserver{}
	}
	return o
}

func newSeeker(mgr ctrl.Manager, o Options, names *tracker, events *eventRecorder) *seeker {
	if o.Move == nil {
		return nil
	}
	return &seeker{
		client: mgr.GetClient(), reader: mgr.GetAPIReader(), host: o.Host, names: names, move: o.Move, events: events,
		log: mgr.GetLogger().WithName("seek"), now: time.Now, running: map[registry.Key]string{},
	}
}

func newReconciler(kind objectKind, mgr ctrl.Manager, o Options, names *tracker, connect *connector, events *eventRecorder) *reconciler {
	return &reconciler{
		objectKind: kind, client: mgr.GetClient(), reader: mgr.GetAPIReader(),
		roll:    &rollCall{kind: kind.kind(), reader: mgr.GetAPIReader(), namespaces: o.Namespaces},
		clients: o.Registry, host: o.Host, names: names,
		connect: connect, changes: newChanges(),
		drivers: o.Drivers, endpoint: o.Endpoint, events: events,
		observer: o.Observer, now: time.Now,
	}
}

func (r *reconciler) setup(mgr ctrl.Manager, o Options) error {
	leaderOnly := false
	return ctrl.NewControllerManagedBy(mgr).
		For(r.newObject()).
		WithEventFilter(r.changes.noting(worthAPass())).
		WatchesRawSource(source.Func(o.Waker.source(r.kind(), r.names))).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: o.Workers, NeedLeaderElection: &leaderOnly,
			// The default would wait up to 17 minutes after an API server that was away is back.
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[ctrl.Request](100*time.Millisecond, 10*time.Second),
		}).
		Complete(r)
}

// worthAPass drops what is only somebody's status write, or the writes of all hosts would wake all hosts. A delete and a create that arrive
// as one update have another UID.
func worthAPass() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld, e.ObjectNew
		return before.GetUID() != after.GetUID() || before.GetGeneration() != after.GetGeneration() ||
			before.GetDeletionTimestamp().IsZero() != after.GetDeletionTimestamp().IsZero() ||
			!slices.Equal(before.GetFinalizers(), after.GetFinalizers()) || seekChanged(before, after)
	}}
}

// seekChanged reports whether a Consumer's annotation or its last seek is another: what hosts fetched before it must go.
func seekChanged(before, after client.Object) bool {
	old, ok := before.(*proxyv1alpha1.Consumer)
	now, both := after.(*proxyv1alpha1.Consumer)
	return ok && both && (old.Annotations[proxyv1alpha1.SeekAnnotation] != now.Annotations[proxyv1alpha1.SeekAnnotation] ||
		!equality.Semantic.DeepEqual(old.Status.Seek, now.Status.Seek))
}

// onEveryHost is a manager.Runnable that needs no election.
type onEveryHost func(ctx context.Context) error

var _ manager.LeaderElectionRunnable = onEveryHost(nil)

// Start runs it.
func (f onEveryHost) Start(ctx context.Context) error { return f(ctx) }

// NeedLeaderElection is false: a lost election would end the process without a drain.
func (f onEveryHost) NeedLeaderElection() bool { return false }

// keepLease renews the host's Lease. When that is lost, the gate closes at once, before anybody else hears of it.
func (c *Controllers) keepLease(ctx context.Context) error {
	err := c.options.Host.Run(ctx, func() {
		c.options.HostsChanged()
		c.wakeAll()
	})
	if err != nil {
		c.options.Registry.CloseGate()
	}
	return err
}

// wakeAll asks for a pass over every object: the set of live hosts has changed, and with it who serves what, and whose entries are dead.
func (c *Controllers) wakeAll() {
	for _, key := range c.names.all() {
		c.options.Waker.Notify(key)
	}
}

// Leave is this host's last word: it reports the dying objects a last time, so that one that waits only for this host does not wait for the
// next, and deletes the own Lease. It must be called after the registry's Close; while a client is left, the Lease stays, and Kubernetes
// collects it with the pod.
func (c *Controllers) Leave(ctx context.Context) error {
	if left := len(c.options.Registry.List()); left > 0 {
		return fmt.Errorf("%d clients are not closed yet: this host's Lease stays, so that nobody takes them for closed", left)
	}
	c.lastPasses(ctx)
	return c.options.Host.Leave(ctx)
}

// lastPasses takes at most half of the time that is left: with very many dying objects the Lease would otherwise stay, and all of them would wait for it.
func (c *Controllers) lastPasses(ctx context.Context) {
	if deadline, ok := ctx.Deadline(); ok {
		half, cancel := context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
		ctx = half
	}
	for _, r := range c.reconcilers {
		for _, key := range c.names.all() {
			if name, found := c.names.name(key); found && key.Kind == r.kind() && ctx.Err() == nil {
				r.lastPass(ctx, key, name)
			}
		}
	}
}

// audit compares what runs with what exists, again and again.
func (c *Controllers) audit(mgr ctrl.Manager) onEveryHost {
	log, reader := mgr.GetLogger().WithName("audit"), mgr.GetAPIReader()
	return func(ctx context.Context) error {
		tick := time.NewTicker(c.options.AuditInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			report, err := c.options.Registry.Audit(ctx, func(ctx context.Context) (map[registry.Key]struct{}, error) {
				return c.liveObjects(ctx, reader)
			})
			if ctx.Err() != nil {
				return nil
			}
			c.options.Observer.Audited(report, err)
			if err != nil {
				log.Info("the audit could not compare clients and objects, it will try again", "reason", err.Error())
			}
		}
	}
}

// liveObjects lists both kinds uncached, dying ones too.
func (c *Controllers) liveObjects(ctx context.Context, reader client.Reader) (map[registry.Key]struct{}, error) {
	live := map[registry.Key]struct{}{}
	for _, kind := range []registry.Kind{registry.Producer, registry.Consumer} {
		for _, namespace := range c.options.Namespaces {
			err := eachObject(ctx, reader, kind, namespace, auditPage, func(o *metav1.PartialObjectMetadata) error {
				key := registry.Key{Kind: kind, UID: string(o.UID)}
				live[key] = struct{}{}
				c.names.remember(key, client.ObjectKeyFromObject(o))
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("list %ss: %w", kind, err)
			}
		}
	}
	return live, nil
}

// auditPage is how many objects an audit holds in memory at a time.
const auditPage = 500

// eachObject lists the objects of a kind, metadata only, in pages.
func eachObject(ctx context.Context, reader client.Reader, kind registry.Kind, namespace string, page int64, do func(*metav1.PartialObjectMetadata) error) error {
	list := &metav1.PartialObjectMetadataList{}
	for {
		list.SetGroupVersionKind(proxyv1alpha1.GroupVersion.WithKind(string(kind) + "List"))
		if err := reader.List(ctx, list, client.InNamespace(namespace), client.Limit(page), client.Continue(list.Continue)); err != nil {
			return err
		}
		for i := range list.Items {
			if err := do(&list.Items[i]); err != nil {
				return err
			}
		}
		if list.Continue == "" {
			return nil
		}
	}
}
