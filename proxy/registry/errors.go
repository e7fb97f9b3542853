// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var (
	// ErrNotLive is Confirm's answer for an object that is gone, dying, another one of the same name, or without our finalizer.
	ErrNotLive = errors.New("the object is not live: gone, dying, recreated, or without our finalizer")
	// ErrDraining answers a Use of something that is being deleted, replaced or stopped with the host. Another host or a later try
	// may work.
	ErrDraining = errors.New("the client is draining: try again")
	// ErrGateClosed answers an Acquire after CloseGate: this host is stopping and starts nothing any more.
	ErrGateClosed = errors.New("this host is stopping and starts no client any more")
	// ErrAuditRunning answers an Audit while another one is under way.
	ErrAuditRunning = errors.New("an audit is under way already")
)

// Reasons that are not a driver's; see ReasonOf. The last two come from those who call Expect: the brokers do not say which driver is right; the
// object runs on another host, which is the only one that may.
const (
	ReasonStarting       = "Starting"
	ReasonGroupInUse     = "GroupInUse"
	ReasonShuttingDown   = "ShuttingDown"
	ReasonNotConfirmed   = "APIServerUnavailable"
	ReasonNotLive        = "ObjectNotLive"
	ReasonVersionUnknown = "BrokerVersionUnknown"
	ReasonSeveralHosts   = "SeveralHosts"
)

// NotFoundError answers a Use of a name that has no entry on this host.
type NotFoundError struct {
	Kind            Kind
	Namespace, Name string
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("%s %s/%s does not run on this host: it does not exist, is suspended, or was not accepted", e.Kind, e.Namespace, e.Name)
}

// NotReadyError answers a Use of an entry without a client.
type NotReadyError struct {
	Kind            Kind
	Namespace, Name string
	State           State
	// Reason is ReasonOf the cause, Message its text.
	Reason, Message string
	// Err is the cause, nil when it simply has not started yet.
	Err error
}

func (e *NotReadyError) Error() string {
	return fmt.Sprintf("%s %s/%s is not ready: %s: %s", e.Kind, e.Namespace, e.Name, e.Reason, e.Message)
}

func (e *NotReadyError) Unwrap() error { return e.Err }

// GroupInUseError says that an older object has the group. Two objects with different subscriptions in one group lose messages.
type GroupInUseError struct {
	Group string
	// Other is "namespace/name" of the older object when it is in the same namespace, else empty: other namespaces stay private.
	Other string
}

func (e *GroupInUseError) Error() string {
	other := "an older object in another namespace"
	if e.Other != "" {
		other = "the older object " + e.Other
	}
	return fmt.Sprintf("group %q is in use by %s on the same name servers: choose another group or delete that object", e.Group, other)
}

// ConfirmError says that nobody could be asked whether the object is live, so nothing was opened.
type ConfirmError struct{ Err error }

func (e *ConfirmError) Error() string {
	return "confirm that the object is live before its client starts: " + e.Err.Error()
}

func (e *ConfirmError) Unwrap() error { return e.Err }

// ReasonOf classifies a Status.Err in one word: a driver.Reason or one of the constants above. It is empty for nil.
func ReasonOf(err error) string {
	var inUse *GroupInUseError
	var confirm *ConfirmError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &inUse):
		return ReasonGroupInUse
	case errors.Is(err, ErrNotLive):
		return ReasonNotLive
	case errors.As(err, &confirm):
		return ReasonNotConfirmed
	case errors.Is(err, ErrGateClosed), errors.Is(err, ErrDraining):
		return ReasonShuttingDown
	default:
		return string(driver.ReasonOf(err))
	}
}
