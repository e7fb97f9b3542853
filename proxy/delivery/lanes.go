// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"slices"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// An ordered Consumer's messages come in batches: what was lent together of one queue (driver.Received.Batch). A lane is what the window knows of one queue.
// Its rules:
//
//   - A batch goes to one receiver, in order.
//   - What ends a message without an acknowledgement (nack, deadline, give-back) ends those behind it in its batch as well: an application must not be able to
//     settle a message while one before it is to come again. Their tokens are EXPIRED; those in front are not touched.
//   - The deadline of a batch is one: moving that of one message moves all of its lane.
//   - The broker is told of acknowledgements in order only. One that comes before those in front of it is kept here, and sent with them; when the batch comes
//     again because they never came, it is acknowledged without being delivered again. The other way round a broker that has lost its record of the batch
//     would move the group's position behind it, and lose what lies in front.
//   - The attempts of a message count only where it was the first of its batch that was not acknowledged. So a message that is never acknowledged does
//     not take those behind it into the dead-letter topic.

// laneKey names a queue.
type laneKey struct {
	topic, broker string
	queue         int
}

// lane is guarded by the window's mu.
type lane struct {
	laneKey
	// batch is what was lent last, from the offset start on. cut: something of it ended without an acknowledgement, so that no more of it is taken.
	batch uint64
	start int64
	cut   bool
	// chasing: a goroutine repeats an acknowledgement that failed; see ackAhead.
	chasing bool
	// recv is who the batch goes to; nil = nobody yet.
	recv *Receiver
	// flights are those of the batch of which the broker has no acknowledgement, in order. Among them may be some that ended: acknowledged by the
	// application (ahead), or given up by a dead-letter writer.
	flights []*flight
	// done are the offsets of those that are ahead, also after their batch has ended; uncounted is how many deliveries of each message did not count.
	done      map[int64]struct{}
	uncounted map[int64]int
}

// open reports whether an application may still have f, or get it.
func (f *flight) open() bool { return f.state != ended && f.state != burying }

// inLine reports whether f is of its lane's batch. Of an earlier one is what a call has acknowledged that has not come back.
func (f *flight) inLine() bool { return f.lane != nil && slices.Contains(f.lane.flights, f) }

func (w *Window) laneLocked(m *driver.Received) *lane {
	key := laneKey{m.Topic, m.Broker, m.Queue}
	l := w.lanes[key]
	if l == nil {
		l = &lane{laneKey: key, batch: m.Batch, start: m.Offset, done: map[int64]struct{}{}, uncounted: map[int64]int{}}
		w.lanes[key] = l
	}
	return l
}

// receiveInLineLocked is receiveLocked for a message of a batch.
func (w *Window) receiveInLineLocked(c *class, m *driver.Received, tooMany bool, now int64, e *effects) {
	l := w.laneLocked(m)
	if l.batch != m.Batch {
		w.nextBatchLocked(l, m, now, e)
	}
	until := w.steady(m.Deadline)
	switch {
	case until <= now:
		l.cut = true
		e.ended(Lapsed, 1)
		return
	case w.draining || tooMany || l.cut:
		l.cut = true
		e.giveBack = append(e.giveBack, m.Handle)
		return
	}
	w.lastID++
	f := &flight{id: w.lastID, msg: m, bytes: m.Bytes(), class: c, handle: m.Handle, deadline: m.Deadline, until: until, slot: -1, lane: l}
	f.stale, f.crowded = now+(until-now)/2, now
	// A broker forgets the count of what is not in a queue's next pop; then it is lower than what we know of.
	if n := min(l.uncounted[m.Offset], max(m.Attempt-1, 0)); n > 0 {
		l.uncounted[m.Offset] = n
		m.Attempt -= n
	} else {
		delete(l.uncounted, m.Offset)
	}
	first := !slices.ContainsFunc(l.flights, (*flight).open)
	l.flights = append(l.flights, f)
	if _, acked := l.done[m.Offset]; acked {
		f.state, f.ahead = ended, true
		e.passOn(l)
		return
	}
	if limit := w.settings.MaxDeliveryAttempts; limit > 0 && m.Attempt > limit && first {
		f.state = ended // it stays so in the lane when there is no room for another dead letter
		w.buryLocked(f, e)
		return
	}
	w.reasons.annotate(m)
	w.flights[f.id] = f
	w.bytes += f.bytes
	f.state = held
	c.held.push(f)
	w.placeFirstLocked(f, now, e)
}

// placeFirstLocked finds f, which has just come, a receiver, or decides how long it waits for one.
func (w *Window) placeFirstLocked(f *flight, now int64, e *effects) {
	r := f.lane.recv
	switch c := f.class; {
	case c.place(f):
		w.heap.push(f, f.stale)
	case r != nil && !r.hasCredit():
		w.heap.push(f, f.stale) // it follows when what is in front of it is settled
	case r != nil || c.head != nil:
		// It does not fit the byte credit of who could take it.
		f.crowded = now + (f.until-now)/4
		w.heap.push(f, f.crowded)
	default:
		w.returnLocked(f, now, e)
	}
}

