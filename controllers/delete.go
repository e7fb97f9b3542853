// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

const (
	// forceGrace is added to the drain deadline before a dead host's missing report is no longer waited for.
	forceGrace = 10 * time.Second
	// closeSilentFor is how long a client may take to close before its object's conditions tell: an unused one is closed in milliseconds, and to tell
	// of each would cost the API server as much as the rest of the deletion.
	closeSilentFor = 500 * time.Millisecond
)

// reconcileDelete lets go of the client, says so in the object's status, and takes the finalizer off when every host has said so. It needs
// the object and the Leases, nothing else: not RocketMQ, not the Secret.
func (r *reconciler) reconcileDelete(ctx context.Context, obj object) (ctrl.Result, error) {
	key := r.key(obj)
	r.drivers.Forget(key)
	again := ctrl.Result{RequeueAfter: dyingInterval}
	done, receipt := r.clients.Release(key, registry.ReleaseDeleted)
	if !controllerutil.ContainsFinalizer(obj, proxyv1alpha1.Finalizer) {
		// Nobody waits for this host any more: the finalizer was taken off by us, or by hand.
		if done {
			again.RequeueAfter = 0
		}
		return again, nil
	}
	if !done {
		if silent := r.closesSince(key).Add(closeSilentFor).Sub(r.now()); silent > 0 {
			return ctrl.Result{RequeueAfter: silent}, nil // or sooner, when the registry tells that it is closed
		}
		return again, r.reportTerminating(ctx, obj)
	}
	current, err := r.ensureReleased(ctx, obj, receipt)
	if err != nil || current == nil {
		return again, err
	}
	// The object was read before the Leases: a host that starts in between is in the list, and its report is not in this version.
	hosts, err := r.host.List(ctx)
	if err != nil {
		return again, err
	}
	missing := stillHolding(current, hosts)
	switch {
	case !r.listed(hosts):
		// Without the own Lease other removers do not wait for this host, so it must not remove either; its loop notices and ends it.
		return again, nil
	case len(missing) == 0:
		return again, r.removeFinalizer(ctx, current)
	case r.mayForce(current, missing):
		return again, r.force(ctx, current, missing)
	default:
		return again, r.reportTerminating(ctx, current)
	}
}

// closesSince is when the client of key began to close: now, when it has just gone.
func (r *reconciler) closesSince(key registry.Key) time.Time {
	if status, found := r.clients.Status(key); found && status.State == registry.Draining {
		return status.Since
	}
	return r.now()
}

func (r *reconciler) listed(hosts []Peer) bool {
	for _, p := range hosts {
		if p.Name == r.host.Name() {
			return p.Incarnation == r.host.Incarnation()
		}
	}
	return false
}

// ensureReleased reads the object uncached and makes sure that it carries this host's report. It answers the version that the decision about
// the finalizer is made with, nil when there is nothing left to decide.
func (r *reconciler) ensureReleased(ctx context.Context, obj object, receipt registry.Receipt) (object, error) {
	current := r.newObject()
	if err := r.reader.Get(ctx, client.ObjectKeyFromObject(obj), current); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	if !r.sameDying(obj, current) {
		return nil, nil
	}
	if e := entryOf(current, r.host.Name()); e != nil && releasedBy(e, current, r.host.Incarnation()) {
		return current, nil
	}
	entry := r.releasedEntry(current, receipt)
	answer, err := r.applyOwnEntry(ctx, current, entry)
	if err != nil {
		return nil, fmt.Errorf("report that this host has let go: %w", err)
	}
	if answer.GetUID() != obj.GetUID() {
		// The patch came late and met a new object of the same name. Its entry names another UID and means nothing; take it back.
		_, err := r.applyOwnEntry(ctx, answer, nil)
		return nil, err
	}
	if ranSomething(receipt) {
		r.events.released(answer, r.host.Name(), receipt)
	}
	if !r.sameDying(obj, answer) {
		return nil, nil
	}
	return answer, nil
}

