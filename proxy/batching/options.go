// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package batching

import (
	"time"

	"github.com/go-logr/logr"
)

// Settings of one send queue. Zero values mean the defaults; they can be changed while it runs, see Queue.SetSettings.
type Settings struct {
	// Enabled: what waits for a topic while requests to it are under way goes next, together. Otherwise each Send goes straight to the driver.
	Enabled bool
	// InAir is how many requests per topic may be under way at once, whole ones not counted. Default 2; while a moderate number waits there is one.
	InAir int
	// FullInAir is how many may be while what waits fills a whole request, which gains nothing by waiting. Default 8.
	FullInAir int
	// MaxWaitingMessages and MaxWaitingBytes bound what waits over all topics: more is refused as Throttled. Defaults 10,000 and 64 MiB.
	MaxWaitingMessages int
	MaxWaitingBytes    int64
}

// Options are what a queue is made of.
type Options struct {
	Settings
	// Observer is told what happens; may be nil.
	Observer Observer
	Log      logr.Logger
}

// Observer is told what happens in a queue, for metrics. Its methods must not block; they are called from several goroutines, never under
// a lock of the queue.
type Observer interface {
	// RequestSent: one Send of the driver with this many messages, of this many callers, has returned.
	RequestSent(messages, callers int, took time.Duration)
	// Refused: n messages were refused because too much waits already.
	Refused(n int)
	// DriverPanicked: the driver panicked in Send; its messages were answered with an error.
	DriverPanicked()
}

// DrainReport says what Drain did.
type DrainReport struct {
	// InFlight is the number of messages that were waiting or under way when the drain began.
	InFlight int
	// Drained were answered since; Left were not when the drain's context ended.
	Drained, Left int
	Took          time.Duration
}

type nobody struct{}

func (nobody) RequestSent(int, int, time.Duration) {}
func (nobody) Refused(int)                         {}
func (nobody) DriverPanicked()                     {}
