// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
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
	return o, nil
}