func (r *reconciler) sameDying(obj, current object) bool {
	return current.GetUID() == obj.GetUID() && !current.GetDeletionTimestamp().IsZero() &&
		controllerutil.ContainsFinalizer(current, proxyv1alpha1.Finalizer)
}

func (r *reconciler) releasedEntry(obj object, receipt registry.Receipt) *proxyv1alpha1.HostStatus {
	now := metav1.NewTime(r.now())
	entry := &proxyv1alpha1.HostStatus{
		Host: r.host.Name(), Incarnation: r.host.Incarnation(), UID: obj.GetUID(),
		State: proxyv1alpha1.HostReleased, Since: &now,
	}
	if ranSomething(receipt) {
		entry.Receipt = &proxyv1alpha1.Receipt{
			InFlight: int32(receipt.InFlight), Drained: int32(receipt.Drained), GivenBack: int32(receipt.GivenBack),
			LeftLeased: int32(receipt.LeftLeased), TookMilliseconds: receipt.Took.Milliseconds(),
			Forced: receipt.Forced, Error: tidy(receipt.Err),
		}
	}
	return entry
}

// ranSomething tells a real receipt from that of an object that this host never ran.
func ranSomething(r registry.Receipt) bool {
	return r.Took > 0 || r.InFlight > 0 || r.Forced || r.Err != ""
}

func entryOf(obj object, host string) *proxyv1alpha1.HostStatus {
	hosts := obj.Reported().Hosts
	for i := range hosts {
		if hosts[i].Host == host {
			return &hosts[i]
		}
	}
	return nil
}

// releasedBy reports whether an entry says that this process has let go of this very object. The UID matters: a late write by name can
// land on a recreated object. The incarnation matters: a restarted host may have started the client again.
func releasedBy(e *proxyv1alpha1.HostStatus, obj object, incarnation string) bool {
	return e.State == proxyv1alpha1.HostReleased && e.UID == obj.GetUID() && e.Incarnation == incarnation
}

// stillHolding lists the hosts that have not let go of the object.
func stillHolding(obj object, hosts []Peer) []Peer {
	var missing []Peer
	for _, h := range hosts {
		if e := entryOf(obj, h.Name); e == nil || !releasedBy(e, obj, h.Incarnation) {
			missing = append(missing, h)
		}
	}
	return missing
}

// removeFinalizer takes off only ours, and only if the object is still the version that the decision was made with.
func (r *reconciler) removeFinalizer(ctx context.Context, current object) error {
	base := current.DeepCopyObject().(object)
	controllerutil.RemoveFinalizer(current, proxyv1alpha1.Finalizer)
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := r.client.Patch(ctx, current, patch); err != nil {
		return client.IgnoreNotFound(err)
	}
	log.FromContext(ctx).Info("every host has let go, the finalizer is off", "uid", current.GetUID())
	return nil
}

// mayForce: the deadline is over and only hosts are missing that do not renew their Lease.
func (r *reconciler) mayForce(obj object, missing []Peer) bool {
	deadline := obj.GetDeletionTimestamp().Add(obj.Common().DrainTimeout() + forceGrace)
	if r.now().Before(deadline) {
		return false
	}
	for _, h := range missing {
		if !h.Stale {
			return false
		}
	}
	return true
}

// force gives up waiting for dead hosts. Where one was only cut off, its client may still run; it stops when the host is back.
func (r *reconciler) force(ctx context.Context, current object, missing []Peer) error {
	gone := current.DeepCopyObject().(object)
	if err := r.removeFinalizer(ctx, current); err != nil {
		return err
	}
	r.events.forced(gone, missing)
	r.observer.FinalizerForced(r.kind())
	log.FromContext(ctx).Info("the finalizer was forced off: hosts without a sign of life did not report", "hosts", names(missing))
	return nil
}

func names(peers []Peer) []string {
	list := make([]string, len(peers))
	for i, p := range peers {
		list[i] = p.Name
	}
	return list
}
