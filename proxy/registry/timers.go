// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import "time"

// timer is an armed timer that Close waits for: armed, running or stopped, it is counted exactly once. The nil timer is stopped.
type timer struct {
	t *time.Timer
	r *Registry
}

// arm calls f after d in its own goroutine, unless it is stopped. f must look, under the lock, whether it is still the one that is
// wanted: it may have begun when stop came.
func (t *turn) arm(d time.Duration, f func()) *timer {
	if t.joined {
		return nil
	}
	tm := &timer{r: t.r}
	t.workers.Add(1)
	tm.t = time.AfterFunc(max(d, 0), func() {
		defer tm.r.state.workers.Done()
		f()
	})
	return tm
}

func (tm *timer) stop() {
	if tm != nil && tm.t.Stop() {
		tm.r.state.workers.Done()
	}
}

func (e *entry) stopTimers() {
	e.retry.stop()
	e.idleTimer.stop()
	e.retry, e.idleTimer = nil, nil
}

// due reports whether e may be tried now; else it arms the timer that wakes it.
func (t *turn) due(e *entry) bool {
	wait := e.nextTry.Sub(t.now)
	if e.nextTry.IsZero() || wait <= 0 {
		e.retry.stop()
		e.retry = nil
		return true
	}
	if e.retry != nil {
		return false
	}
	var tm *timer
	tm = t.arm(wait, func() {
		t.r.turn(func(t *turn) {
			if e.retry == tm {
				e.retry = nil
				t.wake(e)
			}
		})
	})
	e.retry = tm
	return false
}

// failed counts a failure and says when the next try may come.
func (t *turn) failed(e *entry, err error) {
	e.failures++
	e.err = err
	e.waking = false
	e.nextTry = t.now.Add(backoff(e.failures))
	e.retry.stop()
	e.retry = nil
}

// armIdle makes sure that an unused client with an idle time-out is looked at when it may be due. One timer serves many uses: it looks
// when it fires and arms itself again for the rest.
func (t *turn) armIdle(e *entry) {
	l := e.live
	if l == nil || e.releasing || e.spec.IdleTimeout <= 0 || l.uses > 0 || e.idleTimer != nil {
		return
	}
	var tm *timer
	tm = t.arm(l.lastUsed.Add(e.spec.IdleTimeout).Sub(t.now), func() {
		t.r.turn(func(t *turn) {
			if e.idleTimer == tm {
				e.idleTimer = nil
				t.idleDue(e)
			}
		})
	})
	e.idleTimer = tm
}

func (t *turn) idleDue(e *entry) {
	l := e.live
	if l == nil || e.releasing || l.uses > 0 || e.spec.IdleTimeout <= 0 {
		return
	}
	if e.attempt != nil || l.seq != e.seq {
		l.lastUsed = t.now // it is being changed, and a change must be proven before it may be idle
	}
	if t.now.Before(l.lastUsed.Add(e.spec.IdleTimeout)) {
		t.armIdle(e)
		return
	}
	e.idle = true
	t.retire(e)
	t.wake(e)
}
