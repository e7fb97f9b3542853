// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package load drives the data plane as applications do - senders that retry, receivers that reopen their stream - and keeps the ledger by
// which a test proves that nothing was lost: id, hash, send-ok, delivered, ack-ok.
package load

import (
	"fmt"
	"hash/crc64"
	"strings"
	"sync"
	"time"
)

var table = crc64.MakeTable(crc64.ECMA)

// Hash is what the ledger compares bodies by.
func Hash(body []byte) uint64 { return crc64.Checksum(body, table) }

// Ledger is safe for concurrent use. What it is asked under load - Counts, Missing - costs the same however many ids it has: a test asks with each
// ack, and one that walked through all of them took the broker's CPU from it.
type Ledger struct {
	mu      sync.Mutex
	began   time.Time
	entries map[string]*entry
	// unclear are those with an ackUnknown and without an ack-ok.
	unclear map[*entry]struct{}
	hosts   []string
	// changed is closed and replaced when something was acknowledged.
	changed chan struct{}
	faults  []string
	counts  Counts
	// open counts the ids with a send-ok and without an ack-ok; settled is the last ack-ok or ackUnknown.
	open    int
	settled time.Time
}

type entry struct {
	hash      uint64
	sendOK    bool
	delivered int
	// ackOKs counts deliveries whose ack was confirmed; ackOK is when the first one was.
	ackOKs int
	ackOK  time.Time
	// ackUnknown is when a token expired whose ack had had no clear answer.
	ackUnknown time.Time
	history    []event
}

// Counts sums up a ledger.
type Counts struct {
	// Sent were acknowledged to a sender; Unknown were tried without an OK at the end.
	Sent, Unknown int
	// Delivered counts deliveries, Duplicates those beyond the first of each id.
	Delivered, Duplicates int
	// Acked counts ids with an ack-ok; AfterAck counts deliveries that began after their ack-ok. RocketMQ may have a message twice, because a send was
	// repeated, by its sender or inside the proxy: Repeats says which of them came again.
	Acked, AfterAck int
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
	return &Ledger{began: time.Now(), entries: map[string]*entry{}, unclear: map[*entry]struct{}{}, changed: make(chan struct{})}
}

// Trying notes that id with body is about to be sent.
func (l *Ledger) Trying(id string, body []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &entry{hash: Hash(body)}
	l.entries[id] = e
	l.note(e, event{kind: tried})
}

// TryingAgain notes that id is sent once more, because what became of the try before is not known.
func (l *Ledger) TryingAgain(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note(l.entries[id], event{kind: tried})
	l.counts.SendRetries++
}

// SendOK notes that the proxy acknowledged id to its sender.
func (l *Ledger) SendOK(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[id]
	l.note(e, event{kind: sent})
	e.sendOK = true
	l.counts.Sent++
	if e.ackOK.IsZero() {
		l.open++
	}
}

// Delivery is what a receiver read.
type Delivery struct {
	ID      string
	Body    []byte
	Attempt int32
	// Stored is when RocketMQ stored it, by its clock; Host the address of the host that delivered it.
	Stored time.Time
	Host   string
}

// Delivered notes a delivery that was read at the time at. Unknown ids and wrong bodies are faults.
func (l *Ledger) Delivered(d Delivery, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Delivered++
	e := l.entries[d.ID]
	switch {
	case e == nil:
		l.fault("id %q was delivered and never sent", d.ID)
		return
	case e.hash != Hash(d.Body):
		l.fault("id %q was delivered with another body", d.ID)
	}
	if e.delivered > 0 {
		l.counts.Duplicates++
	}
	if !e.ackOK.IsZero() && at.After(e.ackOK) {
		l.counts.AfterAck++
	}
	e.delivered++
	l.note(e, event{kind: delivered, at: l.since(at), stored: int32(d.Stored.Sub(l.began).Milliseconds()), attempt: uint8(min(d.Attempt, 255)), host: l.host(d.Host)})
}

// AckOK notes that host confirmed the ack of one delivery of id.
func (l *Ledger) AckOK(id, host string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[id]
	if e == nil {
		return // Delivered has told
	}
	e.ackOKs++
	l.note(e, event{kind: acked, host: l.host(host)})
	if e.ackOKs > 1 {
		return
	}
	e.ackOK = time.Now()
	l.settled = e.ackOK
	delete(l.unclear, e)
	if e.sendOK {
		l.open--
	}
	l.counts.Acked++
	close(l.changed)
	l.changed = make(chan struct{})
}

// AckUnknown notes that the ack of id had no clear answer until its token expired. Either the broker took it, or the message comes again.
func (l *Ledger) AckUnknown(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[id]
	if e == nil {
		return
	}
	l.note(e, event{kind: unknown})
	e.ackUnknown = time.Now()
	if e.ackOKs == 0 {
		l.settled = e.ackUnknown
		l.unclear[e] = struct{}{}
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

// Counts answers the sums as they are now.
func (l *Ledger) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.counts
	c.Unknown = len(l.entries) - c.Sent
	c.AckUnknown = len(l.unclear)
	return c
}

// comesAgainWithin is more than an expired message takes to come again: POP's 2 to 3 s, and the time of a broker that catches up.
const comesAgainWithin = 20 * time.Second

// Missing answers how many messages were acknowledged to a sender and have no ack-ok, and a channel that is closed at the next ack-ok. A message whose ack had
// no clear answer counts until it had the time to come again.
func (l *Ledger) Missing() (int, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.open
	for e := range l.unclear {
		if e.sendOK && time.Since(e.ackUnknown) >= comesAgainWithin {
			n--
		}
	}
	return n, l.changed
}

// Settled is when the last message came to its end: its ack-ok, or the end of a token whose ack had no clear answer. Once Missing answers 0, it is when nothing
// was missing any more, without the time that Missing takes to be sure.
func (l *Ledger) Settled() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settled
}

// Check says what is wrong: anything acknowledged to a sender without an ack-ok, wrong bodies, ids nobody sent. Nil = nothing was lost.
func (l *Ledger) Check() error {
	missing, _ := l.Missing()
	l.mu.Lock()
	defer l.mu.Unlock()
	if missing > 0 {
		l.fault("%d messages were acknowledged to a sender and never came to an ack-ok%s", missing, l.lost())
	}
	if len(l.faults) == 0 {
		return nil
	}
	return fmt.Errorf("ledger: %s", strings.Join(l.faults, "; "))
}
