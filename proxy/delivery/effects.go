// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// giveBackTimeout bounds one GiveBack. What is not given back by then comes again when its lease runs out.
const giveBackTimeout = 5 * time.Second

// effects is what follows from a change under the lock and must happen outside it: driver calls and the observer.
type effects struct {
	giveBack    []driver.Handle
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
	back := len(e.giveBack) > 0 && (!w.closed || e.joined)
	if back {
		w.wg.Add(1)
		w.givingBack++
	}
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
		w.doGiveBack(e.giveBack)
	}
}

func (w *Window) doGiveBack(handles []driver.Handle) {
	defer w.wg.Done()
	// Not the window's context: Close must not turn a give-back into a redelivery after the whole lease.
	ctx, cancel := context.WithTimeout(context.Background(), giveBackTimeout)
	defer cancel()
	errs := w.callGiveBack(ctx, handles)
	failed, first := 0, error(nil)
	for _, err := range errs {
		if err != nil && driver.ReasonOf(err) != driver.LeaseExpired {
			failed++
			first = err
		}
	}
	w.mu.Lock()
	w.givingBack--
	var e effects
	e.ended(GivenBack, len(handles)-failed)
	w.unlockAnd(&e)
	if failed > 0 {
		w.log.Info("could not give messages back; they come again when their lease runs out", "messages", failed, "error", first.Error())
		w.obs.GiveBackFailed(failed, first)
	}
}
