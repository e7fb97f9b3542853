// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package load_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/test/load"
)

// book is a ledger with the message "m", sent by one try.
func book() *load.Ledger {
	l := load.NewLedger()
	l.Trying("m", []byte("body"))
	l.SendOK("m")
	return l
}

func deliver(l *load.Ledger, attempt int32, host string) {
	l.Delivered(load.Delivery{ID: "m", Body: []byte("body"), Attempt: attempt, Stored: time.Now(), Host: host}, time.Now())
}

func storedTimes(n int) func(string) ([]load.Copy, error) {
	return func(string) ([]load.Copy, error) { return make([]load.Copy, n), nil }
}

func TestAnAckOKMoreThanThereAreCopiesIsAMessageThatCameAgain(t *testing.T) {
	for name, tc := range map[string]struct{ deliveries, copies, again int }{
		"one delivery of one copy":                     {1, 1, 0},
		"a second delivery of one copy":                {2, 1, 1},
		"two copies, because a send was repeated":      {2, 2, 0},
		"two copies, one of which was delivered twice": {3, 2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			l := book()
			for range tc.deliveries {
				deliver(l, 1, "a")
				l.AckOK("m", "b")
			}
			r, err := l.Repeats(storedTimes(tc.copies))
			copied := min(tc.copies-1, 1)
			if err != nil || r.Again != tc.again || len(r.Told) != min(tc.again, 1) || r.Copied != copied || r.CopiedByProxy != copied {
				t.Errorf("%+v, %v; want %d again", r, err, tc.again)
			}
			if counts := l.Counts(); counts.Acked != 1 || counts.Duplicates != tc.deliveries-1 {
				t.Errorf("counts %+v", counts)
			}
		})
	}
}

func TestTheStoryOfAMessageTellsWhoDeliveredAndAcknowledgedItWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := load.NewLedger()
		l.Trying("m", []byte("body"))
		time.Sleep(time.Second)
		l.TryingAgain("m")
		time.Sleep(time.Second)
		l.SendOK("m")
		for attempt := range int32(2) {
			deliver(l, attempt+1, "host-a")
			time.Sleep(10 * time.Second)
			l.AckOK("m", "host-b")
		}
		r, err := l.Repeats(storedTimes(1))
		if err != nil || len(r.Told) != 1 {
			t.Fatalf("%+v, %v", r, err)
		}
		const want = "0.000 send; 1.000 send; 2.000 send-ok; 2.000 attempt 1 by host-a, stored 2.000; 12.000 ack-ok by host-b; " +
			"12.000 attempt 2 by host-a, stored 12.000; 22.000 ack-ok by host-b"
		if !strings.HasSuffix(r.Told[0], want) {
			t.Errorf("told %q, want it to end with %q", r.Told[0], want)
		}
	})
}

func TestAMessageIsMissingUntilItsAckOKOrUntilItWouldHaveComeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := book()
		missing := func(want int) {
			t.Helper()
			if n, _ := l.Missing(); n != want {
				t.Errorf("%d missing, want %d", n, want)
			}
		}
		missing(1)
		if err := l.Check(); err == nil || !strings.Contains(err.Error(), "m: ") {
			t.Errorf("check says %v, want the missing message's story", err)
		}
		deliver(l, 1, "a")
		l.AckUnknown("m")
		over := time.Now()
		missing(1)
		time.Sleep(20 * time.Second)
		missing(0)
		if counts := l.Counts(); counts.AckUnknown != 1 || counts.Acked != 0 {
			t.Errorf("counts %+v", counts)
		}
		if at := l.Settled(); !at.Equal(over) {
			t.Errorf("settled at %s, want the end of the token, %s", at, over)
		}
		deliver(l, 2, "a")
		l.AckOK("m", "a")
		missing(0)
		if counts := l.Counts(); counts.AckUnknown != 0 || counts.Acked != 1 || counts.AfterAck != 0 {
			t.Errorf("counts %+v", counts)
		}
	})
}
