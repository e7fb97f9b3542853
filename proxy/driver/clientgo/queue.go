// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"math"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"
)

const (
	// prefetchMessages and prefetchBytes bound what waits in this process per queue, beyond what is leased. One more pull's answer may be
	// parked in the inlet. pullBatch is at most the first, so that a pull always fits.
	prefetchMessages = 31
	prefetchBytes    = 4 << 20
	pullBatch        = 31
	// holdFor is how long a pull's answer is parked at most. The library takes a queue whose pull loop did not move for 120 s for broken and
	// starts it anew, with everything in flight delivered again (upstream #941).
	holdFor = time.Minute
)

// loop is the identity of one pull loop of the library: it makes one MessageQueue value per loop and gives the same pointer to the filter
// hook and to every message.
type loop = *primitive.MessageQueue

// queueKey names a queue; two loops of one queue follow each other when the library starts it anew.
type queueKey struct {
	topic, broker string
	id            int
}

func keyOf(l loop) queueKey { return queueKey{l.Topic, l.BrokerName, l.QueueId} }

// queue is what one pull loop brought. leases.mu guards it.
type queue struct {
	key queueKey
	// arriving are those whose callback, or one before theirs, has not begun, in the queue's order.
	arriving []*arrival
	// open are all that have no verdict yet, and those whose callback has not come for it, by offset.
	open map[int64]*arrival
	// waiting counts what may be leased or is arriving.
	waiting      int
	waitingBytes int64
	// next is the offset after the highest that came, acked after the highest that has a verdict; -1 = none.
	next, acked int64
	// parked is closed to wake the inlet, nil when nobody is parked.
	parked chan struct{}
	// dead: the library has dropped the queue; what it brought comes again elsewhere. since is for forgetting it.
	dead  bool
	since time.Time
	// lost: the last rebalance did not give us the queue. The library drops it right after that.
	lost bool
}

func newQueue(key queueKey) *queue {
	return &queue{key: key, open: make(map[int64]*arrival), next: -1, acked: -1}
}

// fits reports whether a pull's answer may pass the inlet.
func (q *queue) fits(messages int, bytes int64) bool {
	return q.waiting == 0 || q.waiting+messages <= prefetchMessages && q.waitingBytes+bytes <= prefetchBytes
}

func (q *queue) count(a *arrival, n int) {
	q.waiting += n
	q.waitingBytes += int64(n) * a.size
}

// committable is the offset below which everything has a verdict; -1 = nothing came.
func (q *queue) committable() int64 {
	lowest := int64(math.MaxInt64)
	for offset, a := range q.open {
		if a.status != finished {
			lowest = min(lowest, offset)
		}
	}
	return min(lowest, q.next)
}

// holes are the arrivals without a verdict below the highest one that has one. They keep the group's position down.
func (q *queue) holes() []*arrival {
	var found []*arrival
	for offset, a := range q.open {
		if a.status != finished && offset < q.acked {
			found = append(found, a)
		}
	}
	return found
}
