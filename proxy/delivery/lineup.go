// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"slices"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// lineUp makes an operation's claims fit the order of their lanes. What the lanes' rules add to it are answerings without a result (index < 0); what must wait
// goes into others; what is answered already leaves the claims.
type lineUp struct {
	*Window
	op      *operation
	results []Result
	now     int64
	e       *effects

	mine   map[*flight]*answering
	kept   []*answering
	others []waiting
}

// lineUpLocked is called at the end of claim.
func (w *Window) lineUpLocked(op *operation, claimed []*answering, others []waiting, results []Result, now int64, e *effects) ([]*answering, []waiting) {
	u := &lineUp{Window: w, op: op, results: results, now: now, e: e, others: others}
	var lanes []*lane
	for _, a := range claimed {
		if a.flight == nil || !a.flight.inLine() {
			u.kept = append(u.kept, a)
			continue
		}
		if u.mine == nil {
			u.mine = make(map[*flight]*answering)
		}
		u.mine[a.flight] = a
		if !slices.Contains(lanes, a.flight.lane) {
			lanes = append(lanes, a.flight.lane)
		}
	}
	for _, l := range lanes {
		switch op.kind {
		case ActionAck:
			u.ack(l)
		case ActionNack:
			u.nack(l)
		case ActionModify:
			u.modify(l)
		}
	}
	return u.kept, u.others
}

// take adds x to the operation, though nobody asked for it.
func (u *lineUp) take(x *flight) *answering {
	x.op = u.op
	a := &answering{index: -1, flight: x, handle: x.handle}
	u.kept = append(u.kept, a)
	return a
}

// wait gives a's claim up until another operation is over.
func (u *lineUp) wait(a *answering, other *operation) {
	a.flight.op = nil
	if other.done == nil {
		other.done = make(chan struct{})
	}
	u.others = append(u.others, waiting{a: a, f: a.flight, behind: true, done: other.done})
}

// ack keeps the claims in front of which nothing is that is not acknowledged, with what others have acknowledged out of order behind them. A claim further
// behind waits for an operation on what is in front of it, or else is answered here: the broker gets it when its turn comes.
func (u *lineUp) ack(l *lane) {
	front := true
	var ahead []*flight
	var other *operation
	for _, x := range l.flights {
		a := u.mine[x]
		switch {
		case front && a != nil:
			u.kept = append(u.kept, a)
		case front && x.op == nil && (x.ahead || x.asked && x.open()):
			u.take(x)
		case a == nil && front:
			front, other = false, x.op
		case a == nil:
		case other != nil:
			x.asked = true
			u.wait(a, other)
		default:
			ahead = append(ahead, x)
		}
	}
	for _, x := range ahead {
		a := u.mine[x]
		x.op, x.ahead = nil, true
		l.done[x.msg.Offset] = struct{}{}
		u.reasons.forget(x.msg)
		u.endLocked(x, notVoid, u.now)
		u.e.ended(Acked, 1)
		u.results[a.index].set(OK, "")
	}
}

// nack takes along what is behind the first claim, with its delay.
func (u *lineUp) nack(l *lane) {
	var first *answering
	for _, x := range u.from(l, &first) {
		if a := u.along(x); a != nil {
			a.delay = first.delay
		}
	}
}

// modify takes the whole lane along, to the latest of the times that were asked for.
func (u *lineUp) modify(l *lane) {
	var first *answering
	if u.from(l, &first) == nil {
		return
	}
	lease := first.lease
	for _, x := range l.flights {
		if a := u.mine[x]; a != nil {
			lease = max(lease, a.lease)
		}
	}
	for _, x := range l.flights {
		if a := u.along(x); a != nil {
			a.lease = lease
		}
	}
}

// along makes x part of the answer, claimed or not; nil = something else is under way for it.
func (u *lineUp) along(x *flight) *answering {
	a := u.mine[x]
	switch {
	case a != nil:
		u.kept = append(u.kept, a)
	case x.open() || x.ahead:
		a = u.take(x)
	}
	return a
}

// from is l from its first claim on, which it tells. nil = an operation of others is at work in what this one concerns: the claims wait for it.
func (u *lineUp) from(l *lane, first **answering) []*flight {
	at := slices.IndexFunc(l.flights, func(x *flight) bool { return u.mine[x] != nil })
	*first = u.mine[l.flights[at]]
	concerned := l.flights[at:]
	if u.op.kind == ActionModify {
		concerned = l.flights
	}
	i := slices.IndexFunc(concerned, func(x *flight) bool { return x.op != nil && x.op != u.op })
	if i < 0 {
		return l.flights[at:]
	}
	for _, x := range l.flights[at:] {
		if a := u.mine[x]; a != nil {
			u.wait(a, concerned[i].op)
		}
	}
	return nil
}

