// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"time"

	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/ratelimit"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// +kubebuilder:rbac:groups=proxy.rocketmq.io,resources=producers,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=proxy.rocketmq.io,resources=producers/status,verbs=get;patch
// +kubebuilder:rbac:groups=proxy.rocketmq.io,resources=producers/finalizers,verbs=update

// producerKind is what reconciling a Producer needs beyond what reconciler does for both kinds.
type producerKind struct{}

func (producerKind) kind() registry.Kind { return registry.Producer }
func (producerKind) newObject() object   { return &proxyv1alpha1.Producer{} }

func (producerKind) group(o object) string {
	producer := o.(*proxyv1alpha1.Producer)
	if producer.Spec.Group != "" {
		return producer.Spec.Group
	}
	return defaultProducerGroup(producer.Namespace, producer.Name)
}

// maxGroupBytes is RocketMQ's limit for the name of a group.
const maxGroupBytes = 120

// defaultProducerGroup joins namespace and name by "_", which is not legal in either, so that no two objects get the same. "." is legal in
// names only and becomes "_" for the same reason. What is too long is cut and gets a hash of the whole.
func defaultProducerGroup(namespace, name string) string {
	group := namespace + "_" + strings.ReplaceAll(name, ".", "_")
	if len(group) <= maxGroupBytes {
		return group
	}
	sum := sha256.Sum256([]byte(namespace + "/" + name))
	suffix := "_" + hex.EncodeToString(sum[:4])
	return group[:maxGroupBytes-len(suffix)] + suffix
}

// singleHost is false: every host has its own client of a Producer.
func (producerKind) singleHost(driver.Capabilities) bool { return false }

// refuse is about transactions, which not every driver has.
func (producerKind) refuse(o object, driverName string, capabilities driver.Capabilities) error {
	if o.(*proxyv1alpha1.Producer).Spec.Transactions == nil || capabilities.Transactions {
		return nil
	}
	return fmt.Errorf("spec.transactions: the driver %s cannot tell whether a commit was done: remove transactions, or use the driver Remoting, which needs RocketMQ 5.x",
		driverName)
}

// notBefore is never: Producers have no start time.
func (producerKind) notBefore(object) time.Time { return time.Time{} }

// fill completes the registry's spec with what the Producer asks for.
func (producerKind) fill(o object, connection driver.Connection, spec *registry.Spec) {
	p := &o.(*proxyv1alpha1.Producer).Spec
	spec.IdleTimeout = p.IdleTimeout()
	spec.Producer = &registry.ProducerSpec{
		Config: driver.ProducerConfig{
			Connection: connection, Group: spec.Group, Topics: slices.Sorted(slices.Values(p.Topics)),
			SendTimeout: p.SendTimeout(), Retries: p.RetriesOrDefault(),
			CompressAbove: p.CompressAbove(), MaxMessageBytes: p.MaxMessageBytesOrDefault(),
			Transactions: p.Transactions != nil,
		},
		Batching:        p.Batching != proxyv1alpha1.BatchingDisabled,
		MaxMessageBytes: p.MaxMessageBytesOrDefault(),
		RateLimit:       rateOf(p.RateLimit), DeduplicationWindow: p.DeduplicationWindow(),
	}
	if p.Transactions != nil {
		spec.Producer.CheckURL = p.Transactions.CheckURL
	}
}

// rateOf is the limit that an object asks for; nil = none.
func rateOf(r *proxyv1alpha1.RateLimit) ratelimit.Rate {
	if r == nil {
		return ratelimit.Rate{}
	}
	return ratelimit.Rate{Messages: int(r.MessagesPerSecond), Bytes: r.BytesPerSecond}
}
