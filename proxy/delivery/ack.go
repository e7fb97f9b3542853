// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/retry"
)

const (
	// maxNackDelay is the longest delay that Nack asks for.
	maxNackDelay = retry.MaxDelay
	// answersAtOnce bounds the driver calls of one Nack or Modify that run side by side.
	answersAtOnce = 8
	// maxRounds bounds how often one call waits for other calls on the same token.
	maxRounds = 8
	// clockTolerance is how far another window's clock may be from ours. Its deadlines are a first filter only: before that is over, whoever
	// knows better is asked, which is the driver by the broker's clock, or the window that made the token.
	clockTolerance = time.Minute

	detailReplaced = "the client that delivered it was replaced on this host; the message comes again"
	detailShutdown = "this host is shutting the consumer down; send it again, to another host"
)

// Action is what is done with a token.
type Action uint8

// The actions.
const (
	ActionAck Action = iota
	ActionNack
	ActionModify
)

// operation is one Ack, Nack or Modify call with the driver calls that it makes. Flights point to it while it runs, so that each flight has
// one driver call at a time. All fields but kind and ctx are guarded by mu.
type operation struct {
	kind   Action
	ctx    context.Context
	cancel context.CancelFunc
	// done is made by the first who waits, and closed at the end.
	done chan struct{}
	// shared: somebody will want the answers.
	shared bool
}

// answering is one token on its way through an operation.
type answering struct {
	// index of its token and result; -1 = nobody asked for it, see lineUp.
	index   int
	content content
	// asked is what the caller asked for: delay of a Nack, lease of a Modify; those two are clamped. The delay is set by claim when it is left to
	// the window.
	asked        SettlementItem
	delay, lease time.Duration

	// flight is the claimed one, nil for a delivery that this window has no record of; handle is what the driver is called with.
	flight *flight
	handle driver.Handle

	// What the driver said.
	err       error
	effective time.Duration
	renewed   driver.Handle
	deadline  time.Time
	// live: the window keeps the record of the renewed delivery.
	live bool
	// own is the result of what nobody asked for.
	own Result
}

// result is where a's answer goes.
func (a *answering) result(results []Result) *Result {
	if a.index < 0 {
		return &a.own
	}
	return &results[a.index]
}

// Ack acknowledges. It answers one result per token, in order; many tokens make one call of the driver. It waits for that call: OK means
// what Capabilities.AckConfirmed says. A repeated ack of a token is OK until the token's deadline; concurrent ones share one call.
func (w *Window) Ack(ctx context.Context, tokens []string) []Result {
	return w.answer(ctx, ActionAck, len(tokens), func(i int) SettlementItem { return SettlementItem{Token: tokens[i]} })
}

// Nack gives deliveries back, to come again after about their delay (0 to 2 h; other values are clamped) with the attempt raised. The
// results show the effective delays. A repeated nack of a token is OK until the token's deadline.
func (w *Window) Nack(ctx context.Context, nacks []Nack) []Result {
	return w.answer(ctx, ActionNack, len(nacks), func(i int) SettlementItem {
		n := &nacks[i]
		return SettlementItem{Token: n.Token, Duration: n.Delay, ByBackoff: n.ByBackoff, Reason: n.Reason}
	})
}

// Modify moves deadlines to now + AckDeadline (1 s to MaxLease; other values are clamped). The results show the new tokens, which alone are
// good from then on, and the real deadlines.
func (w *Window) Modify(ctx context.Context, mods []Modify) []Result {
	return w.answer(ctx, ActionModify, len(mods), func(i int) SettlementItem {
		return SettlementItem{Token: mods[i].Token, Duration: mods[i].AckDeadline}
	})
}

// answer is the way of all three: open and judge the tokens; ask the hosts that made those of others; claim, call the driver and settle for the rest,
// which may be what a host that is gone has left.
func (w *Window) answer(ctx context.Context, kind Action, n int, item func(int) SettlementItem) []Result {
	results := make([]Result, n)
	todo := make([]*answering, 0, n)
	space := make([]answering, n)
	var away *errands
	for i := range n {
		asked := item(i)
		results[i].Token = asked.Token
		a := &space[i]
		a.index, a.asked, a.delay, a.lease = i, asked, min(max(asked.Duration, 0), maxNackDelay), asked.Duration
		switch w.judge(asked.Token, a, &results[i]) {
		case here:
			todo = append(todo, a)
		case elsewhere:
			away = away.with(a)
		case answered:
		}
	}
	away.send(ctx, w, kind, results)
	w.rounds(ctx, kind, todo, results)
	w.rounds(ctx, kind, away.back(), results)
	return results
}

