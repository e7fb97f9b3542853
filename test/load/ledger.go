// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package load drives the data plane as applications do - senders that retry, receivers that reopen their stream - and keeps the ledger by
// which a test proves that nothing was lost: id, hash, send-ok, delivered, ack-ok.
package load

import (
	"fmt"
	"hash/crc64"
	"slices"
	"strings"
	"sync"
	"time"
)

var table = crc64.MakeTable(crc64.ECMA)

// Hash is what the ledger compares bodies by.
func Hash(body []byte) uint64 { return crc64.Checksum(body, table) }

// Ledger is safe for concurrent use.
type Ledger struct {
	mu      sync.Mutex
	entries map[string]*entry
	// changed is closed and replaced when something was acknowledged.
	changed chan struct{}
	faults  []string
	again   []string
	counts  Counts
}

type entry struct {
	hash      uint64
	sendOK    bool
	tries     int
	delivered int
	// firsts counts deliveries with attempt 1, at is the last delivery.
	firsts int
	at     time.Time
	ackOK  time.Time
	// ackUnknown is when a token expired whose ack had had no clear answer.
	ackUnknown time.Time
}

// Counts sums up a ledger.
type Counts struct {
	// Sent were acknowledged to a sender; Unknown were tried without an OK at the end.
	Sent, Unknown int
	// Delivered counts deliveries, Duplicates those beyond the first of each id.
	Delivered, Duplicates int
	// Acked counts ids with an ack-ok; AfterAck counts deliveries that began after their ack-ok: RocketMQ may have a message
	// twice, because a send was repeated, by its sender or inside the proxy. Again are those with an attempt above 1 of ids that were sent by one try and
	// had one first attempt: the acknowledged message itself came again.
	Acked, AfterAck, Again int
	// AckUnknown counts ids that were delivered, acknowledged without a clear answer (RETRY, or a broken stream) until the token expired, and never came
	// again: the broker had taken the ack, and only its answer was lost.
	AckUnknown int
	// SendRetries and AckRetries count answers that made an application try again; Streams counts streams opened.
	SendRetries, AckRetries, Streams int
	// Expired counts acks that came too late by the proxy's word.
	Expired int
}

// NewLedger returns an empty ledger.
func NewLedger() *Ledger {
	return &Ledger{entries: map[string]*entry{}, changed: make(chan struct{})}
}

// Trying notes that id with body is about to be sent.
func (l *Ledger) Trying(id string, body []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[id] = &entry{hash: Hash(body), tries: 1}
}

// TryingAgain notes that id is sent once more, because what became of the try before is not known.
func (l *Ledger) TryingAgain(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[id].tries++
	l.counts.SendRetries++
}

// SendOK notes that the proxy acknowledged id to its sender.
func (l *Ledger) SendOK(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[id].sendOK = true
}

// Delivered notes a delivery that was read at the time at, with its attempt. Unknown ids and wrong bodies are faults.
func (l *Ledger) Delivered(id string, body []byte, attempt int32, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Delivered++
	e := l.entries[id]
	switch {
	case e == nil:
		l.fault("id %q was delivered and never sent", id)
		return
	case e.hash != Hash(body):
		l.fault("id %q was delivered with another body", id)
	}
	if e.delivered > 0 {
		l.counts.Duplicates++
	}
	if !e.ackOK.IsZero() && at.After(e.ackOK) {
		l.counts.AfterAck++
		if attempt > 1 && e.firsts <= 1 && e.tries == 1 {
			l.counts.Again++
			if len(l.again) < 10 {
				l.again = append(l.again, fmt.Sprintf("%s with attempt %d, %s after its ack-ok and %s after its last delivery", id, attempt, at.Sub(e.ackOK), at.Sub(e.at)))
			}
		}
	}
	if attempt == 1 {
		e.firsts++
	}
	e.at = at
	e.delivered++
}

// AckOK notes that the proxy confirmed the ack of id.
func (l *Ledger) AckOK(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.entries[id]; e != nil && e.ackOK.IsZero() {
		e.ackOK = time.Now()
		l.counts.Acked++
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// AckUnknown notes that the ack of id had no clear answer until its token expired. Either the broker took it, or the message comes again.
func (l *Ledger) AckUnknown(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.entries[id]; e != nil {
		e.ackUnknown = time.Now()
	}
}

// Count adds to a field of the counts.
func (l *Ledger) Count(add func(*Counts)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	add(&l.counts)
}

func (l *Ledger) fault(format string, args ...any) {
	if len(l.faults) < 20 {
		l.faults = append(l.faults, fmt.Sprintf(format, args...))
	}
}

// Again tells the first messages that came again after their ack-ok; see Counts.
func (l *Ledger) Again() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.again)
}

// Counts answers the sums as they are now.
func (l *Ledger) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.counts
	for _, e := range l.entries {
		if e.sendOK {
			c.Sent++
		} else {
			c.Unknown++
		}
		if !e.ackUnknown.IsZero() && e.ackOK.IsZero() {
			c.AckUnknown++
		}
	}
	return c
}

// comesAgainWithin is more than an expired message takes to come again: POP's 2 to 3 s, and the time of a broker that catches up.
const comesAgainWithin = 20 * time.Second

// Missing answers how many messages were acknowledged to a sender and have no ack-ok, and a channel that is closed at the next ack-ok. A message whose ack had
// no clear answer counts until it had the time to come again.
func (l *Ledger) Missing() (int, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, e := range l.entries {
		if e.sendOK && e.ackOK.IsZero() && (e.ackUnknown.IsZero() || time.Since(e.ackUnknown) < comesAgainWithin) {
			n++
		}
	}
	return n, l.changed
}

// Check says what is wrong: anything acknowledged to a sender without an ack-ok, wrong bodies, ids nobody sent. Nil = nothing was lost.
func (l *Ledger) Check() error {
	missing, _ := l.Missing()
	l.mu.Lock()
	defer l.mu.Unlock()
	if missing > 0 {
		l.fault("%d messages were acknowledged to a sender and never came to an ack-ok", missing)
	}
	if len(l.faults) == 0 {
		return nil
	}
	return fmt.Errorf("ledger: %s", strings.Join(l.faults, "; "))
}
