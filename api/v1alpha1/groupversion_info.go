// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds the resources Producer and Consumer: what a platform engineer asks for, and what the hosts report.
//
// Every field's comment begins with its JSON name and says what absence means; the comments become the CRD's documentation (kubectl explain).
// Rules that the API server can check are CEL rules and schema limits here, so that a wrong object is refused when it is applied; what
// only RocketMQ can answer becomes a condition (condition_consts.go).
//
// A rule may become stricter in a later release. An object that breaks it can still be deleted: the API server leaves fields alone that a
// write does not change, so no rule may sit at the root of an object, where taking off the finalizer would be a change.
//
// +kubebuilder:object:generate=true
// +groupName=proxy.rocketmq.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of all types of this package.
var GroupVersion = schema.GroupVersion{Group: "proxy.rocketmq.io", Version: "v1alpha1"}

var builder = runtime.NewSchemeBuilder(addKnownTypes)

// AddToScheme registers the types of this package.
var AddToScheme = builder.AddToScheme

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &Producer{}, &ProducerList{}, &Consumer{}, &ConsumerList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