// rounds claims, calls the driver and settles. A further round is needed only for tokens on which another call was at work.
func (w *Window) rounds(ctx context.Context, kind Action, todo []*answering, results []Result) {
	for round := 0; len(todo) > 0; round++ {
		if round == maxRounds {
			for _, a := range todo {
				results[a.index].set(Retry, "other calls are at work on the same delivery")
			}
			return
		}
		todo = w.round(ctx, kind, todo, results)
	}
}

func (r *Result) set(o Outcome, detail string) { r.Outcome, r.Detail = o, detail }

// judgement is what becomes of a token after it was opened.
type judgement uint8

const (
	// answered: its result is there.
	answered judgement = iota
	// here: it goes to the table and the driver.
	here
	// elsewhere: the process that made it is asked.
	elsewhere
)

// judge opens a token.
func (w *Window) judge(token string, a *answering, r *Result) judgement {
	c, err := w.sealer.openContent(token, w.origin)
	switch {
	case errors.Is(err, errKeyPending):
		r.set(Retry, "the token was "+err.Error())
		return answered
	case errors.Is(err, errUnknownKey):
		r.set(Expired, "the token was "+err.Error())
		return answered
	case err != nil:
		r.set(Invalid, err.Error())
		return answered
	case c.foreign != nil && c.foreign.ConsumerUID != w.origin.ConsumerUID:
		r.set(Invalid, "an ack token of another Consumer")
		return answered
	}
	a.content, a.handle = c, c.handle
	switch {
	case w.ordered && c.foreign == nil && c.id != 0:
		return here // its deadline may have been moved with another one's
	case w.isOver(&c):
		r.set(Expired, "the ack deadline has passed")
	case c.foreign == nil && c.id != 0:
		return here
	case c.foreign != nil && c.foreign.Host != w.origin.Host && w.peers != nil:
		return elsewhere
	case w.caps.AckFromAnyHost:
		return here
	default:
		w.judgeForeign(c.foreign, r)
	}
	return answered
}

// isOver reports whether the token's deadline has passed for certain.
func (w *Window) isOver(c *content) bool {
	now := w.now()
	if c.foreign != nil {
		now -= int64(clockTolerance)
	}
	return c.deadline <= now
}

// judgeForeign answers for a delivery of another window, nil = one that was replaced, with a driver that must be asked on the host that fetched.
func (w *Window) judgeForeign(from *foreignOrigin, r *Result) {
	switch {
	case from == nil, from.Host == w.origin.Host && from.Incarnation == w.origin.Incarnation:
		r.set(Expired, detailReplaced)
	case from.Host == w.origin.Host:
		r.set(Expired, "delivered by an earlier process of host "+from.Host+"; the message comes again")
	default:
		r.set(Retry, "delivered by host "+from.Host+"; send it there")
	}
}

// waiting is a token on which another operation is at work.
type waiting struct {
	a    *answering
	f    *flight
	kind Action
	// done is closed at that operation's end; nil when it is the caller's own, which has a token twice.
	done <-chan struct{}
	// behind: the operation is on what is in front of it in its lane, and its answer is for that.
	behind bool
	// twin is the same token earlier in the same call, of a delivery that this window has no record of.
	twin *answering
}

// likeTwin answers for the second of two equal tokens in one call, as for one that came after the first.
func (r *Result) likeTwin(first Result, kind Action) {
	token := r.Token
	*r = first
	r.Token = token
	if kind == ActionModify && first.Outcome == OK {
		*r = Result{Token: token, Outcome: Expired, Detail: "replaced by a newer token"}
	}
}

// round claims what can be claimed, calls the driver, settles, and answers what has to be looked at again.
func (w *Window) round(ctx context.Context, kind Action, todo []*answering, results []Result) (again []*answering) {
	op := w.begin(ctx, kind)
	if op == nil {
		for _, a := range todo {
			results[a.index].set(Retry, detailShutdown)
		}
		return nil
	}
	claimed, others := w.claim(op, todo, results)
	w.callDriver(op, claimed)
	w.settle(op, claimed, results)
	if kind == ActionModify {
		w.sealRenewed(claimed, results)
	}
	for _, o := range others {
		if o.twin != nil {
			results[o.a.index].likeTwin(results[o.twin.index], kind)
			continue
		}
		if w.await(ctx, o, kind, &results[o.a.index]) {
			again = append(again, o.a)
		}
	}
	return again
}

// begin registers an operation, so that Close can end and join it; nil after Close.
func (w *Window) begin(ctx context.Context, kind Action) *operation {
	op := &operation{kind: kind}
	op.ctx, op.cancel = context.WithCancel(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		op.cancel()
		return nil
	}
	w.wg.Add(1)
	w.ops[op] = struct{}{}
	return op
}

