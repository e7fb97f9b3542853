// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
)

// TestAnObjectThatGoesDuringItsPassIsNoError: the cache shows an object that the API server does not have any more when the pass writes, as when it is
// deleted right after it was created. It was an error once ("add the finalizer: %!w(<nil>)"), and an ERROR line in the log of the one on call.
func TestAnObjectThatGoesDuringItsPassIsNoError(t *testing.T) {
	now := metav1.Now()
	for _, c := range []struct {
		name string
		seen func(p *proxyv1alpha1.Producer)
	}{
		{"it has no finalizer yet", func(*proxyv1alpha1.Producer) {}},
		{"it is live", func(p *proxyv1alpha1.Producer) { p.Finalizers = []string{proxyv1alpha1.Finalizer} }},
		{"it is suspended", func(p *proxyv1alpha1.Producer) {
			p.Finalizers, p.Spec.Suspend = []string{proxyv1alpha1.Finalizer}, true
		}},
		{"it is dying", func(p *proxyv1alpha1.Producer) {
			p.Finalizers, p.DeletionTimestamp = []string{proxyv1alpha1.Finalizer}, &now
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				a := w.boot("a", map[string]int{})
				w.settle()
				stale := &proxyv1alpha1.Producer{ObjectMeta: metav1.ObjectMeta{
					Name: "orders", Namespace: "shop", UID: "uid-gone", ResourceVersion: "1", Generation: 1, CreationTimestamp: now,
				}}
				c.seen(stale)
				direct := func(_ context.Context, _ string, _ bool, do func() error) error { return do() }
				a.r.client = &fakeClient{api: w.api, call: direct, view: func(string) *proxyv1alpha1.Producer { return stale }}
				a.r.reader = &fakeClient{api: w.api, call: direct}
				request := ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "orders"}}
				for range 3 {
					if _, err := a.r.Reconcile(t.Context(), request); err != nil {
						t.Fatalf("the pass ended with %v", err)
					}
					w.elapse(time.Second)
				}
				if n := a.runs("uid-gone"); n != 0 {
					t.Errorf("%d clients run for an object that has gone", n)
				}
			})
		})
	}
}
