// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// object is a Producer or a Consumer.
type object interface {
	client.Object
	Common() *proxyv1alpha1.CommonSpec
	Reported() *proxyv1alpha1.ClientStatus
}

// objectKind is what differs between the two.
type objectKind interface {
	kind() registry.Kind
	newObject() object
	group(o object) string
	singleHost(caps driver.Capabilities) bool
	// refuse answers what the object asks for and a driver with such capabilities cannot do, nil when there is nothing.
	refuse(o object, driverName string, caps driver.Capabilities) error
	// notBefore is when the object's client may start at the earliest; zero = at once.
	notBefore(o object) time.Time
	fill(o object, connection driver.Connection, spec *registry.Spec)
}

// Clients is the part of registry.Registry that the controllers use.
type Clients interface {
	Acquire(spec registry.Spec) registry.Status
	Expect(key registry.Key, namespace, name, reason, message string)
	Release(key registry.Key, reason string) (done bool, receipt registry.Receipt)
	Forget(key registry.Key)
	Status(key registry.Key) (registry.Status, bool)
	List() []registry.EntryInfo
	CloseGate()
	Audit(ctx context.Context, live func(ctx context.Context) (map[registry.Key]struct{}, error)) (registry.AuditReport, error)
}

// reconciler makes this host run what the objects of one kind ask for, and let go of what is being deleted. It never waits for RocketMQ:
// it states what should run, and the registry wakes it when something has changed.
type reconciler struct {
	objectKind
	client   client.Client // reads from the cache
	reader   client.Reader // reads from the API server
	roll     *rollCall
	clients  Clients
	host     *Host
	names    *tracker
	connect  *connector
	changes  *changes
	drivers  Drivers
	endpoint string
	events   *eventRecorder
	observer Observer
	seeks    *seeker // nil for Producers
	now      func() time.Time
}

const (
	// dyingInterval is how often a dying object is looked at: other hosts' status writes wake nobody.
	dyingInterval = 2 * time.Second
	// resyncInterval bounds how long a status that somebody else has overwritten stays wrong.
	resyncInterval = 10 * time.Minute
	// conflictInterval is when a pass that lost against another writer comes again.
	conflictInterval = 200 * time.Millisecond
)

// Reconcile is one pass over one object. The order of its steps is the host protocol; see doc.go.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	decided := true
	defer func() {
		if decided {
			r.names.noteTried(kindName{r.kind(), req.NamespacedName})
		}
	}()
	obj, err := r.view(ctx, req.NamespacedName)
	if client.IgnoreNotFound(err) != nil {
		return r.failed(ctx, fmt.Errorf("read %s %s: %w", r.kind(), req.NamespacedName, err))
	}
	draining := r.letGoOfOthers(ctx, req.NamespacedName, string(obj.GetUID()))
	if apierrors.IsNotFound(err) {
		return ctrl.Result{RequeueAfter: draining}, nil
	}
	r.names.remember(r.key(obj), req.NamespacedName)

	var result ctrl.Result
	switch {
	case !obj.GetDeletionTimestamp().IsZero():
		result, err = r.reconcileDelete(ctx, obj)
	case !controllerutil.ContainsFinalizer(obj, proxyv1alpha1.Finalizer):
		err = r.addFinalizer(ctx, obj)
	default:
		f := r.newFacts(obj)
		result, err = r.reconcileNormal(ctx, obj, f)
		decided = !f.choosing
	}
	if err != nil {
		return r.failed(ctx, err)
	}
	return ctrl.Result{RequeueAfter: soonest(result.RequeueAfter, draining)}, nil
}

// view reads the object from the cache, or from the API server when the cache may be behind the own last write: a pass that compared what it
// wants with such an old status would find them equal, write nothing, and nobody would be woken to correct what the last pass has written.
func (r *reconciler) view(ctx context.Context, name types.NamespacedName) (object, error) {
	obj := r.newObject()
	err := r.client.Get(ctx, name, obj)
	if err == nil && r.names.mayBeBehind(r.key(obj), obj.GetResourceVersion()) {
		cached := obj.GetGeneration()
		obj = r.newObject()
		if err = r.reader.Get(ctx, name, obj); err == nil && obj.GetGeneration() != cached {
			r.changes.note(obj) // before its event comes
		}
	}
	return obj, err
}