// claim finds each token's delivery and reserves it for op.
func (w *Window) claim(op *operation, todo []*answering, results []Result) (claimed []*answering, others []waiting) {
	claimed = todo[:0]
	// Of these no flight tells that a call has one twice, and the driver must be called once: a second nack or extension with one handle makes the message
	// come twice.
	var strangers map[driver.Handle]*answering
	var e effects
	w.mu.Lock()
	now := w.now()
	for _, a := range todo {
		f := w.flights[a.content.id]
		switch {
		case a.content.foreign != nil || a.content.id == 0:
			if twin := strangers[a.handle]; twin != nil {
				others = append(others, waiting{a: a, twin: twin})
				continue
			}
			if strangers == nil {
				strangers = map[driver.Handle]*answering{}
			}
			strangers[a.handle] = a
			claimed = append(claimed, a)
		case a.content.deadline <= now && (f == nil || f.lane == nil || f.until <= now):
			results[a.index].set(Expired, "the ack deadline has passed")
		case f == nil:
			w.endedLocked(op.kind, a.content, &results[a.index])
		case f.generation != a.content.generation:
			results[a.index].set(Expired, "replaced by a newer token")
		case f.op != nil:
			if f.op != op && f.op.done == nil {
				f.op.done = make(chan struct{})
			}
			f.op.shared = true
			other := waiting{a: a, f: f, kind: f.op.kind}
			if f.op != op {
				other.done = f.op.done
			}
			others = append(others, other)
		default:
			f.op = op
			a.flight, a.handle = f, f.handle
			claimed = append(claimed, a)
		}
	}
	for _, a := range claimed {
		switch {
		case op.kind == ActionModify:
			a.lease = min(max(a.lease, minLease), w.settings.MaxLease)
		case op.kind == ActionNack && a.asked.ByBackoff:
			a.delay = w.settings.RetryBackoff.After(a.attempt())
		}
		if op.kind == ActionNack && a.flight != nil {
			// Now: the message may be here again before the driver's answer is. Whatever else ends the delivery overwrites it.
			w.reasons.put(a.flight.msg, nackReason(a.asked.Reason))
		}
	}
	if w.ordered {
		claimed, others = w.lineUpLocked(op, claimed, others, results, now, &e)
		w.refillLocked()
	}
	w.unlockAnd(&e)
	return claimed, others
}

// attempt is which delivery of the message it is.
func (a *answering) attempt() int {
	if a.flight != nil {
		return a.flight.msg.Attempt
	}
	return a.content.attempt
}

// endedLocked answers for a delivery that is not in flight any more although its token's deadline has not passed.
func (w *Window) endedLocked(kind Action, c content, r *Result) {
	v := w.voids[c.id]
	switch {
	case v != nil && v.void == voidNacked && kind == ActionNack && v.generation == c.generation:
		r.set(OK, "")
		r.EffectiveDelay = v.delay
	case v != nil:
		r.set(Expired, v.void.String())
	case c.id <= w.voidFloor:
		r.set(Expired, "no longer known on this host")
	case kind == ActionAck:
		r.set(OK, "")
	default:
		r.set(Expired, "acknowledged already")
	}
}

// callDriver makes op's driver calls: one for all acks, one each, a few at a time, for the others.
func (w *Window) callDriver(op *operation, claimed []*answering) {
	if len(claimed) == 0 {
		return
	}
	switch op.kind {
	case ActionAck:
		handles := make([]driver.Handle, len(claimed))
		for i, a := range claimed {
			handles[i] = a.handle
		}
		for i, err := range w.callAck(op.ctx, handles) {
			claimed[i].err = err
		}
	case ActionNack:
		each(claimed, func(a *answering) { a.effective, a.err = w.callNack(op.ctx, a.handle, a.delay) })
	case ActionModify:
		each(claimed, func(a *answering) { a.renewed, a.deadline, a.err = w.callExtend(op.ctx, a.handle, a.lease) })
	}
}

// each calls fn for all, at most answersAtOnce side by side, and returns when all have returned.
func each(all []*answering, fn func(*answering)) {
	if len(all) == 1 {
		fn(all[0])
		return
	}
	var wg sync.WaitGroup
	next := make(chan *answering)
	for range min(answersAtOnce, len(all)) {
		wg.Go(func() {
			for a := range next {
				fn(a)
			}
		})
	}
	for _, a := range all {
		next <- a
	}
	close(next)
	wg.Wait()
}

