// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
)

// TestTheFakeAPIBehavesLikeTheRealOne plays one story of everything that the protocol rests on against both, and compares what each step answered.
func TestTheFakeAPIBehavesLikeTheRealOne(t *testing.T) {
	namespace := newNamespace(t)
	fake := &fakeClient{api: newFakeAPI(), call: func(_ context.Context, _ string, _ bool, do func() error) error { return do() }}
	onReal, onFake := apiStory(t, direct, namespace), apiStory(t, fake, namespace)
	for i := range onReal {
		if onReal[i] != onFake[i] {
			t.Errorf("step %d: the real API server: %s; the fake: %s", i, onReal[i], onFake[i])
		}
	}
}

// apiStory answers, step by step, what the API did.
func apiStory(t *testing.T, c client.Client, namespace string) (answers []string) {
	ctx := t.Context()
	say := func(what string, err error, facts ...any) {
		reason := apierrors.ReasonForError(err)
		if err == nil {
			reason = "OK"
		}
		answers = append(answers, fmt.Sprintf("%s: %s %v", what, reason, facts))
	}
	p := &proxyv1alpha1.Producer{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "story"}}
	p.Spec.Topics = []string{"a"}
	say("create", c.Create(ctx, p))
	created := p.DeepCopy()
	say("create again", c.Create(ctx, &proxyv1alpha1.Producer{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "story"}, Spec: p.Spec}))

	finalizer := func(on *proxyv1alpha1.Producer, f string, add bool) error {
		base := on.DeepCopy()
		if add {
			controllerutil.AddFinalizer(on, f)
		} else {
			controllerutil.RemoveFinalizer(on, f)
		}
		return c.Patch(ctx, on, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
	}
	err := finalizer(p, proxyv1alpha1.Finalizer, true)
	say("add the finalizer", err, p.Finalizers, p.Generation)
	say("add one to an old version", finalizer(created.DeepCopy(), "x.example/y", true))

	apply := func(manager, version string, status map[string]any) (*proxyv1alpha1.Producer, error) {
		u := &unstructured.Unstructured{Object: map[string]any{}}
		u.SetAPIVersion(proxyv1alpha1.GroupVersion.String())
		u.SetKind("Producer")
		u.SetNamespace(namespace)
		u.SetName("story")
		u.SetResourceVersion(version)
		if status != nil {
			u.Object["status"] = status
		}
		err := c.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(manager), client.ForceOwnership)
		var now proxyv1alpha1.Producer
		if getErr := c.Get(ctx, client.ObjectKeyFromObject(p), &now); err == nil && getErr == nil && u.GetUID() != now.UID {
			t.Errorf("the answer's UID is %q, the object's %q", u.GetUID(), now.UID)
		}
		return &now, err
	}
	entry := func(host, incarnation string) map[string]any {
		return map[string]any{"hosts": []any{map[string]any{"host": host, "incarnation": incarnation, "uid": "u", "state": "Released"}}}
	}
	hosts := func(p *proxyv1alpha1.Producer) string {
		var list []string
		for _, h := range p.Status.Hosts {
			list = append(list, h.Host+"="+h.Incarnation)
		}
		slices.Sort(list)
		return strings.Join(list, ",")
	}
	now, err := apply("m-a", "", entry("a", "1"))
	say("a reports", err, hosts(now))
	now, err = apply("m-b", "", entry("b", "1"))
	say("b reports", err, hosts(now))
	now, err = apply("m-a", "", entry("a", "2"))
	say("a reports another value", err, hosts(now))
	now, err = apply("m-b", created.ResourceVersion, nil)
	say("b takes back with an old version", err, hosts(now))
	now, err = apply("m-b", now.ResourceVersion, nil)
	say("b takes back", err, hosts(now))
	now, err = apply(statusManager, now.ResourceVersion, map[string]any{"observedGeneration": int64(1), "group": "g"})
	say("the status is written", err, hosts(now), now.Status.Group, now.Status.ObservedGeneration)

	old := now.DeepCopy()
	say("delete", c.Delete(ctx, now))
	must(t, c.Get(ctx, client.ObjectKeyFromObject(p), now))
	say("it is dying", nil, now.DeletionTimestamp != nil, now.UID == created.UID)
	say("a new finalizer on a dying object", finalizer(now.DeepCopy(), "x.example/y", true))
	say("the finalizer goes with an old version", finalizer(old, proxyv1alpha1.Finalizer, false))
	say("the finalizer goes", finalizer(now, proxyv1alpha1.Finalizer, false))
	say("it is gone", c.Get(ctx, client.ObjectKeyFromObject(p), now))
	_, err = apply("m-a", "", entry("a", "3"))
	say("a report on what is gone", err)
	again := &proxyv1alpha1.Producer{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "story"}, Spec: created.Spec}
	say("create it anew", c.Create(ctx, again), again.UID != created.UID)
	now, err = apply("m-a", "", entry("a", "late"))
	say("a late report lands on the new object", err, hosts(now))

	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "story"}}
	say("create a Lease", c.Create(ctx, lease))
	stale := lease.DeepCopy()
	incarnation := "i"
	lease.Spec.HolderIdentity = &incarnation
	say("update the Lease", c.Update(ctx, lease))
	say("update an old version", c.Update(ctx, stale.DeepCopy()))
	say("delete an old version", c.Delete(ctx, stale, client.Preconditions{UID: &stale.UID, ResourceVersion: &stale.ResourceVersion}))
	say("delete the Lease", c.Delete(ctx, lease, client.Preconditions{UID: &lease.UID, ResourceVersion: &lease.ResourceVersion}))
	say("delete it again", c.Delete(ctx, lease))
	return answers
}
