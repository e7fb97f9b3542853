// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/ratelimit"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/retry"
)

// Kind is the kind of object that an entry belongs to.
type Kind string

// The two kinds.
const (
	Producer Kind = "Producer"
	Consumer Kind = "Consumer"
)

// Key names an entry: one object has one, whatever its name is reused for later.
type Key struct {
	Kind Kind
	UID  string
}

// String is for logs.
func (k Key) String() string { return string(k.Kind) + "/" + k.UID }

// Spec says what should run for one object. It is a value: the registry keeps it and never changes what its pointers lead to; the
// caller must not either.
type Spec struct {
	Key
	Namespace, Name string
	// Generation of the object that this was made from; Status answers it back.
	Generation int64
	// Created is the object's creation time; of two objects in one group the older wins.
	Created time.Time
	// Driver is the resolved name of the driver.
	Driver string
	// Group is the effective group.
	Group string
	// Producer or Consumer, exactly the one of Kind.
	Producer *ProducerSpec
	Consumer *ConsumerSpec
	// IdleTimeout closes a client that nobody used for so long; 0 = never. The caller has resolved it: it is 0 for a consumer whose
	// driver leaves something behind at each stop.
	IdleTimeout time.Duration
	// DrainTimeout is how long calls, streams and open leases may take to finish when the client stops; 0 = give back at once.
	DrainTimeout time.Duration
	// Confirm is the write-ahead check, an uncached read of the object: nil = same UID, our finalizer, not dying: open. ErrNotLive
	// (errors.Is) = there must be no client: drop the entry. Any other error = unknown: back off and ask again. It is called by a
	// worker, after the entry is visible and before Open, and blocks for at most ctx. Never nil.
	Confirm func(ctx context.Context) error
}

// ProducerSpec is what a Producer's client is made from. The registry fills Config.ClientID.
type ProducerSpec struct {
	Config          driver.ProducerConfig
	Batching        bool
	MaxMessageBytes int
	// RateLimit bounds what is sent on this host.
	RateLimit ratelimit.Rate
	// CheckURL is where to ask about undecided transactions while no stream can be asked; empty = nowhere.
	CheckURL string
	// DeduplicationWindow is how long the ids of applications are remembered; 0 = not at all.
	DeduplicationWindow time.Duration
}

// ConsumerSpec is what a Consumer's client is made from. The registry fills Config.ClientID. Everything beside Config can change
// while the client runs.
type ConsumerSpec struct {
	Config              driver.ConsumerConfig
	AckDeadline         time.Duration
	MaxInFlight         int
	MaxInFlightBytes    int64
	MaxDeliveryAttempts int
	RetryBackoff        retry.Backoff
	// Broadcast: each receiver has a group of its own, made from Config.Group, and gets every message. MaxReceivers bounds them on all hosts; the group of one
	// that nobody saw for ReceiverExpiry is deleted.
	Broadcast      bool
	MaxReceivers   int
	ReceiverExpiry time.Duration
	// RateLimit bounds what is fetched on this host.
	RateLimit ratelimit.Rate
	// SeekMark is of the group's last Seek, whichever host did it; see driver.Consumer.SetMark.
	SeekMark string
}

// Connection is where the client connects to.
func (s *Spec) Connection() driver.Connection {
	switch {
	case s.Producer != nil:
		return s.Producer.Config.Connection
	case s.Consumer != nil:
		return s.Consumer.Config.Connection
	default:
		return driver.Connection{}
	}
}

// Client is what runs for an entry: a driver's client with its send queue or delivery window. All methods are safe for concurrent
// use; the registry calls them outside of its lock.
type Client interface {
	// Drain fetches nothing new, finishes or gives back what is in flight, and returns when that is done or ctx has ended. It is called
	// once, before Close, while users may still hold the client: a call that took it before may still use it, until Close.
	Drain(ctx context.Context) DrainReport
	// Close shuts everything down and returns when nothing is left, or at ctx's end with what is left as an error.
	Close(ctx context.Context) error
	// Err reports why the client does not work at present, nil when it does. It does not block. driver.ErrClosed = it will never
	// work again and must be opened anew.
	Err() error
	// Update takes over the settings of spec that can change while the client runs. It does not block. False = spec needs another
	// client; then nothing was taken over. It is not asked about another driver, group, RocketMQ namespace or set of name servers: those
	// always need another client.
	Update(spec Spec) bool
}

// Reasons of Release that say that the object is no more, so that what its client keeps outside of this process can go.
const (
	ReleaseDeleted = "object deleted"
	ReleaseGone    = "object gone"
)

// Remover is what a Client implements that keeps something at RocketMQ for an object, beyond the life of a client.
type Remover interface {
	// Remove deletes it. It is called once, after Close, when the object is no more. It blocks for at most ctx; the error says what is left.
	Remove(ctx context.Context) error
}

