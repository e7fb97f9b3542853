// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"strings"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/flowcontrol"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// eventRecorder writes Kubernetes Events on transitions only, so that trouble that goes on does not flood anybody. What happens to very many objects
// at once is told for the first of them, as Events cost the API server as much as the objects' own status and client-go keeps each for minutes; the
// rest is logged, and in the objects' conditions in any case. It is shared by the kinds and safe for concurrent use.
type eventRecorder struct {
	recorder events.EventRecorder
	log      logr.Logger
	// budgets by the type of Event: a flood of good news must not hide a warning.
	budgets map[string]flowcontrol.PassiveRateLimiter
}

const (
	eventBurst     = 200
	eventPerSecond = 2
)

func newEventRecorder(recorder events.EventRecorder, log logr.Logger) *eventRecorder {
	return &eventRecorder{recorder: recorder, log: log, budgets: map[string]flowcontrol.PassiveRateLimiter{
		corev1.EventTypeNormal:  flowcontrol.NewTokenBucketPassiveRateLimiter(eventPerSecond, eventBurst),
		corev1.EventTypeWarning: flowcontrol.NewTokenBucketPassiveRateLimiter(eventPerSecond, eventBurst),
	}}
}

// tell writes one Event, or a log line when there are too many.
func (e *eventRecorder) tell(obj object, eventType, reason, action, note string) {
	note = tidy(note)
	if !e.budgets[eventType].TryAccept() {
		e.log.Info("too many Events at once, this one is only logged", "namespace", obj.GetNamespace(), "name", obj.GetName(), "uid", obj.GetUID(),
			"type", eventType, "reason", reason, "note", note)
		return
	}
	e.recorder.Eventf(obj, nil, eventType, reason, action, "%s", note)
}

// Actions of Events, next to the reasons of conditions.
const (
	actionStatus   = "UpdateStatus"
	actionShutdown = "Shutdown"
	actionCheck    = "CheckTransaction"
	// reasonReleased: this host has shut its client down; the note is the receipt.
	reasonReleased = "ClientReleased"
	// reasonUndecided: checks of a transaction are not answered, or not with a decision.
	reasonUndecided = "TransactionUndecided"
	// reasonForced: the finalizer was taken off although hosts without a sign of life had not reported.
	reasonForced = "ShutdownForced"
)

// transition tells when Ready has another status or reason than before.
func (e *eventRecorder) transition(obj object, before, after []metav1.Condition) {
	old, now := meta.FindStatusCondition(before, proxyv1alpha1.ConditionReady), meta.FindStatusCondition(after, proxyv1alpha1.ConditionReady)
	if now == nil || (old != nil && old.Status == now.Status && old.Reason == now.Reason) || now.Status == metav1.ConditionUnknown {
		return
	}
	kind := corev1.EventTypeWarning
	if now.Status == metav1.ConditionTrue || now.Reason == proxyv1alpha1.ReasonSuspended || now.Reason == proxyv1alpha1.ReasonTerminating {
		kind = corev1.EventTypeNormal
	}
	e.tell(obj, kind, now.Reason, actionStatus, now.Message)
}

// released is the receipt of a shutdown.
func (e *eventRecorder) released(obj object, host string, r registry.Receipt) {
	kind, note := corev1.EventTypeNormal, fmt.Sprintf("host %s shut its client down in %s (%s): %d in flight, %d finished, %d given back, %d left to their deadline",
		host, r.Took.Round(time.Millisecond), r.Reason, r.InFlight, r.Drained, r.GivenBack, r.LeftLeased)
	if r.Forced {
		kind, note = corev1.EventTypeWarning, note+"; the drain deadline ended the wait"
	}
	if r.Err != "" {
		kind, note = corev1.EventTypeWarning, note+"; "+r.Err
	}
	e.tell(obj, kind, reasonReleased, actionShutdown, note)
}

func (e *eventRecorder) forced(obj object, missing []Peer) {
	e.tell(obj, corev1.EventTypeWarning, reasonForced, actionShutdown, fmt.Sprintf(
		"the drain deadline is over and these hosts give no sign of life, so they are not waited for: %s; where one was only cut off, its client stops when it is back",
		strings.Join(names(missing), ", ")))
}

// UndecidedTransactions makes what tells of transactions that nobody decides, as an Event of the Producer. It is safe for concurrent use and does not block.
func UndecidedTransactions(recorder events.EventRecorder, log logr.Logger) func(spec registry.Spec, note string) {
	e := newEventRecorder(recorder, log)
	return func(spec registry.Spec, note string) {
		obj := &proxyv1alpha1.Producer{ObjectMeta: metav1.ObjectMeta{Namespace: spec.Namespace, Name: spec.Name, UID: types.UID(spec.UID)}}
		obj.SetGroupVersionKind(proxyv1alpha1.GroupVersion.WithKind(string(registry.Producer)))
		e.tell(obj, corev1.EventTypeWarning, reasonUndecided, actionCheck, note)
	}
}

// sought and seekFailed tell the end of a seek.
func (e *eventRecorder) sought(obj object, note string) {
	e.tell(obj, corev1.EventTypeNormal, reasonSought, actionSeek, note)
}

func (e *eventRecorder) seekFailed(obj object, note string) {
	e.tell(obj, corev1.EventTypeWarning, reasonSeekFailed, actionSeek, note)
}