// settleInLineLocked is what the driver's answer about a means for its lane; the token itself is answered by settleOneLocked.
func (w *Window) settleInLineLocked(kind Action, a *answering, r *Result, live bool, now int64, e *effects) {
	f, l := a.flight, a.flight.lane
	switch {
	case a.err != nil:
	case kind == ActionAck:
		l.ackedLocked(w, f, e)
	case kind == ActionNack:
		i := slices.Index(l.flights, f)
		if i < 0 {
			return // the batch is over
		}
		l.flights = slices.Delete(l.flights, i, i+1)
		l.cut = true
		e.cutBehind(l, i)
		if a.index < 0 && live {
			w.endLocked(f, voidBehind, now)
			e.ended(Nacked, 1)
		}
		if a.index < 0 {
			l.uncounted[f.msg.Offset]++
		}
	case live && a.index < 0:
		f.handle, f.deadline, f.lapsed = a.renewed, a.deadline, false
		f.until = w.steady(a.deadline)
		if f.state < taken {
			f.stale = now + (f.until-now)/2
		}
		w.heap.reschedule(f, f.until)
	case f.ahead:
		f.handle, f.until = a.renewed, w.steady(a.deadline)
	case !live:
		// It was cut off meanwhile, and must not hold its queue back.
		r.set(Expired, voidBehind.String())
		e.release = append(e.release, a.renewed)
	}
}

// ackedLocked is what the broker's acknowledgement of f means. Where something in front of f has failed, the broker delivers f again with it.
func (l *lane) ackedLocked(w *Window, f *flight, e *effects) {
	switch i := slices.Index(l.flights, f); {
	case i == 0:
		f.ahead = false
		w.passedLocked(f)
		e.passOn(l)
	case i > 0:
		f.ahead = true
		l.done[f.msg.Offset] = struct{}{}
	case f.msg.Offset >= l.start && !slices.ContainsFunc(l.flights, func(x *flight) bool { return x.msg.Offset == f.msg.Offset }):
		l.done[f.msg.Offset] = struct{}{} // its batch was cut off meanwhile
	}
}

// cutBehind says that what is at place i of l, or behind it, ends with what was in front of it.
func (e *effects) cutBehind(l *lane, i int) {
	if e.cuts == nil {
		e.cuts = make(map[*lane]int)
	}
	if at, known := e.cuts[l]; !known || i < at {
		e.cuts[l] = i
	}
}

// passOn says that the first of l may be one that was acknowledged before its turn, which the broker can be told of now.
func (e *effects) passOn(l *lane) {
	if !slices.Contains(e.chain, l) {
		e.chain = append(e.chain, l)
	}
}

// ackAhead tells the broker of what is at the front of l and was acknowledged before its turn. The caller has counted it in wg and givingBack. When it fails it
// is tried again while the leases last: nobody else will.
func (w *Window) ackAhead(l *lane) {
	defer w.wg.Done()
	failed := w.tryAhead(l)
	w.mu.Lock()
	w.givingBack--
	again := failed && !l.chasing && !w.closed
	if again {
		l.chasing = true
		w.givingBack++
		w.wg.Add(1)
		go w.chase(l)
	}
	w.unlockAnd(&effects{})
}

// chase repeats tryAhead until there is nothing more to do.
func (w *Window) chase(l *lane) {
	defer w.wg.Done()
	for tries := 1; ; tries++ {
		driver.Sleep(w.life, backOff(tries))
		if !w.tryAhead(l) {
			break
		}
	}
	w.mu.Lock()
	l.chasing = false
	w.givingBack--
	w.unlockAnd(&effects{})
}

// tryAhead makes one acknowledgement. It reports whether another one makes sense.
func (w *Window) tryAhead(l *lane) (failed bool) {
	ctx, cancel := context.WithTimeout(w.life, giveBackTimeout)
	defer cancel()
	op := w.begin(ctx, ActionAck)
	if op == nil {
		return false
	}
	w.mu.Lock()
	u := &lineUp{Window: w, op: op}
	u.ack(l)
	w.mu.Unlock()
	if len(u.kept) == 0 {
		w.end(op)
		return false
	}
	w.callDriver(op, u.kept)
	for _, a := range u.kept {
		failed = failed || a.err != nil && driver.Retryable(a.err)
	}
	w.settle(op, u.kept, nil)
	return failed
}
