// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"time"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/retry"
)

// +kubebuilder:rbac:groups=proxy.rocketmq.io,resources=consumers,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=proxy.rocketmq.io,resources=consumers/status,verbs=get;patch
// +kubebuilder:rbac:groups=proxy.rocketmq.io,resources=consumers/finalizers,verbs=update

// consumerKind is what reconciling a Consumer needs beyond what reconciler does for both kinds.
type consumerKind struct{}

func (consumerKind) kind() registry.Kind { return registry.Consumer }
func (consumerKind) newObject() object   { return &proxyv1alpha1.Consumer{} }

func (consumerKind) group(o object) string { return o.(*proxyv1alpha1.Consumer).Spec.Group }

// singleHost: with such a driver only one host may have the Consumer's client, because a delivery can be acknowledged only where it was
// fetched and its receivers cannot know where that is.
func (consumerKind) singleHost(caps driver.Capabilities) bool { return caps.SingleHost }

// refuse: a client that leaves something behind each time it stops must not be stopped for a pause, only some drivers broadcast, and order is not given up in
// silence.
func (consumerKind) refuse(o object, driverName string, caps driver.Capabilities) error {
	if o.(*proxyv1alpha1.Consumer).Spec.Broadcasting() && !caps.Broadcast {
		return fmt.Errorf("spec.model: the driver %s cannot broadcast: use the driver Remoting, which needs brokers of 5.0 or newer, or the model Clustering with a "+
			"Consumer for each receiver", driverName)
	}
	if o.(*proxyv1alpha1.Consumer).Spec.Order == proxyv1alpha1.OrderOrdered && !caps.Ordered {
		return fmt.Errorf("spec.order: the driver %s cannot deliver in order: remove order, or use the driver Remoting, which needs RocketMQ 5.x", driverName)
	}
	if o.(*proxyv1alpha1.Consumer).Spec.IdleTimeout() == 0 || caps.IdleConsumers {
		return nil
	}
	return fmt.Errorf("spec.idleTimeoutSeconds: the driver %s cannot stop an idle Consumer without leaving goroutines behind: remove it, or use the driver Remoting",
		driverName)
}

// retryBackoff is the spec's as the window takes it; absent = at once.
func retryBackoff(b *proxyv1alpha1.RetryBackoff) retry.Backoff {
	switch {
	case b == nil:
		return retry.Backoff{}
	case b.Exponential != nil:
		e := b.Exponential
		return retry.Backoff{
			Initial: time.Duration(e.InitialSeconds) * time.Second, Max: time.Duration(e.MaxSeconds) * time.Second, Multiplier: e.MultiplierOrDefault(),
		}
	default:
		steps := make([]time.Duration, len(b.StepsSeconds))
		for i, s := range b.StepsSeconds {
			steps[i] = time.Duration(s) * time.Second
		}
		return retry.Backoff{Steps: steps}
	}
}

// notBefore: what is stored before the start time must not come, so the positions are written when it has come.
func (consumerKind) notBefore(o object) time.Time {
	if at := o.(*proxyv1alpha1.Consumer).Spec.StartTime; at != nil {
		return at.Time
	}
	return time.Time{}
}

// fill completes the registry's spec with what the Consumer asks for.
func (consumerKind) fill(o object, connection driver.Connection, spec *registry.Spec) {
	c := &o.(*proxyv1alpha1.Consumer).Spec
	subscriptions := make([]driver.Subscription, len(c.Subscriptions))
	for i, s := range c.Subscriptions {
		subscriptions[i].Topic = s.Topic
		if s.Filter != nil {
			subscriptions[i].Tag, subscriptions[i].SQL = s.Filter.Tag, s.Filter.SQL
		}
	}
	config := driver.ConsumerConfig{Connection: connection, Group: spec.Group, Subscriptions: subscriptions, StartFrom: driver.Latest,
		Ordered: c.Order == proxyv1alpha1.OrderOrdered,
	}
	switch c.StartFrom {
	case proxyv1alpha1.StartFromLatest:
	case proxyv1alpha1.StartFromEarliest:
		config.StartFrom = driver.Earliest
	case proxyv1alpha1.StartFromTimestamp:
		config.StartFrom, config.StartTime = driver.Timestamp, c.StartTime.Time
	}
	spec.IdleTimeout = c.IdleTimeout()
	spec.Consumer = &registry.ConsumerSpec{
		Config: config, AckDeadline: c.AckDeadline(), MaxInFlight: c.MaxInFlightOrDefault(), MaxInFlightBytes: c.MaxInFlightBytesOrDefault(),
		MaxDeliveryAttempts: c.MaxDeliveryAttemptsOrDefault(), SeekMark: seekMark(o.(*proxyv1alpha1.Consumer)), RetryBackoff: retryBackoff(c.RetryBackoff),
		RateLimit: rateOf(c.RateLimit), Broadcast: c.Broadcasting(), MaxReceivers: c.MaxReceivers(), ReceiverExpiry: c.ReceiverExpiry(),
	}
}
