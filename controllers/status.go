// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// newStatus computes everything of the status but the hosts. It is a pure function of the object (spec, status.hosts, and the previous
// conditions for their times) and the facts; nil means that this host has nothing to say and that what another one has written stays.
func newStatus(obj object, f *facts) *proxyv1alpha1.ClientStatus {
	if f.leavesItToOthers(obj) || f.patience(obj) > 0 {
		return nil
	}
	status := &proxyv1alpha1.ClientStatus{
		ObservedGeneration: obj.GetGeneration(), Endpoint: f.endpoint, Group: f.group, Driver: f.effectiveDriver(),
	}
	list := conditions(obj, f)
	for _, c := range obj.Reported().Conditions {
		if meta.FindStatusCondition(list, c.Type) != nil {
			status.Conditions = append(status.Conditions, c)
		}
	}
	for _, c := range list {
		c.ObservedGeneration = obj.GetGeneration()
		old := meta.FindStatusCondition(status.Conditions, c.Type)
		if old == nil || old.Status != c.Status {
			c.LastTransitionTime = metav1.NewTime(f.now)
		}
		meta.SetStatusCondition(&status.Conditions, c)
	}
	return status
}

// leavesItToOthers: another live host has said that this generation is ready and this one has nothing better to say (it is starting, or its own
// client is idle while the other's works: both are ready, and each would overwrite the other with every pass); or another host serves the
// object alone.
func (f *facts) leavesItToOthers(obj object) bool {
	switch {
	case f.terminating || f.suspended:
		return false
	case f.severalHosts && f.serving != f.host:
		return true
	case !f.undecided() && !f.idle() || ownEntry(obj, f) != nil || !f.othersLive():
		return false
	}
	old := meta.FindStatusCondition(obj.Reported().Conditions, proxyv1alpha1.ConditionReady)
	return old != nil && old.Status == metav1.ConditionTrue && old.ObservedGeneration == obj.GetGeneration()
}

// A start that is over soon is not told, or every start of an operator would write each object's status twice for nothing.
const (
	// believedFor is how long an object that was Ready before this process came is still called so while its client starts. The truth is written
	// at once when the start fails.
	believedFor = 30 * time.Second
	// silentFor is how long an object that no host has looked at yet stays without a status while its client starts.
	silentFor = 5 * time.Second
	// queuedFor replaces both while the client waits for its turn: there is nothing to tell of it, and of ten thousand objects that start together nearly
	// half would be told of.
	queuedFor = time.Minute
)

// patience is how much longer the status stays as it is while the client starts; 0 = tell what is. While the brokers are asked which driver they
// need it has no end of its own: that question has one, and a pass follows it. Nobody tells when a client's turn has come, so one that waited for it is
// looked at again after queuedFor in all.
func (f *facts) patience(obj object) time.Duration {
	starts := f.client == nil && f.choosing || f.client != nil && f.client.State == registry.Starting
	if f.terminating || !starts || !f.undecided() || ownEntry(obj, f) != nil {
		return 0
	}
	var limit time.Duration
	old := meta.FindStatusCondition(obj.Reported().Conditions, proxyv1alpha1.ConditionReady)
	switch {
	case old == nil:
		limit = silentFor
	case old.Status == metav1.ConditionTrue && old.ObservedGeneration == obj.GetGeneration():
		limit = believedFor
	}
	if limit > 0 && f.client != nil && f.client.Queued {
		limit = queuedFor
	}
	if f.client != nil {
		limit -= f.now.Sub(f.client.Since)
	}
	return max(0, limit)
}

// conditions is the one place where facts become conditions. All types are always present.
func conditions(obj object, f *facts) []metav1.Condition {
	switch {
	case f.terminating:
		return notRunning(f, proxyv1alpha1.ReasonTerminating, "being deleted: the hosts drain and shut down their clients")
	case f.suspended:
		return notRunning(f, proxyv1alpha1.ReasonSuspended, "spec.suspend is true: no client runs")
	}
	v := f.trouble()
	if own := ownEntry(obj, f); v == nil && own != nil {
		// Another try is under way. Until it has ended the last failure stands, or the status would flap with each try.
		last := verdictOf(own.Reason)
		last.message = own.Message
		v = &last
	}
	list := []metav1.Condition{
		ready(obj, f), accepted(f, v), credentialsReady(obj, f, v), connected(f, v), reconciling(f, v), stalled(v),
	}
	if f.severalHosts {
		list = append(list, condition(proxyv1alpha1.ConditionSingleHostDriver, metav1.ConditionTrue, proxyv1alpha1.ReasonSeveralHosts,
			fmt.Sprintf("driver %s serves a Consumer on one host only: of %d hosts, %s serves it", f.driver, len(f.live()), f.serving)))
	}
	return list
}

func condition(conditionType string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: conditionType, Status: status, Reason: reason, Message: message}
}

