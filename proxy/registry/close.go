// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"time"
)

// CloseGate lets no client start any more: entries that are starting stop trying, an Open under way is cancelled and its late client is
// closed. What runs goes on. It does not block.
func (r *Registry) CloseGate() {
	r.turn(func(t *turn) { t.closeGate() })
}

func (t *turn) closeGate() {
	if t.gateClosed {
		return
	}
	t.gateClosed = true
	for _, e := range t.entries {
		if e.attempt != nil {
			e.attempt.cancel()
		}
		t.wake(e)
	}
}

// stopGrace is what clients get to return when the time to stop has ended without notice.
const stopGrace = 500 * time.Millisecond

// Close is the end: it returns when every client has been closed and every goroutine of the registry has ended, at the latest half a
// second after ctx has ended; what is left then goes on closing and is named in its receipt's Err. It answers a receipt for every entry that was there.
// It may be called twice and from several goroutines; each call waits and gets all receipts.
func (r *Registry) Close(ctx context.Context) []Receipt {
	var gone chan struct{}
	r.turn(func(t *turn) {
		// 1. The gate, so that nothing is added to what follows.
		t.closeGate()
		if t.closing == nil {
			t.closing = make(chan struct{})
			if len(t.entries) == 0 {
				close(t.closing)
			}
		}
		gone = t.closing
		// 2. Everything drains, in parallel, each within its own deadline.
		for _, e := range t.entries {
			t.release(e, "the host stops")
		}
	})
	// 3. Drains end early enough to leave time for closing, closing early enough to answer within ctx.
	if !r.awaitGone(ctx, gone) {
		return r.receiptsSoFar()
	}
	// 4. Nothing can start a worker any more: there is no entry, and the gate is closed. Those that have just finished are joined.
	r.state.mu.Lock()
	r.state.joined = true
	r.state.mu.Unlock()
	r.state.workers.Wait()
	r.endDrains()
	r.endCloses()
	return r.receiptsSoFar()
}

// awaitGone waits until the last entry has gone; false when ctx ended before.
func (r *Registry) awaitGone(ctx context.Context, gone <-chan struct{}) bool {
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		drains := time.AfterFunc(left-min(5*time.Second, left/4), r.endDrains)
		closes := time.AfterFunc(left-min(500*time.Millisecond, left/10), r.endCloses)
		defer drains.Stop()
		defer closes.Stop()
	}
	select {
	case <-gone:
		return true
	case <-ctx.Done():
	}
	r.endDrains()
	r.endCloses()
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-gone:
		return true
	case <-grace.C:
		return false
	}
}

// receiptsSoFar answers what is closed, and for the rest that it is not.
func (r *Registry) receiptsSoFar() []Receipt {
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	all := append([]Receipt(nil), r.state.closeReceipts...)
	for _, e := range r.state.entries {
		left := e.receipt.plus(Receipt{Err: "still closing when the time to stop was over"})
		left.Key, left.Reason, left.Took = e.key, e.reason, time.Since(e.releasedAt)
		all = append(all, left)
	}
	return all
}
