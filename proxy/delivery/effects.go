// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// giveBackTimeout bounds one GiveBack. What is not given back by then comes again when its lease runs out.
const giveBackTimeout = 5 * time.Second

// effects is what follows from a change under the lock and must happen outside it: driver calls and the observer.
type effects struct {
	giveBack []driver.Handle
	// release is given back, too, but was seen, or acknowledged out of order. chain are lanes of which the first is.
	release []driver.Handle
	chain   []*lane
	// cuts are to be made before the lock is released; see settle.
	cuts        map[*lane]int
	endings     [len(allEndings)]int
	windowFull  bool
	fetchFailed error
	// joined: the caller is a goroutine that Close waits for, so that its give-backs are still made while Close runs.
	joined bool
}

var allEndings = [...]Ending{Acked, Nacked, Lapsed, GivenBack, DeadLettered}

func (e *effects) ended(x Ending, n int) {
	for i := range allEndings {
		if allEndings[i] == x {
			e.endings[i] += n
		}
	}
}

// unlockAnd ends each change under the lock: it sets the timer, counts e, unlocks mu and does the rest of e in the caller's goroutine.
func (w *Window) unlockAnd(e *effects) {
	for i := range e.endings {
		w.totals[i] += e.endings[i]
	}
	// After Close the consumer is not ours to call; its own Close gives back what is leased.
	back := len(e.giveBack)+len(e.release) > 0 && (!w.closed || e.joined)
	if back {
		w.wg.Add(1)
		w.givingBack++
	}
	if w.closed {
		e.chain = nil
	}
	w.wg.Add(len(e.chain))
	w.givingBack += len(e.chain)
	w.armLocked()
	w.checkQuietLocked()
	w.mu.Unlock()

	for i, n := range e.endings {
		if n > 0 {
			w.obs.Ended(allEndings[i], n)
		}
	}
	if e.windowFull {
		w.obs.WindowFull()
	}
	if e.fetchFailed != nil {
		w.obs.FetchFailed(e.fetchFailed)
	}
	if back {
		w.doGiveBack(slices.Concat(e.giveBack, e.release), len(e.giveBack))
	}
	for _, l := range e.chain {
		w.ackAhead(l)
	}
}

// doGiveBack gives all handles back. No application has seen the first unseen of them, which count as given back.
func (w *Window) doGiveBack(handles []driver.Handle, unseen int) {
	defer w.wg.Done()
	// Not the window's context: Close must not turn a give-back into a redelivery after the whole lease.
	ctx, cancel := context.WithTimeout(context.Background(), giveBackTimeout)
	defer cancel()
	errs := w.callGiveBack(ctx, handles)
	failed, returned, first := 0, unseen, error(nil)
	for i, err := range errs {
		if err != nil && driver.ReasonOf(err) != driver.LeaseExpired {
			failed++
			first = err
			if i < unseen {
				returned--
			}
		}
	}
	w.mu.Lock()
	w.givingBack--
	var e effects
	e.ended(GivenBack, returned)
	w.unlockAnd(&e)
	if failed > 0 {
		w.log.Info("could not give messages back; they come again when their lease runs out", "messages", failed, "error", first.Error())
		w.obs.GiveBackFailed(failed, first)
	}
}
