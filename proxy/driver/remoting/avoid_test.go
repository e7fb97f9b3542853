// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// still is a cluster without a keeper and a view of n brokers a, b, ... with two queues each.
func still(n int) (*cluster, *view) {
	cl := &cluster{}
	cl.state.brokers = make(map[string]*broker)
	v := &view{turn: new(atomic.Uint64)}
	for i := range n {
		v.shares = append(v.shares, share{broker: string(rune('a' + i)), queues: 2})
		v.queues += 2
	}
	return cl, v
}

func picks(cl *cluster, v *view, n int, not ...string) map[string]int {
	got := map[string]int{}
	for range n {
		got[cl.pick(v, not).broker]++
	}
	return got
}

var errNo = errors.New("no")

func TestQueuesTakeTurns(t *testing.T) {
	cl, v := still(3)
	seen := map[target]int{}
	for range 60 {
		seen[cl.pick(v, nil)]++
	}
	for at, n := range seen {
		if n != 10 || len(seen) != 6 {
			t.Errorf("%v was taken %d times of 60; %d queues", at, n, len(seen))
		}
	}
	if got := picks(cl, v, 30, "a", "c"); got["b"] != 30 {
		t.Errorf("without a and c: %v", got)
	}
}

func TestABrokerInTroubleIsAvoidedLongerEachTimeAndTriedByOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl, v := still(2)
		for _, want := range []time.Duration{avoidFirst, 2 * avoidFirst, 4 * avoidFirst} {
			for range 64 { // one failure, told by each of its callers
				cl.trouble("a", errNo)
			}
			time.Sleep(want - time.Millisecond)
			if got := picks(cl, v, 20); got["a"] != 0 || !cl.avoided("a") {
				t.Fatalf("before %v have passed: %v", want, got)
			}
			time.Sleep(time.Millisecond)
			if got := picks(cl, v, 20); got["a"] != 1 {
				t.Fatalf("after %v: %v, want one trial", want, got)
			}
		}
		cl.well("a")
		if got := picks(cl, v, 20); got["a"] != 10 {
			t.Errorf("after a good answer: %v", got)
		}
		for range 20 {
			cl.trouble("a", errNo)
			time.Sleep(avoidMost)
		}
		if cl.avoided("a") {
			t.Errorf("avoided for more than %v", avoidMost)
		}
	})
}

func TestATrialThatIsNeverAnsweredIsFollowedByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl, v := still(2)
		cl.trouble("a", errNo)
		time.Sleep(avoidFirst)
		if got := picks(cl, v, 20); got["a"] != 1 {
			t.Fatalf("%v", got)
		}
		time.Sleep(trial)
		if got := picks(cl, v, 20); got["a"] != 1 {
			t.Errorf("after a trial without an answer: %v", got)
		}
	})
}

func TestWhenAllAreAvoidedTheOneThatIsFreeFirstIsTaken(t *testing.T) {
	synctest.Test(t, func(*testing.T) {
		cl, v := still(3)
		cl.trouble("a", errNo)
		time.Sleep(time.Millisecond)
		cl.trouble("b", errNo)
		time.Sleep(time.Millisecond)
		cl.trouble("c", errNo)
		if got := picks(cl, v, 20); got["a"] != 20 {
			t.Errorf("%v", got)
		}
		if got := picks(cl, v, 20, "a"); got["b"] != 20 {
			t.Errorf("a was tried already: %v", got)
		}
		if got := picks(cl, v, 20, "a", "b", "c"); got["a"] != 20 {
			t.Errorf("all were tried already: %v", got)
		}
	})
}
