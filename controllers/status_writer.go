// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
)

// Status is written by server-side apply only: lists in a merge patch or an update are replaced whole, and with them what other hosts wrote.
// Everything but status.hosts has one field manager, which all hosts share and which therefore needs the resourceVersion. Each entry of
// status.hosts has the manager of its host, so that a host can take back its own by applying without it. The incarnation is not in the
// manager's name: an entry that two managers own cannot be taken back by one of them.
const (
	statusManager     = "rocketmq-proxy-operator"
	hostManagerPrefix = "rocketmq-proxy-host/"
	// maxManagerBytes is the API server's limit.
	maxManagerBytes = 128
	// statusTries bounds how often one pass computes the status again after a conflict.
	statusTries = 4
)

// hostManager is the field manager of a host's entry; others compute it too when they collect the entry of a dead host.
func hostManager(host string) string {
	name := hostManagerPrefix + host
	if len(name) <= maxManagerBytes {
		return name
	}
	sum := sha256.Sum256([]byte(host))
	suffix := "-" + hex.EncodeToString(sum[:8])
	return name[:maxManagerBytes-len(suffix)] + suffix
}

// report writes what this pass found out: first the own entry, then the conditions, which are computed from the entries as well. A host that
// stops writes nothing about live objects: others serve them or the next start does, and its Lease tells that it has gone.
func (r *reconciler) report(ctx context.Context, obj object, f *facts) error {
	if f.leaving() {
		return nil
	}
	obj, err := r.reportOwnEntry(ctx, obj, f)
	if err != nil || obj == nil {
		return err
	}
	if obj, err = r.collectDead(ctx, obj); err != nil {
		return err
	}
	return r.reportStatus(ctx, obj, f)
}

func (r *reconciler) reportOwnEntry(ctx context.Context, obj object, f *facts) (object, error) {
	want, have := ownEntry(obj, f), entryOf(obj, f.host)
	if sameEntry(want, have) {
		return obj, nil
	}
	answer, err := r.applyOwnEntry(ctx, obj, want)
	if err != nil {
		return nil, fmt.Errorf("write this host's entry in status.hosts: %w", err)
	}
	if answer.GetUID() == obj.GetUID() {
		return answer, nil
	}
	// The patch came late and met a new object of the same name; take the entry back, the new object gets its own pass.
	_, err = r.applyOwnEntry(ctx, answer, nil)
	return nil, err
}

func sameEntry(a, b *proxyv1alpha1.HostStatus) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.Since, y.Since = nil, nil
	return equality.Semantic.DeepEqual(x, y)
}

// reportTerminating tells that the object is being deleted, once.
func (r *reconciler) reportTerminating(ctx context.Context, obj object) error {
	f := r.newFacts(obj)
	f.terminating = true
	return r.reportStatus(ctx, obj, f)
}

// reportStatus writes conditions, observedGeneration and the effective values, when they differ. After a conflict it reads uncached and
// computes again, because another host may have written facts that count.
func (r *reconciler) reportStatus(ctx context.Context, obj object, f *facts) error {
	var err error
	for range statusTries {
		want := newStatus(obj, f)
		if want == nil || sameStatus(want, obj.Reported()) {
			return nil
		}
		if err = r.applyStatus(ctx, obj, want); err == nil {
			r.events.transition(obj, obj.Reported().Conditions, want.Conditions)
			return nil
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("write the status: %w", err)
		}
		current := r.newObject()
		if err := r.reader.Get(ctx, client.ObjectKeyFromObject(obj), current); err != nil {
			return client.IgnoreNotFound(err)
		}
		if current.GetUID() != obj.GetUID() || current.GetGeneration() != obj.GetGeneration() ||
			current.GetDeletionTimestamp().IsZero() != obj.GetDeletionTimestamp().IsZero() {
			return nil // the facts are of an older wish; a pass over the new one follows
		}
		obj = current
	}
	return err
}