// nextBatchLocked begins with another batch of l, whose first message is m. What lies before m is acknowledged, be it by a call that has not come back yet. The
// rest of the batch before is over, whatever we thought: the broker lends the queue to one at a time.
func (w *Window) nextBatchLocked(l *lane, m *driver.Received, now int64, e *effects) {
	passed := 0
	for ; passed < len(l.flights) && l.flights[passed].msg.Offset < m.Offset; passed++ {
		if f := l.flights[passed]; f.open() && f.op == nil {
			w.reasons.forget(f.msg)
			w.endLocked(f, notVoid, now)
			e.ended(Acked, 1)
		}
	}
	w.cutLocked(l, passed, cutting{first: voidLeaseOver, over: true, taken: true, counts: true}, now, e)
	l.batch, l.start, l.cut, l.recv, l.flights = m.Batch, m.Offset, false, nil, nil
	for offset := range l.done {
		if offset < m.Offset {
			delete(l.done, offset)
		}
	}
	for offset := range l.uncounted {
		if offset < m.Offset {
			delete(l.uncounted, offset)
		}
	}
}

// place is class.place for f in a lane: to its receiver, once all in front of it are placed.
func (l *lane) place(c *class, f *flight) bool {
	for _, x := range l.flights {
		if x == f {
			break
		}
		if x.state == held {
			return false
		}
	}
	r := l.recv
	if r == nil {
		for r = c.head; r != nil && !r.fits(f); r = r.next {
		}
	} else if !r.hasCredit() || !r.fits(f) {
		return false
	}
	if r == nil {
		return false
	}
	l.recv = r
	r.give(f)
	return true
}

// cutting says how a part of a lane ends.
type cutting struct {
	// first is why the tokens of the first are void; of those behind it, it is voidBehind.
	first voidReason
	// counts: this was a delivery of the first. The others' never count.
	counts bool
	// over: the leases have ended by themselves, or that of the first has; otherwise they are given back. taken: they were lent anew already.
	over, taken bool
}

// runs reports whether f's lease still holds its queue back.
func (how cutting) runs(f *flight, now int64) bool { return !how.taken && f.until > now }

// cutLocked ends what of l is at place from or behind it, but for dead letters, which are in front of all others.
func (w *Window) cutLocked(l *lane, from int, how cutting, now int64, e *effects) {
	if from < 0 || from >= len(l.flights) {
		return
	}
	kept := l.flights[:from:from]
	reason, counts := how.first, how.counts
	for _, f := range l.flights[from:] {
		switch {
		case f.state == burying:
			kept = append(kept, f)
			continue
		case f.open():
			w.endLocked(f, reason, now)
			if how.over {
				e.ended(Lapsed, 1)
			}
			if how.over && counts && f.state >= taken {
				w.reasons.put(f.msg, reasonExpired)
			}
			if how.over && !counts && !how.runs(f, now) {
				l.uncounted[f.msg.Offset]++ // drivers know of what they give back
			}
			reason, counts = voidBehind, false
		case !f.ahead:
			continue
		}
		switch {
		case !how.over && f.ahead, how.over && how.runs(f, now):
			e.release = append(e.release, f.handle) // it would hold the queue back
		case !how.over:
			e.giveBack = append(e.giveBack, f.handle)
		}
	}
	l.flights, l.cut = kept, true
}

// lapseInLineLocked ends f, whose deadline has passed, with what is behind it. A dead letter whose write fails leaves its place: what is behind it must not be
// acknowledged at the broker before it.
func (w *Window) lapseInLineLocked(f *flight, now int64, e *effects) {
	if f.state == burying || !f.inLine() {
		w.endLocked(f, voidShortened, now)
		e.ended(Lapsed, 1)
		return
	}
	first := slices.IndexFunc(f.lane.flights, func(x *flight) bool { return x == f || x.open() && x.until <= now })
	w.cutLocked(f.lane, first, cutting{first: voidShortened, over: true, counts: true}, now, e)
}

// returnInLineLocked gives f back with what is behind it.
func (w *Window) returnInLineLocked(f *flight, now int64, e *effects) {
	w.cutLocked(f.lane, slices.Index(f.lane.flights, f), cutting{first: voidGivenBack}, now, e)
}

// passedLocked takes f off its lane: the broker has its acknowledgement.
func (w *Window) passedLocked(f *flight) {
	l := f.lane
	if i := slices.Index(l.flights, f); i >= 0 {
		l.flights = slices.Delete(l.flights, i, i+1)
	}
	delete(l.done, f.msg.Offset)
	delete(l.uncounted, f.msg.Offset)
	if len(l.flights)+len(l.done)+len(l.uncounted) == 0 && !l.cut && w.lanes[l.laneKey] == l {
		delete(w.lanes, l.laneKey)
	}
}

// leaveLaneLocked parts a receiver that goes away from f, which it had not taken, and what is behind it. Another receiver gets them when none of the batch was
// taken; or else they go back, because who has the beginning may still be at it.
func (w *Window) leaveLaneLocked(f *flight, now int64, e *effects) {
	l := f.lane
	if slices.ContainsFunc(l.flights, func(x *flight) bool { return x.open() && x.state >= taken }) {
		w.returnLocked(f, now, e)
		return
	}
	l.recv = nil
	for _, x := range l.flights {
		if x.state == queued {
			w.detachLocked(x)
			x.state = held
			x.class.held.push(x)
		}
	}
	for _, x := range l.flights {
		if x.state != held {
			continue
		}
		if x.stale <= now || w.draining || !x.class.place(x) {
			if l.recv == nil {
				w.returnLocked(x, now, e)
			}
			return // what follows waits for its new receiver's credit
		}
	}
}
