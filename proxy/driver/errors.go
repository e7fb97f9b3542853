// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
)

// Reason classifies an error of a driver. Everything above decides by it: conditions, status codes and retries.
type Reason string

// The reasons. The second group is final for a message or an object: the same call will fail again.
const (
	// Unavailable: name server or broker not reached, busy or changing; try again.
	Unavailable Reason = "BrokerUnavailable"
	// NotReplicated: stored, but not flushed or not replicated as the broker is configured to; a retry may duplicate.
	NotReplicated Reason = "NotReplicated"
	// Timeout: no answer in time; the effect is unknown; a retry may duplicate.
	Timeout Reason = "BrokerTimeout"
	// Closed: the client is shutting down; another host or a later try may work.
	Closed Reason = "Closed"
	// Throttled: the broker refuses for load.
	Throttled Reason = "BrokerBusy"

	// EarlierFailed: an earlier message of the same call and sharding key was not stored, so that this one would have overtaken it; send both again.
	EarlierFailed Reason = "EarlierMessageFailed"

	// GroupHasClassicMembers: clients that do not pop are in the group, whose messages a popping Consumer must not share; it works when they
	// have left.
	GroupHasClassicMembers Reason = "GroupHasClassicMembers"

	// Unauthorized: credentials missing, wrong or without the right.
	Unauthorized Reason = "CredentialsRefused"
	// TopicNotFound: the topic does not exist and the broker does not create it.
	TopicNotFound Reason = "TopicNotFound"
	// InvalidMessage: the broker or driver refuses this message (size, name, property).
	InvalidMessage Reason = "InvalidMessage"
	// InvalidFilter: the SQL filter does not parse, or the broker has filters switched off.
	InvalidFilter Reason = "InvalidFilter"
	// AddressRefused: an address is not on the allow-list.
	AddressRefused Reason = "AddressRefused"
	// Unsupported: this driver or broker cannot do what was asked.
	Unsupported Reason = "Unsupported"
	// Invalid: a configuration that can never work.
	Invalid Reason = "InvalidConfiguration"

	// LeaseExpired: the handle's lease has ended; the call had no effect.
	LeaseExpired Reason = "LeaseExpired"
	// InvalidHandle: not a handle of this driver and group.
	InvalidHandle Reason = "InvalidHandle"
	// TooLate: what was to be recalled has been delivered, or the broker does not have what was to be ended any more.
	TooLate Reason = "TooLate"
	// TransactionEnded: the transaction was ended the other way.
	TransactionEnded Reason = "TransactionEnded"
)

// Error is what drivers return: a reason to decide by and a text for people. It never contains a secret or a body.
type Error struct {
	Reason Reason
	// Field is the field of the object or message at fault, where one is ("connection.nameServers[0]", "subscriptions[1].filter.sql").
	Field string
	// Message is the whole text, the cause's included.
	Message string
	// Err is the cause for errors.Is and errors.As; its text is already in Message. May be nil.
	Err error
}

func (e *Error) Error() string {
	if e.Field != "" {
		return string(e.Reason) + ": " + e.Field + ": " + e.Message
	}
	return string(e.Reason) + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrClosed) and its siblings compare by reason.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Message == "" && t.Field == "" && t.Err == nil && t.Reason == e.Reason
}

// Values for errors.Is; they match every Error of the same reason.
var (
	ErrClosed        = &Error{Reason: Closed}
	ErrLeaseExpired  = &Error{Reason: LeaseExpired}
	ErrInvalidHandle = &Error{Reason: InvalidHandle}
	ErrUnavailable   = &Error{Reason: Unavailable}
	ErrInvalid       = &Error{Reason: Invalid}
)

// Errorf makes an Error; the operand of a %w verb becomes its cause. field may be empty.
func Errorf(r Reason, field, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Reason: r, Field: field, Message: wrapped.Error(), Err: errors.Unwrap(wrapped)}
}

// ReasonOf finds the Reason of err; an error that is not of a driver is Unavailable, context errors are Timeout.
func ReasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return Timeout
	}
	return Unavailable
}

// Retryable reports whether the same call may work later without a change of object or message.
func Retryable(err error) bool {
	switch ReasonOf(err) {
	case Unavailable, NotReplicated, Timeout, Closed, Throttled, GroupHasClassicMembers, EarlierFailed:
		return true
	default:
		return false
	}
}