// Opener makes clients. All methods are safe for concurrent use.
type Opener interface {
	// Open starts the client of spec under the name id and returns when it is proven to work. It blocks for at most ctx. On an error
	// nothing is left running. A context that ended late may still answer a client; the registry closes it.
	Open(ctx context.Context, spec Spec, id driver.ClientID) (Client, error)
	// Probe proves that a Consumer's changed spec can be opened, without joining its group.
	Probe(ctx context.Context, spec Spec) error
	// Leftovers counts by name the goroutines that closed clients of the library left behind; see driver.Driver. A name is the
	// goroutine's function, or any part of it.
	Leftovers() map[string]int
}

// LeftoverExplainer is what an Opener implements whose libraries start goroutines by a common function, so that the function alone does not tell
// which ones are known to stay.
type LeftoverExplainer interface {
	// ExpectsLeftover reports whether a goroutine of a closed client with this stack, functions only, innermost first, is known to stay behind.
	ExpectsLeftover(stack []string) bool
}

// DrainReport is what one drain did.
type DrainReport struct {
	// InFlight is what was in flight when the drain began: deliveries without an ack, or sends without an answer.
	InFlight int
	// Drained were finished (acknowledged, answered), GivenBack were returned to be delivered at once, LeftLeased come again at the
	// end of their lease.
	Drained, GivenBack, LeftLeased int
}

// State is where an entry is in its life; the diagram is in doc.go.
type State string

// The states.
const (
	// Starting: the entry exists; its client is being confirmed, opened, or waits for its turn.
	Starting State = "Starting"
	// Running: there is a client. Status.Err tells when it has trouble, or when a changed spec could not replace it.
	Running State = "Running"
	// Idle: the client was closed for lack of use; the next Use opens it.
	Idle State = "Idle"
	// Draining: the last client is being drained and closed.
	Draining State = "Draining"
	// Stopped: no entry (any more). Only observers and refused calls see it.
	Stopped State = "Stopped"
	// Failed: no client; the last try failed and another comes at Status.NextTry, or the group is in use (NextTry is zero then).
	Failed State = "Failed"
)

// Status is what the registry knows about an entry at one moment.
type Status struct {
	State State
	// Generation is the spec's generation that the running client has; 0 = none. For Idle it is the one that last ran.
	Generation int64
	// Desired is the generation of the last Acquire.
	Desired int64
	Driver  string
	// ClientID is the running client's; empty = none.
	ClientID driver.ClientID
	// Err: why there is no client, or why the running one has trouble or could not be replaced by Desired. ReasonOf classifies it.
	Err error
	// Since is when State began; NextTry when the next try is due, zero = none is planned.
	Since, NextTry time.Time
	// Queued: it waits for its turn, because as many clients as may be opened at a time are being opened at its name servers. Notify does not tell when
	// that ends.
	Queued bool
}

// Receipt is the proof of a shutdown.
type Receipt struct {
	Key Key
	// Reason is the one given to the first Release.
	Reason string
	// InFlight, Drained, GivenBack and LeftLeased are sums over the clients that were stopped; see DrainReport.
	InFlight, Drained, GivenBack, LeftLeased int
	// Took is the time from Release until the last client's Close had returned.
	Took time.Duration
	// Forced: calls or streams still held the client when it was closed.
	Forced bool
	// Err is what Close reported, empty = nothing is left.
	Err string
}

// EntryInfo is one line of List.
type EntryInfo struct {
	Key
	Namespace, Name, Group string
	Status                 Status
	// Uses counts the calls and streams that hold the client now.
	Uses int
	// Releasing: the entry is on its way out; Reason says why.
	Releasing bool
	Reason    string
}

// Observer is told what happens, for metrics. It must not block. Calls come from several goroutines, outside of every lock; two
// changes of one entry may be told in the other order, so count with sums.
type Observer interface {
	// StateChanged: an entry moved. from is Stopped for a new entry, to is Stopped for one that goes.
	StateChanged(kind Kind, from, to State)
	// Opened: a try to open a client ended; err is nil when it runs.
	Opened(kind Kind, driverName string, took time.Duration, err error)
	// Drained: a client was drained and closed.
	Drained(kind Kind, driverName string, receipt Receipt)
	// LeakDetected: an audit found something of kind "Producer", "Consumer" or "Goroutine" that belongs to no object or no client.
	LeakDetected(kind string, count int)
}

// AuditReport is what one audit found.
type AuditReport struct {
	// EntriesWithoutObject were released, ObjectsWithoutEntry notified.
	EntriesWithoutObject, ObjectsWithoutEntry []Key
	// Goroutines counts by function the goroutines of clients that no entry has, leftovers subtracted, in two audits in a row.
	Goroutines map[string]int
	// Leftovers is what the drivers say about closed clients of their libraries.
	Leftovers map[string]int
}
