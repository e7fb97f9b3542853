// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"strconv"
	"time"
)

// When is the time at which consumers get a message: at a time, or after a delay by the broker's clock. The zero value = at once; so is a time that
// has passed. Brokers keep it to about a second.
type When struct {
	At    time.Time
	Delay time.Duration
	// Round allows a driver that has only some delays (brokers before 5.0) to take the next longer one; otherwise it refuses.
	Round bool
}

// Later reports whether there is something to wait for.
func (w When) Later() bool { return !w.At.IsZero() || w.Delay != 0 }

// Properties of timer messages, which brokers since 5.0 act on.
const (
	PropertyDeliverAt = "TIMER_DELIVER_MS"
	PropertyDelay     = "TIMER_DELAY_MS"
	// PropertyDelayLevel is that of older brokers: one of 18 delays.
	PropertyDelayLevel = "DELAY"
)

// TimerProperty is the property by which brokers since 5.0 keep a message back. Only for a When with something to wait for.
func (w When) TimerProperty() (name, value string) {
	if !w.At.IsZero() {
		return PropertyDeliverAt, strconv.FormatInt(w.At.UnixMilli(), 10)
	}
	return PropertyDelay, strconv.FormatInt(w.Delay.Milliseconds(), 10)
}

// validateWhen refuses what no driver can do; limits are the broker's.
func validateWhen(m *Message) error {
	w := m.When
	switch {
	case !w.At.IsZero() && w.Delay != 0:
		return Errorf(InvalidMessage, "delay", "delay and deliver_at are both set; set one")
	case w.Delay < 0:
		return Errorf(InvalidMessage, "delay", "the delay is %s; it must be positive", w.Delay)
	case w.Delay > 0 && w.Delay < time.Millisecond:
		return Errorf(InvalidMessage, "delay", "the delay is %s; the shortest is 1ms", w.Delay)
	case !w.At.IsZero() && (w.At.Year() < 1970 || w.At.Year() > 9999):
		return Errorf(InvalidMessage, "deliver_at", "the time %s is out of range", w.At.Format(time.RFC3339))
	default:
		return nil
	}
}
