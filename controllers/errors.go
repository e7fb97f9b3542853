// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"regexp"
	"time"
	"unicode/utf8"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// Stalled says that nothing will change before the user changes the object or what it refers to.
type Stalled struct {
	Reason string
	Err    error
}

func (e *Stalled) Error() string { return e.Err.Error() }
func (e *Stalled) Unwrap() error { return e.Err }

// Waiting says that something expected is not there yet and will be looked for again after After.
type Waiting struct {
	Reason string
	After  time.Duration
	Err    error
}

func (e *Waiting) Error() string { return e.Err.Error() }
func (e *Waiting) Unwrap() error { return e.Err }

// verdict is what an error means for an object.
type verdict struct {
	// condition is the part that is wrong, reason its reason.
	condition, reason string
	message           string
	// stalled: only the user can change it. Otherwise it is tried again by itself.
	stalled bool
	// requeue is when the next pass should look again; 0: the registry tries again and wakes the controller.
	requeue time.Duration
}

// explain is the one switch from errors to conditions and requeues. err is not nil.
func explain(err error) verdict {
	var stalled *Stalled
	var waiting *Waiting
	var reason string
	var requeue time.Duration
	switch {
	case errors.As(err, &stalled):
		reason = stalled.Reason
	case errors.As(err, &waiting):
		reason, requeue = waiting.Reason, waiting.After
	default:
		reason = registry.ReasonOf(err)
	}
	v := verdictOf(reason)
	v.message = tidy(err.Error())
	v.requeue = max(v.requeue, requeue)
	return v
}

// verdictOf knows every reason that an object can have.
func verdictOf(reason string) verdict {
	v := verdict{condition: proxyv1alpha1.ConditionConnected, reason: reason}
	switch reason {
	case proxyv1alpha1.ReasonGroupInUse, proxyv1alpha1.ReasonNameServersMissing, proxyv1alpha1.ReasonAddressRefused,
		proxyv1alpha1.ReasonInvalidConfiguration, proxyv1alpha1.ReasonInvalidFilter, proxyv1alpha1.ReasonUnsupported:
		v.condition, v.stalled = proxyv1alpha1.ConditionAccepted, true
	case string(driver.InvalidMessage):
		v.condition, v.reason, v.stalled = proxyv1alpha1.ConditionAccepted, proxyv1alpha1.ReasonInvalidConfiguration, true
	case proxyv1alpha1.ReasonSecretNotFound, proxyv1alpha1.ReasonSecretKeyMissing, proxyv1alpha1.ReasonSecretKeyInvalid,
		proxyv1alpha1.ReasonSecretNotReadable, proxyv1alpha1.ReasonCredentialsRefused:
		v.condition, v.requeue = proxyv1alpha1.ConditionCredentialsReady, secretRetry
	case string(driver.Timeout), string(driver.Throttled), string(driver.Closed), string(driver.NotReplicated):
		// What the user can do is the same for all of them, and a reason that changes with each try would write status each time.
		v.reason = proxyv1alpha1.ReasonBrokerUnavailable
	}
	return v
}

const maxMessageBytes = 1024

// ephemeral matches the local end of a connection in an error text. Its port differs with each try, and with it the message would.
var ephemeral = regexp.MustCompile(`(\[[0-9a-fA-F:]+\]|\d+\.\d+\.\d+\.\d+):\d+->`)

// tidy makes an error's text fit for a status: bounded, and the same for the same trouble.
func tidy(text string) string {
	text = ephemeral.ReplaceAllString(text, "")
	if len(text) <= maxMessageBytes {
		return text
	}
	text = text[:maxMessageBytes]
	for !utf8.ValidString(text) {
		text = text[:len(text)-1]
	}
	return text
}
