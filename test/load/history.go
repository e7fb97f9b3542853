// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// eventKind is what happened to a message.
type eventKind uint8

const (
	tried eventKind = iota
	sent
	delivered
	acked
	unknown
)

// event is small: a long test has millions. Times are ms since the ledger began.
type event struct {
	at     uint32
	stored int32
	host   uint16
	kind   eventKind
	// attempt is at most 255.
	attempt uint8
}

func (l *Ledger) since(at time.Time) uint32 { return uint32(max(at.Sub(l.began).Milliseconds(), 0)) }

// note wants mu held, as host and story.
func (l *Ledger) note(e *entry, ev event) {
	if ev.at == 0 {
		ev.at = l.since(time.Now())
	}
	if e.history == nil {
		e.history = make([]event, 0, 4) // what most come to
	}
	e.history = append(e.history, ev)
}

// host is the place of a host's name, of which there are few.
func (l *Ledger) host(name string) uint16 {
	i := slices.Index(l.hosts, name)
	if i < 0 {
		i = len(l.hosts)
		l.hosts = append(l.hosts, name)
	}
	return uint16(i)
}

// Copy is one of the copies of a message that RocketMQ stored for its senders.
type Copy struct {
	Queue  int
	Offset int64
	Stored time.Time
}

// Repeats say why messages were acknowledged more than once.
type Repeats struct {
	// Again counts acks that were confirmed although the message had been acknowledged already: it came again after its ack-ok, or the ack-ok was not true.
	// Told has the history of the first ten.
	Again int
	Told  []string
	// Copied counts ids that RocketMQ has more than once; CopiedByProxy those of them that were sent by one try, so that the proxy repeated it.
	Copied, CopiedByProxy int
}

// Repeats looks at each message that was acknowledged more than once. copies looks up what RocketMQ has stored of an id. Each copy may be acknowledged
// once: a repeated send leaves several, and each of them is delivered. A broker that was killed forgets acks.
func (l *Ledger) Repeats(copies func(id string) ([]Copy, error)) (Repeats, error) {
	var r Repeats
	for id := range l.ackedTwice() {
		stored, err := copies(id)
		if err != nil {
			return r, err
		}
		l.mu.Lock()
		e := l.entries[id]
		if more := e.ackOKs - len(stored); more > 0 {
			if r.Again += more; len(r.Told) < 10 {
				r.Told = append(r.Told, l.story(id, e, stored))
			}
		}
		if len(stored) > 1 {
			if r.Copied++; e.sends() == 1 {
				r.CopiedByProxy++
			}
		}
		l.mu.Unlock()
	}
	slices.Sort(r.Told)
	return r, nil
}

// sends is how often the id was sent.
func (e *entry) sends() (n int) {
	for _, ev := range e.history {
		if ev.kind == tried {
			n++
		}
	}
	return n
}

// ackedTwice are the ids with more than one ack-ok.
func (l *Ledger) ackedTwice() map[string]struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := map[string]struct{}{}
	for id, e := range l.entries {
		if e.ackOKs > 1 {
			ids[id] = struct{}{}
		}
	}
	return ids
}

// lost tells the first messages that are missing.
func (l *Ledger) lost() string {
	var told []string
	for id, e := range l.entries {
		if len(told) == 10 {
			break
		}
		if e.sendOK && e.ackOKs == 0 && e.ackUnknown.IsZero() {
			told = append(told, l.story(id, e, nil))
		}
	}
	slices.Sort(told)
	return "\n" + strings.Join(told, "\n")
}

// story is all that is known of a message, in the order in which it happened, in seconds since the ledger began.
func (l *Ledger) story(id string, e *entry, copies []Copy) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ledger began at %s;", id, l.began.Format("15:04:05.000"))
	for i, c := range copies {
		fmt.Fprintf(&b, " copy %d in queue %d at %d, stored %.3f;", i+1, c.Queue, c.Offset, c.Stored.Sub(l.began).Seconds())
	}
	history := slices.Clone(e.history)
	slices.SortStableFunc(history, func(a, b event) int { return int(a.at) - int(b.at) })
	for _, ev := range history {
		at := float64(ev.at) / 1000
		switch ev.kind {
		case tried:
			fmt.Fprintf(&b, " %.3f send;", at)
		case sent:
			fmt.Fprintf(&b, " %.3f send-ok;", at)
		case delivered:
			fmt.Fprintf(&b, " %.3f attempt %d by %s, stored %.3f;", at, ev.attempt, l.hosts[ev.host], float64(ev.stored)/1000)
		case acked:
			fmt.Fprintf(&b, " %.3f ack-ok by %s;", at, l.hosts[ev.host])
		case unknown:
			fmt.Fprintf(&b, " %.3f token over without a clear answer;", at)
		}
	}
	return strings.TrimSuffix(b.String(), ";")
}
