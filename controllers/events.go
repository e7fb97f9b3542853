// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// eventRecorder writes Kubernetes Events on transitions only, so that trouble that goes on does not flood anybody.
type eventRecorder struct{ events.EventRecorder }

// Actions of Events, next to the reasons of conditions.
const (
	actionStatus   = "UpdateStatus"
	actionShutdown = "Shutdown"
	// reasonReleased: this host has shut its client down; the note is the receipt.
	reasonReleased = "ClientReleased"
	// reasonForced: the finalizer was taken off although hosts without a sign of life had not reported.
	reasonForced = "ShutdownForced"
)

// transition tells when Ready has another status or reason than before.
func (e eventRecorder) transition(obj object, before, after []metav1.Condition) {
	old, now := meta.FindStatusCondition(before, proxyv1alpha1.ConditionReady), meta.FindStatusCondition(after, proxyv1alpha1.ConditionReady)
	if now == nil || (old != nil && old.Status == now.Status && old.Reason == now.Reason) || now.Status == metav1.ConditionUnknown {
		return
	}
	kind := corev1.EventTypeWarning
	if now.Status == metav1.ConditionTrue || now.Reason == proxyv1alpha1.ReasonSuspended || now.Reason == proxyv1alpha1.ReasonTerminating {
		kind = corev1.EventTypeNormal
	}
	e.Eventf(obj, nil, kind, now.Reason, actionStatus, "%s", tidy(now.Message))
}

// released is the receipt of a shutdown.
func (e eventRecorder) released(obj object, host string, r registry.Receipt) {
	kind, note := corev1.EventTypeNormal, fmt.Sprintf("host %s shut its client down in %s (%s): %d in flight, %d finished, %d given back, %d left to their deadline",
		host, r.Took.Round(time.Millisecond), r.Reason, r.InFlight, r.Drained, r.GivenBack, r.LeftLeased)
	if r.Forced {
		kind, note = corev1.EventTypeWarning, note+"; the drain deadline ended the wait"
	}
	if r.Err != "" {
		kind, note = corev1.EventTypeWarning, note+"; "+r.Err
	}
	e.Eventf(obj, nil, kind, reasonReleased, actionShutdown, "%s", tidy(note))
}

func (e eventRecorder) forced(obj object, missing []Peer) {
	e.Eventf(obj, nil, corev1.EventTypeWarning, reasonForced, actionShutdown, "%s", tidy(fmt.Sprintf(
		"the drain deadline is over and these hosts give no sign of life, so they are not waited for: %s; where one was only cut off, its client stops when it is back",
		strings.Join(names(missing), ", "))))
}