// settle writes what the driver said into the window and the results, and ends op.
func (w *Window) settle(op *operation, claimed []*answering, results []Result) {
	w.mu.Lock()
	var e effects
	now := w.now()
	for _, a := range claimed {
		r := a.result(results)
		w.settleOneLocked(op.kind, a, r, now, &e)
		if f := a.flight; f != nil {
			if f.op = nil; op.shared {
				answer := *r
				f.answer = &answer
			}
			if f.lapsed {
				w.lapseLocked(f, now, &e)
			}
		}
	}
	for l, i := range e.cuts {
		w.cutLocked(l, i, cutting{first: voidBehind, over: true}, now, &e)
	}
	delete(w.ops, op)
	op.cancel()
	if op.done != nil {
		close(op.done)
	}
	w.refillLocked()
	w.unlockAnd(&e)
	w.wg.Done()
}

func (w *Window) settleOneLocked(kind Action, a *answering, r *Result, now int64, e *effects) {
	f := a.flight
	live := f != nil && f.state != ended
	if f != nil && f.lane != nil {
		defer w.settleInLineLocked(kind, a, r, live, now, e)
	}
	switch {
	case a.err != nil:
		over := w.explain(a.err, r)
		if over && live && f.lane != nil {
			w.cutLocked(f.lane, slices.Index(f.lane.flights, f), cutting{first: voidLeaseOver, over: true, counts: true}, now, e)
			return
		}
		if over && live {
			w.reasons.put(f.msg, reasonExpired)
			w.endLocked(f, voidLeaseOver, now)
			e.ended(Lapsed, 1)
		}
	case kind == ActionAck:
		r.set(OK, "")
		if live {
			w.reasons.forget(f.msg)
			w.endLocked(f, notVoid, now)
			e.ended(Acked, 1)
		}
	case kind == ActionNack:
		r.set(OK, "")
		r.EffectiveDelay = a.effective
		if live && a.index >= 0 {
			f.delay = a.effective
			w.endLocked(f, voidNacked, now)
			e.ended(Nacked, 1)
		}
	case kind == ActionModify:
		r.set(OK, "")
		r.Deadline = a.deadline
		if live && a.index >= 0 {
			w.renewLocked(f, a)
		}
	}
}

// explain answers for a driver's error, and reports whether the lease is over for certain.
func (w *Window) explain(err error, r *Result) bool {
	switch driver.ReasonOf(err) {
	case driver.LeaseExpired:
		r.set(Expired, "the lease in RocketMQ has ended; the message comes, or came, again")
		return true
	case driver.InvalidHandle:
		r.set(Expired, "the client that delivered it is gone; the message comes, or came, again")
		return true
	default:
		detail := fmt.Sprintf("the effect is unknown: %v", err)
		if w.life.Err() != nil {
			detail = detailShutdown
		}
		r.set(Retry, detail)
		return false
	}
}

// renewLocked gives f its new lease and makes its earlier tokens void.
func (w *Window) renewLocked(f *flight, a *answering) {
	f.generation++
	f.handle, f.deadline = a.renewed, a.deadline
	f.until = w.steady(a.deadline)
	f.tokenUntil = max(f.tokenUntil, f.until)
	f.lapsed = false
	w.heap.reschedule(f, f.until)
	a.live = true
	a.content = content{id: f.id, generation: f.generation, attempt: f.msg.Attempt, deadline: f.until, handle: f.handle}
}

// sealRenewed makes the new tokens, outside the lock. One of a delivery that this window has no record of says id 0: whoever gets it asks
// the driver.
func (w *Window) sealRenewed(claimed []*answering, results []Result) {
	for _, a := range claimed {
		r := a.result(results)
		if a.index < 0 || r.Outcome != OK {
			continue
		}
		c := a.content
		if !a.live {
			c = content{attempt: a.content.attempt, deadline: w.steady(a.deadline), handle: a.renewed}
		}
		token, err := w.sealer.sealContent(w.origin.prefix, &c)
		if err != nil {
			w.log.Error(err, "could not make an ack token after the deadline was moved; the message comes again at the new deadline")
			r.set(Expired, err.Error())
			continue
		}
		r.NewToken = token
	}
}

// await waits for another operation on the same delivery. An ack or nack shares the answer of another of its kind; everything else is looked
// at again afterwards, which await reports.
func (w *Window) await(ctx context.Context, o waiting, kind Action, r *Result) (again bool) {
	if o.done != nil {
		select {
		case <-o.done:
		case <-ctx.Done():
			r.set(Retry, "another call on the same delivery is still under way")
			return false
		}
	}
	if o.behind || o.kind != kind || kind == ActionModify {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	token := r.Token
	*r = *o.f.answer
	r.Token = token
	return false
}
