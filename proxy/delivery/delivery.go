// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Delivery is one message handed to one receiver. Its message must not be changed.
type Delivery struct {
	*driver.Received
	// Token acknowledges this delivery until Deadline.
	Token string
	// Deadline is when the message comes again if nothing is heard of it.
	Deadline time.Time
	// Attempt counts deliveries of this message from 1.
	Attempt int

	flight *flight
}

// Outcome is the truth about one token.
type Outcome int

// The outcomes, as in TokenResult of the data-plane protocol.
const (
	// OK: done.
	OK Outcome = iota + 1
	// Expired: the deadline has passed or the token was replaced; the message comes, or came, again.
	Expired
	// Retry: nothing is known to have happened; send the same again.
	Retry
	// Invalid: not a token of this Consumer.
	Invalid
)

// String is the outcome's name in the protocol.
func (o Outcome) String() string {
	switch o {
	case OK:
		return "OK"
	case Expired:
		return "EXPIRED"
	case Retry:
		return "RETRY"
	case Invalid:
		return "INVALID"
	default:
		return "OUTCOME_UNSPECIFIED"
	}
}

// Result answers one token of an Ack, Nack or Modify.
type Result struct {
	// Token is the token that was given.
	Token   string
	Outcome Outcome
	// Detail is a sentence for people, empty when OK.
	Detail string
	// NewToken replaces Token after a Modify.
	NewToken string
	// Deadline is the real deadline after a Modify.
	Deadline time.Time
	// EffectiveDelay is the real delay of a Nack.
	EffectiveDelay time.Duration
}

// Nack asks to give one delivery back.
type Nack struct {
	Token string
	// Delay is after how long it comes again.
	Delay time.Duration
	// ByBackoff leaves the delay to Settings.RetryBackoff; Delay is not looked at then.
	ByBackoff bool
	// Reason is why, for people; empty = nothing is said. It is cut to MaxNackReasonBytes.
	Reason string
}

// MaxNackReasonBytes bounds the reason of a Nack.
const MaxNackReasonBytes = 512

// Modify asks to move one delivery's deadline to now + AckDeadline.
type Modify struct {
	Token       string
	AckDeadline time.Duration
}

// ReceiverOptions are a receiver's credit.
type ReceiverOptions struct {
	// MaxMessages and MaxBytes bound what is handed to the receiver and not yet acknowledged, nacked or expired. 0 or more than the
	// window's own limit = the window's limit.
	MaxMessages int
	MaxBytes    int64
	// AckDeadline is the lease of this receiver's deliveries; 0 = the window's. It is clamped to MaxLease.
	AckDeadline time.Duration
	// ClientID is shown in logs.
	ClientID string
}

// DrainReport says what Drain did.
type DrainReport struct {
	// InFlight is what was leased to the window when the drain began.
	InFlight int
	// Acked were acknowledged or nacked by applications since then.
	Acked int
	// Expired were not answered by their deadline and come again.
	Expired int
	// GivenBack had not been seen by an application.
	GivenBack int
	// DeadLettered had no attempts left.
	DeadLettered int
	// LeftLeased is still with applications: it can be acknowledged until its deadline where the driver allows, else it comes again.
	LeftLeased int
	Took       time.Duration
}