// notRunning is for objects that are meant to have no client.
func notRunning(f *facts, reason, message string) []metav1.Condition {
	busy := metav1.ConditionFalse
	if f.terminating || f.client != nil {
		busy = metav1.ConditionTrue
	}
	return []metav1.Condition{
		condition(proxyv1alpha1.ConditionReady, metav1.ConditionFalse, reason, message),
		condition(proxyv1alpha1.ConditionAccepted, metav1.ConditionUnknown, reason, message),
		condition(proxyv1alpha1.ConditionCredentialsReady, metav1.ConditionUnknown, reason, message),
		condition(proxyv1alpha1.ConditionConnected, metav1.ConditionFalse, reason, message),
		condition(proxyv1alpha1.ConditionReconciling, busy, reason, message),
		stalled(nil),
	}
}

// ready sums up: some host runs this generation, and no live host reports a failure.
func ready(obj object, f *facts) metav1.Condition {
	const t = proxyv1alpha1.ConditionReady
	failed := failures(obj, f)
	switch {
	case len(failed) > 0:
		return condition(t, metav1.ConditionFalse, failed[0].Reason, failureMessage(failed))
	case f.runs(obj.GetGeneration()) && f.client.State == registry.Idle:
		return condition(t, metav1.ConditionTrue, proxyv1alpha1.ReasonIdle, "the client was stopped by its idle time-out and starts at the next use")
	case f.runs(obj.GetGeneration()):
		return condition(t, metav1.ConditionTrue, proxyv1alpha1.ReasonReady, "applications can use it")
	default:
		return condition(t, metav1.ConditionUnknown, proxyv1alpha1.ReasonStarting, "the client is being started")
	}
}

// failureMessage names the hosts in trouble; more than three would only repeat the same.
func failureMessage(failed []proxyv1alpha1.HostStatus) string {
	const most = 3
	var lines []string
	for _, e := range failed[:min(most, len(failed))] {
		lines = append(lines, fmt.Sprintf("host %s: %s", e.Host, e.Message))
	}
	if more := len(failed) - most; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more hosts", more))
	}
	return strings.Join(lines, "; ")
}

func accepted(f *facts, v *verdict) metav1.Condition {
	const t = proxyv1alpha1.ConditionAccepted
	switch {
	case v != nil && v.condition == t:
		return condition(t, metav1.ConditionFalse, v.reason, v.message)
	case f.problem != nil || f.client == nil:
		return condition(t, metav1.ConditionUnknown, proxyv1alpha1.ReasonPending, "not known before a client can be started")
	default:
		return condition(t, metav1.ConditionTrue, proxyv1alpha1.ReasonAccepted, "nothing speaks against it")
	}
}

func credentialsReady(obj object, f *facts, v *verdict) metav1.Condition {
	const t = proxyv1alpha1.ConditionCredentialsReady
	switch {
	case v != nil && v.condition == t:
		return condition(t, metav1.ConditionFalse, v.reason, v.message)
	case !namesSecret(&obj.Common().Connection):
		return condition(t, metav1.ConditionTrue, proxyv1alpha1.ReasonNotRequired, "spec.connection names no Secret")
	case f.problem != nil:
		return condition(t, metav1.ConditionUnknown, proxyv1alpha1.ReasonPending, "not known before a client can be started")
	default:
		return condition(t, metav1.ConditionTrue, proxyv1alpha1.ReasonCredentialsFound, "every Secret has what is needed")
	}
}

func connected(f *facts, v *verdict) metav1.Condition {
	const t = proxyv1alpha1.ConditionConnected
	switch {
	case v != nil && v.condition == t:
		return condition(t, metav1.ConditionFalse, v.reason, v.message)
	case f.client == nil || f.client.State == registry.Failed:
		return condition(t, metav1.ConditionUnknown, proxyv1alpha1.ReasonPending, "no client runs")
	case f.client.State == registry.Idle:
		return condition(t, metav1.ConditionUnknown, proxyv1alpha1.ReasonIdle, "the client was stopped by its idle time-out")
	case f.client.State == registry.Draining:
		return condition(t, metav1.ConditionUnknown, proxyv1alpha1.ReasonDraining, "an earlier client is finishing what is in flight")
	case f.client.State == registry.Starting:
		return condition(t, metav1.ConditionUnknown, proxyv1alpha1.ReasonStarting, "the client is being started and proven")
	default:
		return condition(t, metav1.ConditionTrue, proxyv1alpha1.ReasonConnected, "the client works")
	}
}

func reconciling(f *facts, v *verdict) metav1.Condition {
	const t = proxyv1alpha1.ConditionReconciling
	switch {
	case v != nil && v.stalled:
		return condition(t, metav1.ConditionFalse, v.reason, "waits for a change")
	case v != nil:
		return condition(t, metav1.ConditionTrue, proxyv1alpha1.ReasonProgressingWithRetry, "the last try failed, another one follows by itself")
	case f.undecided():
		return condition(t, metav1.ConditionTrue, proxyv1alpha1.ReasonProgressing, "a client is being started or replaced")
	default:
		return condition(t, metav1.ConditionFalse, proxyv1alpha1.ReasonSucceeded, "nothing is going on")
	}
}

func stalled(v *verdict) metav1.Condition {
	if v != nil && v.stalled {
		return condition(proxyv1alpha1.ConditionStalled, metav1.ConditionTrue, v.reason, v.message)
	}
	return condition(proxyv1alpha1.ConditionStalled, metav1.ConditionFalse, proxyv1alpha1.ReasonSucceeded, "nothing waits for the user")
}
