// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"strings"
	"time"
)

// Target is where Seek moves a group to in each queue: behind the newest message, to the oldest one, or with Timestamp to the first that was stored at Time
// or later, by the broker's clock, to the millisecond.
type Target struct {
	To   StartFrom
	Time time.Time
}

// String is what ParseTarget reads.
func (t Target) String() string {
	if t.To == Timestamp {
		return t.Time.UTC().Format(time.RFC3339Nano)
	}
	return string(t.To)
}

// Validate refuses what is no target; the error's field is "to".
func (t Target) Validate() error {
	switch t.To {
	case Latest, Earliest:
		return nil
	case Timestamp:
		if ms := t.Time.UnixMilli(); t.Time.IsZero() || ms < 0 || t.Time.Year() > 9999 {
			return Errorf(Invalid, "to", "the time %s is out of range", t.Time.UTC().Format(time.RFC3339))
		}
		return nil
	default:
		return Errorf(Invalid, "to", "%q is none of Latest, Earliest and a time", t.To)
	}
}

// ParseTarget reads a target that a person wrote: Latest, Earliest or a time of RFC 3339.
func ParseTarget(text string) (Target, error) {
	text = strings.TrimSpace(text)
	for _, end := range []StartFrom{Latest, Earliest} {
		if text == string(end) {
			return Target{To: end}, nil
		}
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return Target{}, Errorf(Invalid, "to", "%.100q is none of Latest, Earliest and a time such as 2026-11-26T08:00:00Z (RFC 3339)", text)
	}
	t := Target{To: Timestamp, Time: at}
	return t, t.Validate()
}
