// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"slices"
	"time"
)

const (
	// avoidFirst is how long a broker is avoided after its first failure; each further one doubles it, up to avoidMost.
	avoidFirst = 500 * time.Millisecond
	avoidMost  = 30 * time.Second
	// trial is how long the one request that tries a broker again, after its time, keeps the others away.
	trial = 3 * time.Second
	// slowAfter is when an answer counts as trouble although it came. Requests of 1 MiB take 35 ms on a busy broker.
	slowAfter = time.Second
)

// broker is what the cluster thinks of one broker.
type broker struct {
	// failures counts the times that it was in trouble since it last was well.
	failures int
	// until is how long it is avoided; it may be over.
	until time.Time
	// onTrial: its time was over, and one request tries it until then.
	onTrial bool
	// fault is what the last check found; nil = it answered, or was not checked yet.
	fault error
}

// usableLocked reports whether b may be asked now. A nil broker is one of which nothing bad is known.
func (b *broker) usableLocked(now time.Time) bool {
	return b == nil || b.failures == 0 || !now.Before(b.until)
}

// trouble says that broker failed or was too slow: it is avoided for a while where there is another one. err is how it failed; nil = it was slow.
func (cl *cluster) trouble(name string, err error) {
	now := time.Now()
	cl.state.Lock()
	defer cl.state.Unlock()
	cl.state.suspicious = cl.state.suspicious || err != nil
	b := cl.state.brokers[name]
	if b == nil {
		b = &broker{}
		cl.state.brokers[name] = b
	}
	// What fails while the broker is avoided was sent before, or had no choice: one failure is not counted for each of its callers.
	if b.usableLocked(now) || b.onTrial {
		b.failures++
		b.until = now.Add(min(avoidFirst<<min(b.failures-1, 10), avoidMost))
		b.onTrial = false
	}
}

// well says that broker answered in time.
func (cl *cluster) well(name string) {
	cl.state.Lock()
	defer cl.state.Unlock()
	if b := cl.state.brokers[name]; b != nil {
		b.failures, b.onTrial = 0, false
	}
}

// avoided reports whether broker is to be passed over at present.
func (cl *cluster) avoided(name string) bool {
	now := time.Now()
	cl.state.Lock()
	defer cl.state.Unlock()
	return !cl.state.brokers[name].usableLocked(now)
}

// target is where a request goes.
type target struct {
	broker, address string
	queue           int
}

// pick chooses a queue of v, which must have one: by turns over the queues of all brokers that are neither avoided nor in not. When there is no
// such broker, it is the one whose time is over first, one that is not in not if there is any.
func (cl *cluster) pick(v *view, not []string) target {
	now, turn := time.Now(), v.turn.Add(1)
	cl.state.Lock()
	defer cl.state.Unlock()
	usable := 0
	for _, s := range v.shares {
		if cl.state.brokers[s.broker].usableLocked(now) && !slices.Contains(not, s.broker) {
			usable += s.queues
		}
	}
	if usable == 0 {
		s := cl.leastBadLocked(v, not)
		return target{s.broker, s.address, int(turn % uint64(s.queues))}
	}
	at := int(turn % uint64(usable))
	for _, s := range v.shares {
		b := cl.state.brokers[s.broker]
		if !b.usableLocked(now) || slices.Contains(not, s.broker) {
			continue
		}
		if at < s.queues {
			if b != nil && b.failures > 0 {
				b.until, b.onTrial = now.Add(trial), true
			}
			return target{s.broker, s.address, at}
		}
		at -= s.queues
	}
	panic("unreachable: the usable queues were counted under the same lock")
}

func (cl *cluster) leastBadLocked(v *view, not []string) share {
	badness := func(s share) (time.Time, bool) {
		var until time.Time
		if b := cl.state.brokers[s.broker]; b != nil {
			until = b.until
		}
		return until, slices.Contains(not, s.broker)
	}
	return slices.MinFunc(v.shares, func(a, b share) int {
		untilA, triedA := badness(a)
		untilB, triedB := badness(b)
		switch {
		case triedA == triedB:
			return untilA.Compare(untilB)
		case triedA:
			return 1
		default:
			return -1
		}
	})
}

// hasOther reports whether topic has a broker that can be written to and is not in tried.
func (cl *cluster) hasOther(name string, tried []string) bool {
	cl.state.Lock()
	defer cl.state.Unlock()
	t := cl.state.topics[name]
	return t != nil && t.view != nil && slices.ContainsFunc(t.view.shares, func(s share) bool { return !slices.Contains(tried, s.broker) })
}
