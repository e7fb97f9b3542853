// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"errors"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/ratelimit"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/retry"
)

// ErrDraining is the answer of Attach after Drain or Close has begun: look for another host.
var ErrDraining = errors.New("the consumer's window is draining: no new receivers are taken on this host")

// Settings are the limits of one window. They can be changed while it runs; see Window.SetSettings.
type Settings struct {
	// AckDeadline is the lease of receivers that name none of their own.
	AckDeadline time.Duration
	// MaxInFlight bounds the messages that are leased to this window, whether a receiver has them or not. At least 1.
	MaxInFlight int
	// MaxInFlightBytes bounds their bytes. A single message that is larger than what is left may exceed it, alone.
	MaxInFlightBytes int64
	// MaxDeliveryAttempts: a message with a higher attempt number goes to the dead-letter topic and to no receiver; 0 = no limit.
	MaxDeliveryAttempts int
	// RetryBackoff is the delay of a Nack that leaves it to the window. What was not answered comes again when its lease ends, whatever this says: the
	// broker ends leases, and knows nothing of it.
	RetryBackoff retry.Backoff
	// RateLimit bounds what is fetched in a second; the zero value = no limit.
	RateLimit ratelimit.Rate
	// MaxLease is the longest lease that Modify and receivers may ask for; 0 = the driver's Capabilities.MaxLease.
	MaxLease time.Duration
}

// Origin names who hands deliveries out. It travels inside each token.
type Origin struct {
	// ConsumerUID is the UID of the Consumer object. A token of another UID is Invalid.
	ConsumerUID string
	// Host is the host's id (the name of its Lease).
	Host string
	// Incarnation is random for each start of the process.
	Incarnation string
}

// Options are what a window is made of.
type Options struct {
	Settings
	Origin
	// Capabilities are those of the driver that opened the consumer.
	Capabilities driver.Capabilities
	// Ordered: the consumer is; see lanes.go.
	Ordered bool
	// Sealer makes and opens tokens. Required. Windows share one.
	Sealer *Sealer
	// Peers asks the hosts that made the tokens of others; nil = nobody is asked.
	Peers Peers
	// Observer is told what happens; may be nil.
	Observer Observer
	Log      logr.Logger
}

// Ending is how a delivery ended.
type Ending string

// The endings of deliveries.
const (
	// Acked: the driver took the acknowledgement.
	Acked Ending = "acked"
	// Nacked: the application gave it back; it comes again with its attempt raised.
	Nacked Ending = "nacked"
	// Lapsed: the deadline passed; it comes again.
	Lapsed Ending = "expired"
	// GivenBack: no application has seen it; it comes again with its attempt unchanged.
	GivenBack Ending = "given_back"
	// DeadLettered: it was written to the dead-letter topic.
	DeadLettered Ending = "dead_lettered"
)

// Observer is told what happens in a window, for metrics. Its methods must not block; they are called from several goroutines, never
// under a lock of the window.
type Observer interface {
	// Delivered: the transport took n deliveries, of which redelivered had an attempt above 1.
	Delivered(n, redelivered int)
	// Ended: n deliveries ended in this way.
	Ended(e Ending, n int)
	// WindowFull: fetching stopped because the window is full. Once; again after it was half empty in between.
	WindowFull()
	// Paced: fetching waited this long for the rate limit although a receiver had credit.
	Paced(waited time.Duration)
	// FetchFailed: a Fetch failed; the window tries again by itself.
	FetchFailed(err error)
	// GiveBackFailed: n messages could not be given back; they come again when their lease runs out.
	GiveBackFailed(n int, err error)
	// DeadLetterFailed: a dead-letter write failed; the original is kept.
	DeadLetterFailed(err error)
	// DriverPanicked: the driver panicked in the named call; the window took it for an error.
	DriverPanicked(call string)
}

// nobody is the Observer of a window that has none.
type nobody struct{}

func (nobody) Delivered(int, int)        {}
func (nobody) Ended(Ending, int)         {}
func (nobody) WindowFull()               {}
func (nobody) Paced(time.Duration)       {}
func (nobody) FetchFailed(error)         {}
func (nobody) GiveBackFailed(int, error) {}
func (nobody) DeadLetterFailed(error)    {}
func (nobody) DriverPanicked(string)     {}
