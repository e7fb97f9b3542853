// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package retry says when a message that failed is tried again. It is pure: no clock, no state.
package retry

import (
	"fmt"
	"time"
)

// MaxDelay is the longest delay before a message comes again; longer ones are cut to it. It is the longest of RocketMQ's own levels.
const MaxDelay = 2 * time.Hour

// Backoff is how long a message waits before it comes again, by how often it has been delivered. It has two forms; the zero value is "at once". Values
// are copied freely; Steps must not be changed.
type Backoff struct {
	// Initial is the delay after the first delivery. After each further one it is Multiplier times as long, up to Max. A Multiplier below 1 counts as 1, a
	// Max of 0 as MaxDelay.
	Initial, Max time.Duration
	Multiplier   int
	// Steps are used in place of these when there are any: the delay after the first delivery, the second, ...; the last one for all that follow.
	Steps []time.Duration
}

// After is the delay after the attempt-th delivery, counted from 1; a lower number counts as 1. It is between 0 and MaxDelay, and never falls
// with Steps that rise, or without Steps.
func (b Backoff) After(attempt int) time.Duration {
	attempt = max(attempt, 1)
	if n := len(b.Steps); n > 0 {
		return inRange(b.Steps[min(attempt, n)-1])
	}
	limit := inRange(b.Max)
	if limit == 0 {
		limit = MaxDelay
	}
	delay, factor := int64(min(max(b.Initial, 0), limit)), int64(max(b.Multiplier, 1))
	for range attempt - 1 {
		if delay == 0 || factor == 1 {
			break
		}
		if delay > int64(limit)/factor {
			return limit
		}
		delay *= factor
	}
	return time.Duration(delay)
}

func inRange(d time.Duration) time.Duration { return min(max(d, 0), MaxDelay) }

// IsZero reports whether messages come again at once.
func (b Backoff) IsZero() bool { return b.Initial == 0 && len(b.Steps) == 0 }

// String is for logs.
func (b Backoff) String() string {
	switch {
	case len(b.Steps) > 0:
		return fmt.Sprint(b.Steps)
	case b.IsZero():
		return "at once"
	default:
		return fmt.Sprintf("%s, x %d, at most %s", b.Initial, max(b.Multiplier, 1), b.Max)
	}
}
