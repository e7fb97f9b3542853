// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"cmp"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Harness is a driver and a broker to test it on. All methods are called from several tests at once.
type Harness interface {
	// Driver is the driver under test.
	Driver() driver.Driver

	// Connection leads to the broker with working credentials. AllowAddress may be nil: the suite then allows everything.
	Connection() driver.Connection

	// NewTopic creates a topic of that many queues under a name that nobody used before, without the namespace, and returns when its
	// route can be had.
	NewTopic(t testing.TB, queues int) string

	// NewGroup returns the name of a consumer group that nobody used before. Where retries are slow in a group's first seconds (its retry
	// topic does not exist yet), it makes what is needed so that Facts.Late holds.
	NewGroup(t testing.TB) string

	// Settle returns when whoever looks for the newest message sees all that was sent before the call. A broker may answer a send earlier.
	Settle(t testing.TB)

	// Facts are the same at every call.
	Facts() Facts
}

// Facts say what the broker and the way to it can do, and how late.
type Facts struct {
	// Lease is a lease that the driver keeps well; cases that wait for its end wait this long. 0 = one second.
	Lease time.Duration
	// Late is how much later than it is due a redelivery may come: after a lease, a nack's effective delay, or a GiveBack. 0 = one second.
	Late time.Duration
	// Early is how much before its time a redelivery may come because of clocks and rounding. 0 = 50 ms.
	Early time.Duration
	// Quiet is how long the suite listens before it believes that nothing comes. 0 = half a second.
	Quiet time.Duration
	// Open is the longest that Open, Close or Probe may take on a working broker. 0 = 10 seconds.
	Open time.Duration
	// MaxMessageBytes is the largest message that the suite sends to be stored, but for the case that looks for the broker's limit. 0 = 4 MiB.
	MaxMessageBytes int
	// BrokersLimit is the largest body that the broker takes (its maxMessageSize). 0 = 4 MiB.
	BrokersLimit int
	// Check is the longest time from one check of a transaction to the next, and to the first one. 0 = 5 seconds.
	Check time.Duration
	// SQL: the broker has SQL92 filters switched on.
	SQL bool
	// CreatesTopics: sending to an unknown topic creates it instead of failing with TopicNotFound.
	CreatesTopics bool
	// DelayLevels: the broker knows some delays only, of which 5 s and 10 s are two (brokers before 5.0).
	DelayLevels bool
	// MaxDelay is the longest delay that the broker takes. 0 = 3 days.
	MaxDelay time.Duration
	// Serial: cases must not run side by side.
	Serial bool
	// Unauthorized, where the broker has ACL, is a connection with wrong credentials. May be nil.
	Unauthorized *driver.Connection
	// RestartBroker stops the broker hard and starts it again, and returns when it serves; nothing stored is lost. May be nil.
	RestartBroker func(t testing.TB)
	// Unreachable are name servers that do not answer. Empty = a port on loopback that nobody listens on.
	Unreachable []string
	// Nack is a delay that Nack keeps exactly where the driver promises that. 0 = Lease.
	Nack time.Duration
	// InFlightPerQueue is how many messages of one queue may surely be fetched and not yet acknowledged; more may block Fetch. 0 = as many as the suite
	// wants (1,000 of one topic).
	InFlightPerQueue int
	// ByteSlack is by how much a Fetch may go over MaxBytes because the driver learns a message's size only when it has it.
	ByteSlack int64
	// SpareGoroutines is how many goroutines beyond Leftovers may stay after everything is closed, with the reason beside it in the harness.
	SpareGoroutines int
}

func (f Facts) withDefaults() Facts {
	if f.MaxDelay == 0 {
		f.MaxDelay = 72 * time.Hour
	}
	orDefault := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	orDefault(&f.Lease, time.Second)
	orDefault(&f.Late, time.Second)
	orDefault(&f.Early, 50*time.Millisecond)
	orDefault(&f.Quiet, 500*time.Millisecond)
	orDefault(&f.Open, 10*time.Second)
	orDefault(&f.Nack, f.Lease)
	orDefault(&f.Check, 5*time.Second)
	f.MaxMessageBytes = cmp.Or(f.MaxMessageBytes, 4<<20)
	f.BrokersLimit = cmp.Or(f.BrokersLimit, 4<<20)
	return f
}
