// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

const (
	// maxDiggers bounds the dead-letter writes of one window at a time.
	maxDiggers = 4
	// buryTimeout bounds one dead-letter write.
	buryTimeout = 30 * time.Second
)

// buryLocked takes in a message whose attempts are exhausted: it goes to the dead-letter topic and to no receiver. Writes happen in
// goroutines of their own, so that a slow one does not stop the deliveries. When as many as a whole window wait for their write already,
// the message is left alone: its lease runs out and it comes again, by which time the topic may work.
func (w *Window) buryLocked(f *flight, e *effects) {
	if w.buryingN >= w.settings.MaxInFlight {
		e.ended(Lapsed, 1)
		return
	}
	f.state = burying
	w.flights[f.id] = f
	w.bytes += f.bytes
	w.buryingN++
	w.buryingBytes += f.bytes
	w.heap.push(f, f.until)
	w.digLocked(f)
}

// digLocked queues f for a write.
func (w *Window) digLocked(f *flight) {
	w.graves = append(w.graves, f)
	if w.diggers < maxDiggers && !w.closed {
		w.diggers++
		w.wg.Add(1)
		go w.dig()
	}
}

// exhumeLocked queues f again when its back-off is over.
func (w *Window) exhumeLocked(f *flight, now int64) {
	w.heap.reschedule(f, f.until)
	if !f.digging && f.nextTry != 0 && f.nextTry <= now {
		f.nextTry = 0
		w.digLocked(f)
	}
}

// dig writes dead letters until none waits.
func (w *Window) dig() {
	defer w.wg.Done()
	for {
		f, left, reason := w.nextGrave()
		if f == nil {
			return
		}
		ctx, cancel := context.WithTimeout(w.life, min(left, buryTimeout))
		err := w.callDeadLetter(ctx, f.msg, reason)
		cancel()
		w.buried(f, err)
	}
}

func (w *Window) nextGrave() (f *flight, left time.Duration, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.graves) > 0 && !w.draining {
		f = w.graves[0]
		w.graves[0] = nil
		w.graves = w.graves[1:]
		// It may have expired, or been given back, while it waited.
		if left = time.Duration(f.until - w.now()); f.state == burying && left > 0 {
			f.digging = true
			reason = fmt.Sprintf("delivered %d times without an acknowledgement (maxDeliveryAttempts is %d)", f.msg.Attempt-1, w.settings.MaxDeliveryAttempts)
			if last := w.reasons.of(f.msg); last != "" {
				reason += "; the last time: " + last
			}
			return f, left, reason
		}
	}
	w.diggers--
	return nil, 0, ""
}

// buried settles one write. On a failure the original is kept: it is tried again while its lease lasts, and comes again afterwards.
func (w *Window) buried(f *flight, err error) {
	w.mu.Lock()
	e := effects{joined: true}
	now := w.now()
	f.digging = false
	switch {
	case err == nil:
		w.reasons.forget(f.msg)
		w.endLocked(f, notVoid, now)
		e.ended(DeadLettered, 1)
		if f.lane != nil {
			w.passedLocked(f)
			e.passOn(f.lane)
		}
	case errors.Is(err, driver.ErrLeaseExpired) || f.lapsed || f.until <= now:
		w.endLocked(f, notVoid, now)
		e.ended(Lapsed, 1)
	case w.draining:
		w.returnLocked(f, now, &e)
	default:
		f.tries++
		f.nextTry = now + int64(backOff(f.tries))
		w.heap.reschedule(f, min(f.nextTry, f.until))
	}
	w.refillLocked()
	w.unlockAnd(&e)
	if err != nil {
		w.log.Info("could not write a dead letter; the original is kept", "messageID", f.msg.ID, "topic", f.msg.Topic, "attempt", f.msg.Attempt, "error", err.Error())
		w.obs.DeadLetterFailed(err)
	}
}
