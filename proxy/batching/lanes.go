// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package batching

import (
	"context"
	"sync"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Messages with a sharding key wait in lines of their own: one for each lane of their topic, which is a queue at the broker, with one request under way.

func isSharded(m *driver.Message) bool { return m.ShardingKey != "" }

func (k lineKey) sharded() bool { return k.lane > 0 }

// pinKey is a sharding key in a topic.
type pinKey struct{ topic, key string }

// pin holds a sharding key to the line in which n of its messages wait or are under way. When a topic's queues change, the key's next messages go to
// another queue, but must not be sent before those.
type pin struct{ lane, n int }

// admitted is a call and what was decided about it.
type admitted struct {
	*call
	way     way
	refusal *driver.Error
}

// inLine: it waits in its line, and needs nobody to bring it on its way.
func (a *admitted) inLine() bool { return a.refusal == nil && a.way == queued }

// sendSharded is Send for messages of which some have a sharding key: a call for each line, which go side by side.
func (q *Queue) sendSharded(ctx context.Context, topic string, msgs []*driver.Message) []driver.SendResult {
	all := q.admitSharded(ctx, topic, msgs)
	var others sync.WaitGroup
	for _, a := range all[1:] {
		if !a.inLine() {
			others.Go(func() { q.send(a.call, a.way, a.refusal) })
		}
	}
	for i, a := range all {
		if i == 0 || a.inLine() {
			q.send(a.call, a.way, a.refusal)
		}
	}
	others.Wait()
	results := make([]driver.SendResult, len(msgs))
	for _, a := range all {
		for i, place := range a.places {
			results[place] = a.results[i]
		}
	}
	return results
}

// admitSharded parts msgs by their lines and admits all parts in one step: what is admitted later is stored later.
func (q *Queue) admitSharded(ctx context.Context, topic string, msgs []*driver.Message) []admitted {
	lanes := make([]int, len(msgs))
	for i, m := range msgs {
		if isSharded(m) {
			lanes[i] = 1 + q.producer.Lane(topic, m.ShardingKey)
		}
	}
	var all []admitted
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range q.partLocked(topic, msgs, lanes) {
		a := admitted{call: newCall(ctx, topic, s.msgs)}
		a.places = s.places
		if a.way, a.refusal = q.admitLocked(a.call, lineKey{topic, s.lane}); a.refusal != nil {
			q.unpinLocked(a.call)
		}
		all = append(all, a)
	}
	return all
}

// share is what goes into one line.
type share struct {
	lane   int
	msgs   []*driver.Message
	places []int
}

// partLocked parts msgs by their lines, in order, and pins their keys.
func (q *Queue) partLocked(topic string, msgs []*driver.Message, lanes []int) []*share {
	var shares []*share
	byLane := make(map[int]*share, 1)
	for i, m := range msgs {
		lane := lanes[i]
		if isSharded(m) {
			lane = q.pinLocked(pinKey{topic, m.ShardingKey}, lane)
		}
		s := byLane[lane]
		if s == nil {
			s = &share{lane: lane}
			byLane[lane] = s
			shares = append(shares, s)
		}
		s.msgs, s.places = append(s.msgs, m), append(s.places, i)
	}
	return shares
}

// pinLocked counts one more message of key, and answers its lane: the one that it is pinned to, or the given one.
func (q *Queue) pinLocked(key pinKey, lane int) int {
	p := q.pins[key]
	if p == nil {
		p = &pin{lane: lane}
		q.pins[key] = p
	}
	p.n++
	return p.lane
}

// unpinLocked ends what pinLocked began, for all messages of c.
func (q *Queue) unpinLocked(c *call) {
	if c.places == nil || !isSharded(c.msgs[0]) {
		return // a line has messages with keys only, or without only
	}
	for _, m := range c.msgs {
		key := pinKey{c.topic, m.ShardingKey}
		if p := q.pins[key]; p.n > 1 {
			p.n--
		} else {
			delete(q.pins, key)
		}
	}
}

// passBehind looks at the answers from from on, and answers the next messages as far as each would overtake a failed one of its key. It says how many they
// are, and their bytes. Whoever may touch c's progress calls it.
func (c *call) passBehind(from int) (n int, size int64) {
	if c.places == nil {
		return 0, 0
	}
	for i := from; i < c.next; i++ {
		c.failed.Note(c.msgs[i], c.results[i].Err)
	}
	for c.next < len(c.msgs) {
		m := c.msgs[c.next]
		err := c.failed.Behind(m)
		if err == nil {
			break
		}
		c.results[c.next].Err = err
		c.next++
		c.decided++
		n, size = n+1, size+m.Bytes()
	}
	return n, size
}
