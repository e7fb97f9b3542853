// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
)

// TestCleanupTakesOffOurFinalizerOnly: the operator is being removed; what is left must be deletable, and others' finalizers are none of our business.
func TestCleanupTakesOffOurFinalizerOnly(t *testing.T) {
	namespace := newNamespace(t)
	theirs := "others.example/keep"
	for kind, spec := range map[string]string{"Producer": goodProducer, "Consumer": goodConsumer} {
		for name, finalizers := range map[string][]string{
			"both": {theirs, proxyv1alpha1.Finalizer}, "ours": {proxyv1alpha1.Finalizer}, "theirs": {theirs}, "dying": {proxyv1alpha1.Finalizer},
		} {
			o := raw(t, kind, namespace, name, spec)
			o.SetFinalizers(finalizers)
			must(t, direct.Create(t.Context(), o))
			if name == "dying" {
				must(t, direct.Delete(t.Context(), o))
			}
		}
	}
	var out bytes.Buffer
	must(t, Cleanup(t.Context(), direct, &out))
	for _, o := range []object{&proxyv1alpha1.Producer{}, &proxyv1alpha1.Consumer{}} {
		for name, want := range map[string][]string{"both": {theirs}, "ours": nil, "theirs": {theirs}} {
			current := o.DeepCopyObject().(object)
			must(t, direct.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, current))
			if got := current.GetFinalizers(); !slices.Equal(got, want) {
				t.Errorf("%s %s has finalizers %q, want %q", kindOf(o), name, got, want)
			}
		}
		if err := direct.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "dying"}, o); client.IgnoreNotFound(err) != nil || err == nil {
			t.Errorf("%s dying is still there: %v", kindOf(o), err)
		}
		if line := kindOf(o) + " " + namespace + "/both: finalizer taken off"; !strings.Contains(out.String(), line) {
			t.Errorf("the output has no line %q:\n%s", line, out.String())
		}
	}
	must(t, Cleanup(t.Context(), direct, &out)) // a second time there is nothing to do
}
