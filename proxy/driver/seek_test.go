// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"testing"
	"time"
)

func TestTargetsThatPeopleWrite(t *testing.T) {
	at := time.Date(2026, 11, 26, 8, 0, 0, 0, time.UTC)
	for text, want := range map[string]Target{
		"Latest": {To: Latest}, " Earliest\n": {To: Earliest}, "2026-11-26T08:00:00Z": {To: Timestamp, Time: at},
		"2026-11-26T09:00:00+01:00": {To: Timestamp, Time: at}, "2026-11-26T08:00:00.123Z": {To: Timestamp, Time: at.Add(123 * time.Millisecond)},
	} {
		got, err := ParseTarget(text)
		if err != nil || got.To != want.To || !got.Time.Equal(want.Time) {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
		if again, err := ParseTarget(got.String()); err != nil || again.String() != got.String() {
			t.Errorf("%q was written as %q, which is read as %v, %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "latest", "Timestamp", "yesterday", "2026-11-26", "2026-11-26 08:00:00Z", "1764144000", "1969-12-31T23:59:59Z", "Latest Earliest", "2026-13-26T08:00:00Z"} {
		if got, err := ParseTarget(text); ReasonOf(err) != Invalid {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	for _, bad := range []Target{{}, {To: Timestamp}, {To: "Middle"}, {To: Timestamp, Time: time.Unix(-1, 0)}} {
		if err := bad.Validate(); ReasonOf(err) != Invalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
