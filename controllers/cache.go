// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"unique"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
)

// Slim takes out of an object what no pass reads, before the manager's cache keeps it for as long as it exists: managedFields and kubectl's copy of
// what was last applied are most of a small object. It is a cache.TransformFunc for cache.Options.DefaultTransform. What is written later is not
// harmed: applies name what they own, and the finalizer's patch is the difference of two copies that both lack the same.
func Slim(o any) (any, error) {
	metadata, err := meta.Accessor(o)
	if err != nil {
		return nil, fmt.Errorf("slim an object of the cache: %w", err)
	}
	metadata.SetManagedFields(nil)
	delete(metadata.GetAnnotations(), corev1.LastAppliedConfigAnnotation)
	if ours, ok := o.(object); ok {
		shareConditions(ours.Reported())
	}
	return o, nil
}

// shareConditions gives the texts of conditions one place for all objects: most objects say the same, six times each.
func shareConditions(s *proxyv1alpha1.ClientStatus) {
	exact := make([]metav1.Condition, len(s.Conditions))
	copy(exact, s.Conditions) // the decoder has left room for more
	s.Conditions = exact
	for i := range s.Conditions {
		c := &s.Conditions[i]
		for _, text := range []*string{&c.Type, (*string)(&c.Status), &c.Reason, &c.Message} {
			*text = unique.Make(*text).Value()
		}
	}
}