func sameStatus(want, have *proxyv1alpha1.ClientStatus) bool {
	if want.ObservedGeneration != have.ObservedGeneration || want.Endpoint != have.Endpoint || want.Group != have.Group ||
		want.Driver != have.Driver || len(want.Conditions) != len(have.Conditions) {
		return false
	}
	return !slices.ContainsFunc(want.Conditions, func(c metav1.Condition) bool {
		old := meta.FindStatusCondition(have.Conditions, c.Type)
		return old == nil || old.Status != c.Status || old.Reason != c.Reason || old.Message != c.Message ||
			old.ObservedGeneration != c.ObservedGeneration
	})
}

func (r *reconciler) applyStatus(ctx context.Context, obj object, want *proxyv1alpha1.ClientStatus) error {
	status, err := runtime.DefaultUnstructuredConverter.ToUnstructured(want)
	if err != nil {
		return fmt.Errorf("convert the status: %w", err)
	}
	u := r.applied(obj)
	u.SetResourceVersion(obj.GetResourceVersion())
	u.Object["status"] = status
	err = r.client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(statusManager), client.ForceOwnership)
	r.noteWrite(obj, u, err)
	return err
}

// noteWrite remembers that the cache may be behind. After an error nobody knows what was stored.
func (r *reconciler) noteWrite(obj object, answer *unstructured.Unstructured, err error) {
	version := answer.GetResourceVersion()
	if err != nil {
		version = "unknown"
	}
	r.names.setWrote(r.key(obj), version)
}

// applyOwnEntry writes this host's entry, or takes it back when entry is nil, and answers the object as it is now. It has no
// resourceVersion, so it may land on a recreated object: compare the answer's UID.
func (r *reconciler) applyOwnEntry(ctx context.Context, obj object, entry *proxyv1alpha1.HostStatus) (object, error) {
	u := r.applied(obj)
	if entry != nil {
		item, err := runtime.DefaultUnstructuredConverter.ToUnstructured(entry)
		if err != nil {
			return nil, fmt.Errorf("convert the host's entry: %w", err)
		}
		u.Object["status"] = map[string]any{"hosts": []any{item}}
	}
	return r.applyHosts(ctx, obj, u, r.host.Name())
}

func (r *reconciler) applyHosts(ctx context.Context, obj object, u *unstructured.Unstructured, host string) (object, error) {
	err := r.client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(hostManager(host)), client.ForceOwnership)
	r.noteWrite(obj, u, err)
	if err != nil {
		return nil, err
	}
	answer := r.newObject()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, answer); err != nil {
		return nil, fmt.Errorf("read the API server's answer: %w", err)
	}
	return answer, nil
}

// applied is the frame of an apply configuration for obj.
func (r *reconciler) applied(obj object) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(proxyv1alpha1.GroupVersion.WithKind(string(r.kind())))
	u.SetNamespace(obj.GetNamespace())
	u.SetName(obj.GetName())
	return u
}

// collectDead takes away the entries of hosts that have no Lease any more, in their manager's name: nobody else ever would. A fresh list of
// Leases decides, and the resourceVersion makes sure that the entry is still the one that was looked at. It answers the object as it is then.
func (r *reconciler) collectDead(ctx context.Context, obj object) (object, error) {
	if len(r.hostsWithoutLease(obj, r.host.Peers())) == 0 {
		return obj, nil
	}
	peers, err := r.host.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, host := range r.hostsWithoutLease(obj, peers) {
		u := r.applied(obj)
		u.SetResourceVersion(obj.GetResourceVersion())
		if obj, err = r.applyHosts(ctx, obj, u, host); err != nil {
			return nil, fmt.Errorf("collect the entry of host %s, which is gone: %w", host, err)
		}
	}
	return obj, nil
}

func (r *reconciler) hostsWithoutLease(obj object, peers []Peer) []string {
	var dead []string
	for _, e := range obj.Reported().Hosts {
		if e.Host != r.host.Name() && !slices.ContainsFunc(peers, func(p Peer) bool { return p.Name == e.Host }) {
			dead = append(dead, e.Host)
		}
	}
	return dead
}