func (r *reconciler) key(obj object) registry.Key {
	return registry.Key{Kind: r.kind(), UID: string(obj.GetUID())}
}

// letGoOfOthers releases what this host still runs under the name for objects that are gone: another UID has the name now, or none.
func (r *reconciler) letGoOfOthers(ctx context.Context, name types.NamespacedName, uid string) time.Duration {
	var again time.Duration
	for _, key := range r.names.keys(r.kind(), name, uid) {
		r.drivers.Forget(key)
		done, receipt := r.clients.Release(key, registry.ReleaseGone)
		if !done {
			again = dyingInterval
			continue
		}
		log.FromContext(ctx).V(1).Info("released a client whose object is gone", "uid", key.UID, "took", receipt.Took)
		r.clients.Forget(key)
		r.names.forget(key)
	}
	return again
}

// addFinalizer writes the finalizer in a patch of its own. The next pass, which its event causes, starts the client.
func (r *reconciler) addFinalizer(ctx context.Context, obj object) error {
	base := obj.DeepCopyObject().(object)
	controllerutil.AddFinalizer(obj, proxyv1alpha1.Finalizer)
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := r.client.Patch(ctx, obj, patch); err != nil {
		return fmt.Errorf("add the finalizer: %w", err)
	}
	return nil
}

// reconcileNormal states what should run for a live object that carries the finalizer, and reports.
func (r *reconciler) reconcileNormal(ctx context.Context, obj object, f *facts) (ctrl.Result, error) {
	if obj.Common().Suspend {
		r.suspend(obj, f)
	} else {
		r.run(ctx, obj, f)
	}
	if err := r.report(ctx, obj, f); err != nil {
		return ctrl.Result{}, err
	}
	again, err := r.attendSeek(ctx, obj, f)
	return ctrl.Result{RequeueAfter: soonest(r.next(obj, f), again)}, err
}

// attendSeek sees to the seeks of a Consumer. Only a host that may run its client can move it.
func (r *reconciler) attendSeek(ctx context.Context, obj object, f *facts) (again time.Duration, err error) {
	c, ok := obj.(*proxyv1alpha1.Consumer)
	if !ok || r.seeks == nil || f.leaving() || f.severalHosts && f.serving != f.host {
		return 0, nil
	}
	return r.seeks.attend(ctx, c, func(host, incarnation string) bool {
		return f.alive(proxyv1alpha1.HostStatus{Host: host, Incarnation: incarnation})
	})
}

// suspend lets go of the client and keeps the object.
func (r *reconciler) suspend(obj object, f *facts) {
	f.suspended = true
	r.drivers.Forget(r.key(obj))
	r.stop(obj, f, "suspended")
}

// stop releases the client and records what is left of it.
func (r *reconciler) stop(obj object, f *facts, why string) {
	key := r.key(obj)
	done, receipt := r.clients.Release(key, why)
	if !done {
		f.observe(r.clients.Status(key))
		return
	}
	if ranSomething(receipt) {
		r.events.released(obj, r.host.Name(), receipt)
	}
	r.clients.Forget(key)
}

// run states the client that the object asks for. What runs already stays when the new wish cannot be made out.
func (r *reconciler) run(ctx context.Context, obj object, f *facts) {
	key := r.key(obj)
	spec, caps, err := r.desired(ctx, obj)
	f.group = spec.Group
	if spec.Driver != "" {
		f.driver = spec.Driver
	}
	if err != nil {
		r.await(obj, f, err)
		return
	}
	if r.singleHost(caps) && len(f.live()) > 1 {
		f.severalHosts, f.serving = true, f.servingHost()
		if f.serving != f.host {
			r.stop(obj, f, "another host serves it")
			r.clients.Expect(spec.Key, obj.GetNamespace(), obj.GetName(), registry.ReasonSeveralHosts,
				"the driver "+f.driver+" serves a Consumer on one host only, and that is "+f.serving+": try again until you reach it")
			return
		}
	}
	status := r.clients.Acquire(spec)
	if status.Err != nil {
		r.drivers.Doubt(key) // the brokers may be others than when the driver was chosen
	}
	f.observe(status, true)
}

