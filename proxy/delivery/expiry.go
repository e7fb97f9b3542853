// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import "time"

// voidReason says why the tokens of an ended delivery are no good. Acknowledged deliveries have none: "not in flight, not void, deadline not
// passed" means acknowledged, so that the common case needs no memory.
type voidReason uint8

const (
	notVoid voidReason = iota
	voidNacked
	voidGivenBack
	voidShortened
	voidLeaseOver
	voidBehind
)

func (v voidReason) String() string {
	switch v {
	case voidNacked:
		return "given back by a nack"
	case voidGivenBack:
		return "given back because it could not be written to its receiver"
	case voidShortened:
		return "its deadline was moved to an earlier time, which has passed"
	case voidLeaseOver:
		return "the lease in RocketMQ had ended already"
	case voidBehind:
		return "a message before it in its queue comes again, and then this one"
	default:
		return ""
	}
}

// maxVoids bounds the memory of void tokens. Beyond it the oldest are forgotten, and unknown ids up to those count as expired.
const maxVoids = 65536

// now is the window's steady clock: Unix nanoseconds of its start plus monotonic time. A wall clock that is set back must not make a token
// whose delivery has expired look as if it had been acknowledged.
func (w *Window) now() int64 { return w.start.UnixNano() + int64(time.Since(w.start)) }

// steady is t on the window's steady clock.
func (w *Window) steady(t time.Time) int64 { return w.start.UnixNano() + int64(t.Sub(w.start)) }

// endLocked takes f out of the window and frees the credit. Its tokens become void for reason until the last of their deadlines.
func (w *Window) endLocked(f *flight, reason voidReason, now int64) {
	if f.state == ended {
		return
	}
	w.detachLocked(f)
	if f.state == burying {
		w.buryingN--
		w.buryingBytes -= f.bytes
	}
	f.state = ended
	f.lapsed = false
	delete(w.flights, f.id)
	w.bytes -= f.bytes
	w.heap.remove(f)
	if reason != notVoid && f.tokenUntil > now {
		w.voidLocked(f, reason)
	}
}

// detachLocked takes f off its list and gives its receiver the credit back.
func (w *Window) detachLocked(f *flight) {
	switch f.state {
	case held:
		f.class.held.remove(f)
	case queued:
		f.recv.queue.remove(f)
	case taken:
		f.recv.taken.remove(f)
	case written, burying, ended:
		// On no list.
	}
	if r := f.recv; r != nil {
		f.recv = nil
		r.outstanding--
		r.outstandingBytes -= f.bytes
		r.updateRing()
	}
}

// voidLocked remembers f's tokens as void. f keeps no message from here on.
func (w *Window) voidLocked(f *flight, reason voidReason) {
	v := &flight{id: f.id, generation: f.generation, state: ended, void: reason, slot: -1, delay: f.delay}
	w.voids[v.id] = v
	w.voidOrder.push(v)
	w.heap.push(v, f.tokenUntil)
	if w.voidOrder.n > maxVoids {
		oldest := w.voidOrder.head
		w.voidFloor = max(w.voidFloor, oldest.id)
		w.forgetVoidLocked(oldest)
	}
}

func (w *Window) forgetVoidLocked(v *flight) {
	delete(w.voids, v.id)
	w.voidOrder.remove(v)
	w.heap.remove(v)
}

// armLocked sets the timer to the next thing that is due. The timer is not moved to later times: it fires, finds nothing and is set again,
// about once per lease, which is cheaper than a timer call for each acknowledgement.
func (w *Window) armLocked() {
	if w.closed || len(w.heap) == 0 {
		return
	}
	at := w.heap[0].wake
	if w.armed != 0 && w.armed <= at {
		return
	}
	w.armed = at
	d := time.Duration(max(at-w.now(), 0))
	switch {
	case w.timer == nil:
		w.wg.Add(1)
		w.timer = time.AfterFunc(d, w.onTimer)
	case !w.timer.Reset(d):
		// It had fired: that call has its own count. An active timer's count carries over.
		w.wg.Add(1)
	}
}

// onTimer runs in a goroutine of its own for each firing; Close joins it.
func (w *Window) onTimer() {
	defer w.wg.Done()
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return
	}
	w.armed = 0
	e := effects{joined: true}
	w.sweepLocked(&e)
	w.refillLocked()
	w.unlockAnd(&e)
}

// sweepLocked does what is due.
func (w *Window) sweepLocked(e *effects) {
	now := w.now()
	for len(w.heap) > 0 && w.heap[0].wake <= now {
		f := w.heap[0]
		switch {
		case f.void != notVoid:
			w.forgetVoidLocked(f)
		case f.until <= now:
			w.lapseLocked(f, now, e)
		case f.state == burying:
			w.exhumeLocked(f, now)
		case f.state >= taken:
			w.heap.reschedule(f, f.until)
		case f.stale <= now:
			w.returnLocked(f, now, e)
		default:
			// A held one that has stopped the fetching long enough; refillLocked starts it again.
			w.heap.reschedule(f, f.stale)
		}
	}
}

// lapseLocked ends a delivery whose deadline has passed. A driver call that can prolong or finish it decides instead, when it ends.
func (w *Window) lapseLocked(f *flight, now int64, e *effects) {
	if f.digging || f.op != nil && f.op.kind == ActionModify {
		f.lapsed = true
		w.heap.remove(f)
		return
	}
	if f.lane != nil {
		w.lapseInLineLocked(f, now, e)
		return
	}
	if f.state >= taken {
		w.reasons.put(f.msg, reasonExpired)
	}
	w.endLocked(f, voidShortened, now)
	e.ended(Lapsed, 1)
}

// returnLocked ends a delivery that no application has seen, and has it given back.
func (w *Window) returnLocked(f *flight, now int64, e *effects) {
	if f.state != burying && f.inLine() {
		w.returnInLineLocked(f, now, e)
		return
	}
	w.endLocked(f, voidGivenBack, now)
	e.giveBack = append(e.giveBack, f.handle)
}
