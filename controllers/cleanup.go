// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"io"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// Cleanup takes our finalizer, and only ours, off every Producer and Consumer. It is for the removal of the operator: without it objects that
// are left could never be deleted again. The operator must not be running; one that runs would put the finalizers back. c must not cache. Every
// object is tried; what failed is in the error. A line per object goes to out.
func Cleanup(ctx context.Context, c client.Client, out io.Writer) error {
	var failed []error
	for _, kind := range []registry.Kind{registry.Producer, registry.Consumer} {
		n := 0
		err := eachObject(ctx, c, kind, metav1.NamespaceAll, auditPage, func(o *metav1.PartialObjectMetadata) error {
			took, err := takeOffFinalizer(ctx, c, kind, o)
			if err != nil {
				failed = append(failed, fmt.Errorf("%s %s/%s: %w", kind, o.Namespace, o.Name, err))
			}
			if took {
				n++
				_, err = fmt.Fprintf(out, "%s %s/%s: finalizer taken off\n", kind, o.Namespace, o.Name)
				return err
			}
			return nil
		})
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			err = nil // the CRD is gone already, and its objects with it
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("list %ss: %w", kind, err))
		}
		if _, err := fmt.Fprintf(out, "%ss: %d finalizers taken off\n", kind, n); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// takeOffFinalizer patches with the resourceVersion, so that finalizers of others which appear meanwhile are not lost.
func takeOffFinalizer(ctx context.Context, c client.Client, kind registry.Kind, o *metav1.PartialObjectMetadata) (took bool, err error) {
	o.SetGroupVersionKind(proxyv1alpha1.GroupVersion.WithKind(string(kind)))
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if !controllerutil.ContainsFinalizer(o, proxyv1alpha1.Finalizer) {
			return nil
		}
		base := o.DeepCopy()
		controllerutil.RemoveFinalizer(o, proxyv1alpha1.Finalizer)
		err := c.Patch(ctx, o, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
		took = err == nil
		if !apierrors.IsConflict(err) {
			return err
		}
		if readErr := c.Get(ctx, client.ObjectKeyFromObject(base), o); readErr != nil {
			return readErr
		}
		return err
	})
	return took, client.IgnoreNotFound(err)
}