// await records why the client that the object asks for cannot be described, for its status and for callers that come meanwhile.
func (r *reconciler) await(obj object, f *facts, err error) {
	key := r.key(obj)
	f.observe(r.clients.Status(key))
	if errors.Is(err, ErrUndecided) {
		f.choosing = true
		r.clients.Expect(key, obj.GetNamespace(), obj.GetName(), proxyv1alpha1.ReasonStarting, err.Error()+": try again")
		return
	}
	f.problem = err
	v := explain(blameSecret(err, f.tls))
	r.clients.Expect(key, obj.GetNamespace(), obj.GetName(), v.reason, v.message)
}

// servingHost is the oldest live host: every host comes to the same answer without asking.
func (f *facts) servingHost() string {
	if live := f.live(); len(live) > 0 {
		return live[0].Name
	}
	return f.host
}

// desired is what should run, from the object, the operator's flags, the Secrets and the brokers' version. The error is ErrUndecided, a *Stalled or
// a *Waiting; the spec's group is set in any case, its driver as soon as it is known.
func (r *reconciler) desired(ctx context.Context, obj object) (registry.Spec, driver.Capabilities, error) {
	common := obj.Common()
	spec := registry.Spec{
		Key: r.key(obj), Namespace: obj.GetNamespace(), Name: obj.GetName(),
		Generation: obj.GetGeneration(), Created: obj.GetCreationTimestamp().Time,
		Group: r.group(obj), DrainTimeout: common.DrainTimeout(), Confirm: r.confirm(obj),
	}
	connection, err := r.connect.connection(ctx, obj.GetNamespace(), &common.Connection, r.changes.of(client.ObjectKeyFromObject(obj)))
	if err == nil {
		err = r.connect.allowCheckURL(obj)
	}
	if err != nil {
		return spec, driver.Capabilities{}, err
	}
	name, caps, err := r.drivers.Resolve(spec.Key, common.Driver, connection)
	spec.Driver = name
	if err != nil {
		return spec, caps, err
	}
	if err := r.refuse(obj, name, caps); err != nil {
		return spec, caps, &Stalled{Reason: proxyv1alpha1.ReasonUnsupported, Err: err}
	}
	if at, now := r.notBefore(obj), r.now(); now.Before(at) {
		return spec, caps, &Waiting{Reason: proxyv1alpha1.ReasonStartTimeAhead, After: at.Sub(now), Err: fmt.Errorf(
			"spec.startTime is %s, which has not come yet: the client starts then", at.UTC().Format(time.RFC3339))}
	}
	r.fill(obj, connection, &spec)
	return spec, caps, nil
}

// next is when to look again without being woken.
func (r *reconciler) next(obj object, f *facts) time.Duration {
	again := resyncInterval
	if namesSecret(&obj.Common().Connection) && !f.suspended {
		again = secretInterval
	}
	if v := f.trouble(); v != nil {
		again = soonest(again, v.requeue)
	}
	return soonest(again, f.patience(obj))
}

// soonest is the shorter of two delays; 0 is none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

// failed decides what an unexpected error of the API server means. To lose against another writer, or to come too late, is daily business.
func (r *reconciler) failed(ctx context.Context, err error) (ctrl.Result, error) {
	switch {
	case apierrors.IsConflict(err):
		log.FromContext(ctx).V(1).Info("somebody else wrote first, trying again", "reason", err.Error())
		return ctrl.Result{RequeueAfter: conflictInterval}, nil
	case apierrors.IsNotFound(err):
		return ctrl.Result{RequeueAfter: conflictInterval}, nil
	case ctx.Err() != nil:
		return ctrl.Result{}, nil //nolint:nilerr // the process ends; what is not done now is done by the next one
	default:
		return ctrl.Result{}, err
	}
}

// lastPass reports for the object of key if it is being deleted; the host is leaving.
func (r *reconciler) lastPass(ctx context.Context, key registry.Key, name types.NamespacedName) {
	obj := r.newObject()
	err := r.client.Get(ctx, name, obj)
	if err != nil || r.key(obj) != key || obj.GetDeletionTimestamp().IsZero() {
		return
	}
	if _, err := r.reconcileDelete(ctx, obj); err != nil {
		log.FromContext(ctx).Info("the last report for a dying object failed, another host or the next start will see to it",
			"kind", key.Kind, "object", name, "reason", err.Error())
	}
}
