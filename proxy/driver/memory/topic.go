// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// stored is a message in a queue. Nothing in it changes once it is stored, but for holders, which Broker.mu guards.
type stored struct {
	driver.Message
	queue      int
	offset     int64
	born, kept time.Time
	// due is when it may be delivered, of one that is kept back.
	due   time.Duration
	bytes int64
	// holders is the number of groups that hold it: leased, delayed or ready again.
	holders int
}

// overhead is roughly what a stored message costs beside its content.
const overhead = 200

// newStored copies m, so that the caller's memory and ours have nothing in common.
func newStored(m *driver.Message, topicName string, born time.Time) *stored {
	s := &stored{Message: cloneMessage(m), born: born, bytes: m.Bytes() + overhead}
	s.Topic = topicName
	return s
}

func cloneMessage(m *driver.Message) driver.Message {
	c := *m
	c.Body, c.Keys, c.Properties = slices.Clone(m.Body), slices.Clone(m.Keys), maps.Clone(m.Properties)
	return c
}

// queue keeps messages in the order of their offsets. Offsets may be missing where done messages were dropped before older ones
// that somebody still holds.
type queue struct {
	next     int64
	messages []*stored
}

// index finds the first message at or after offset.
func (q *queue) index(offset int64) int {
	return sort.Search(len(q.messages), func(i int) bool { return q.messages[i].offset >= offset })
}

// oldest is the offset of the first message that is kept, or of the next one.
func (q *queue) oldest() int64 {
	if len(q.messages) == 0 {
		return q.next
	}
	return q.messages[0].offset
}

// firstAt is the offset of the first message that was stored at t or later, or of the next one. As brokers do it counts in milliseconds.
func (q *queue) firstAt(t time.Time) int64 {
	i := sort.Search(len(q.messages), func(i int) bool { return q.messages[i].kept.UnixMilli() >= t.UnixMilli() })
	if i == len(q.messages) {
		return q.next
	}
	return q.messages[i].offset
}

// topic is guarded by Broker.mu.
type topic struct {
	name    string
	id      uint64
	queues  []*queue
	cursors []*cursor
	bytes   int64
	count   int
	// turn chooses the queue of the next Send.
	turn  int
	later later
}

func newTopic(name string, id uint64, queues int) *topic {
	t := &topic{name: name, id: id, queues: make([]*queue, queues)}
	for i := range t.queues {
		t.queues[i] = &queue{}
	}
	return t
}

// store appends all of msgs to their queues, or none of them when there is no room. Called under mu.
func (b *Broker) store(t *topic, msgs []*stored) error {
	if len(msgs) == 0 {
		return nil
	}
	if err := b.admit(t, msgs); err != nil {
		return err
	}
	b.letOut(t, b.now()) // what was due before comes before
	b.enqueue(t, msgs)
	return nil
}

// admit counts all of msgs as kept by the topic, or none of them when there is no room.
func (b *Broker) admit(t *topic, msgs []*stored) error {
	var size int64
	for _, m := range msgs {
		size += m.bytes
	}
	if err := b.makeRoom(t, len(msgs), size); err != nil {
		return err
	}
	t.bytes, t.count, b.state.bytes = t.bytes+size, t.count+len(msgs), b.state.bytes+size
	return nil
}

// enqueue appends all of msgs, which are counted already: those with a sharding key to the queue that it names, the others to one queue in turn.
func (b *Broker) enqueue(t *topic, msgs []*stored) {
	now := time.Now()
	t.turn = (t.turn + 1) % len(t.queues)
	for _, m := range msgs {
		m.queue = t.turn
		if m.ShardingKey != "" {
			m.queue = driver.Shard(m.ShardingKey, len(t.queues))
		}
		q := t.queues[m.queue]
		m.offset, m.kept = q.next, now
		q.next++
		q.messages = append(q.messages, m)
	}
	for _, c := range t.cursors {
		c.wake()
	}
}

// makeRoom drops what everybody is done with when a limit would be passed, and refuses when that is not enough.
func (b *Broker) makeRoom(t *topic, count int, size int64) error {
	o := &b.options
	if t.count+count > o.MaxTopicMessages || t.bytes+size > o.MaxTopicBytes {
		// A quarter more than needed is dropped, so that the next sends need no sweep.
		b.sweep(t, func() bool {
			return t.count+count > o.MaxTopicMessages*3/4 || t.bytes+size > o.MaxTopicBytes*3/4
		})
	}
	if b.state.bytes+size > o.MaxBytes {
		for _, other := range b.state.topics {
			b.sweep(other, func() bool { return b.state.bytes+size > o.MaxBytes*3/4 })
		}
	}
	const advice = "nothing more is taken until a group acknowledges some: messages that somebody still has to get are not dropped"
	switch {
	case t.count+count > o.MaxTopicMessages:
		return driver.Errorf(driver.Throttled, "", "topic %q keeps %d messages that are not acknowledged by all of its groups, its limit MaxTopicMessages is %d; %s",
			t.name, t.count, o.MaxTopicMessages, advice)
	case t.bytes+size > o.MaxTopicBytes:
		return driver.Errorf(driver.Throttled, "", "topic %q keeps %d bytes that are not acknowledged by all of its groups, its limit MaxTopicBytes is %d; %s",
			t.name, t.bytes, o.MaxTopicBytes, advice)
	case b.state.bytes+size > o.MaxBytes:
		return driver.Errorf(driver.Throttled, "", "the broker keeps %d bytes that are not acknowledged, its limit MaxBytes is %d; %s",
			b.state.bytes, o.MaxBytes, advice)
	}
	return nil
}

// sweep drops messages that every group of the topic is done with, the oldest first and fairly from all queues, while needed says so. A topic
// without a group keeps everything: nobody has read it.
func (b *Broker) sweep(t *topic, needed func() bool) {
	if len(t.cursors) == 0 {
		return
	}
	share := t.count/4/len(t.queues) + 1
	for _, atMost := range []int{share, t.count} {
		for i := range t.queues {
			if needed() {
				b.sweepQueue(t, i, atMost, needed)
			}
		}
	}
}

// sweepQueue drops at most that many done messages. It looks at messages up to the slowest position only: the rest somebody waits for. What is
// kept on the way is moved up to what was not looked at, so that dropping costs no copy of the queue.
func (b *Broker) sweepQueue(t *topic, number, atMost int, needed func() bool) {
	q := t.queues[number]
	slowest := q.next
	for _, c := range t.cursors {
		slowest = min(slowest, c.positions[number])
	}
	end := q.index(slowest)
	var kept []*stored
	i := 0
	for ; i < end && atMost > 0 && needed(); i++ {
		m := q.messages[i]
		if m.holders > 0 {
			kept = append(kept, m)
			continue
		}
		atMost--
		t.bytes, t.count, b.state.bytes = t.bytes-m.bytes, t.count-1, b.state.bytes-m.bytes
	}
	first := i - len(kept)
	copy(q.messages[first:i], kept)
	clear(q.messages[:first])
	q.messages = q.messages[first:]
}
