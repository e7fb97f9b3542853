// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Peers asks the other hosts of the operator. Safe for concurrent use.
type Peers interface {
	// Settle has the process that made the tokens answer for them, one result per item, in order. It blocks until ctx ends at the longest, and should
	// end much sooner. Errors (errors.Is): ErrPeerGone and ErrNotAsked mean that nothing was done; after any other it is not known whether it was.
	Settle(ctx context.Context, host, incarnation string, s Settlement) ([]Result, error)
}

// What Peers.Settle says when nothing was done.
var (
	// ErrPeerGone: that process has ended, or its window has. It answers for nothing any more.
	ErrPeerGone = errors.New("it is gone")
	// ErrNotAsked: it may live, and was not asked.
	ErrNotAsked = errors.New("it cannot be asked at present")
)

// Settlement is a question to the window that made some tokens.
type Settlement struct {
	ConsumerUID string
	Action      Action
	Items       []SettlementItem
}

// SettlementItem is one token of a Settlement.
type SettlementItem struct {
	Token string
	// Duration is the delay of a Nack, or the time from now to the new deadline of a Modify.
	Duration time.Duration
	// ByBackoff and Reason are those of a Nack.
	ByBackoff bool
	Reason    string
}

// Settle answers what the window of another host asks; see Peers. It is Ack, Nack or Modify.
func (w *Window) Settle(ctx context.Context, s Settlement) []Result {
	return w.answer(ctx, s.Action, len(s.Items), func(i int) SettlementItem { return s.Items[i] })
}

// maxItems is how many tokens one question has, at most: as many as a call. A stream's acknowledgements gather to more than that, and one question with
// all of them might neither fit into a request nor be answered in time.
const maxItems = 1000

// errand is tokens of one call that one other process has made, up to maxItems.
type errand struct {
	from  *foreignOrigin
	items []*answering
	// left are those for which it does not answer; the driver is asked instead.
	left []*answering
}

// errands are what one call asks of other hosts; nil = nothing, as for nearly every call.
type errands struct {
	all   []*errand
	under sync.WaitGroup
}

// with adds a token to an errand to its maker.
func (e *errands) with(a *answering) *errands {
	if e == nil {
		e = &errands{}
	}
	from := a.content.foreign
	for _, r := range e.all {
		if r.from.Host == from.Host && r.from.Incarnation == from.Incarnation && len(r.items) < maxItems {
			r.items = append(r.items, a)
			return e
		}
	}
	e.all = append(e.all, &errand{from: from, items: []*answering{a}})
	return e
}

// send asks all of them, side by side. The goroutines write only the results of their own tokens; back joins them.
func (e *errands) send(ctx context.Context, w *Window, kind Action, results []Result) {
	if e == nil {
		return
	}
	for _, r := range e.all {
		e.under.Go(func() { w.runErrand(ctx, kind, r, results) })
	}
}

// back waits for all, and answers the tokens for which nobody has answered.
func (e *errands) back() (left []*answering) {
	if e == nil {
		return nil
	}
	e.under.Wait()
	for _, r := range e.all {
		left = append(left, r.left...)
	}
	return left
}

// runErrand asks one host. Only what it has surely not done may be done by way of the driver: a second nack or extension with the same handle would
// make RocketMQ deliver the message twice, and an acknowledgement may have been refused there for a reason.
func (w *Window) runErrand(ctx context.Context, kind Action, r *errand, results []Result) {
	op := w.begin(ctx, kind)
	if op == nil {
		r.answerAll(results, Retry, detailShutdown)
		return
	}
	defer w.end(op)
	s := Settlement{ConsumerUID: w.origin.ConsumerUID, Action: kind, Items: make([]SettlementItem, len(r.items))}
	for i, a := range r.items {
		s.Items[i] = a.asked
	}
	answers, err := w.peers.Settle(op.ctx, r.from.Host, r.from.Incarnation, s)
	switch {
	case err == nil && len(answers) == len(r.items):
		for i, a := range r.items {
			answers[i].Token = results[a.index].Token
			results[a.index] = answers[i]
		}
	case err == nil:
		r.answerAll(results, Retry, fmt.Sprintf("host %s gave %d answers for %d tokens", r.from.Host, len(answers), len(r.items)))
	case !errors.Is(err, ErrPeerGone) && !errors.Is(err, ErrNotAsked):
		r.answerAll(results, Retry, fmt.Sprintf("the effect is unknown: delivered by host %s, which was asked: %v", r.from.Host, err))
	case w.caps.AckFromAnyHost:
		r.left = r.items
	case errors.Is(err, ErrPeerGone):
		r.answerAll(results, Expired, "what delivered it, on host "+r.from.Host+", is gone; the message comes again")
	default:
		r.answerAll(results, Retry, "delivered by host "+r.from.Host+"; "+err.Error())
	}
}

func (r *errand) answerAll(results []Result, o Outcome, detail string) {
	for _, a := range r.items {
		results[a.index].set(o, detail)
	}
}

// end takes an operation out that has no flights.
func (w *Window) end(op *operation) {
	op.cancel()
	w.mu.Lock()
	delete(w.ops, op)
	w.mu.Unlock()
	w.wg.Done()
}
