// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package dedup

import (
	"context"
	"slices"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// call is one Send. It belongs to its caller's goroutine, but for toSend and entries, which its sending goroutine reads.
type call struct {
	topic   string
	msgs    []*driver.Message
	named   []bool
	digests []digest
	results []driver.SendResult

	// toSend are the messages that this call sends, in order; places is where each one's result goes, entries the entry that it owns, nil when its id
	// is not the caller's.
	toSend  []*driver.Message
	places  []int
	entries []*entry
	owned   int
	// waits are the messages that another send, or this one, decides.
	waits    []wait
	repeated int
	// before are entries of other calls that must be decided before messages with their sharding key are sent here, by key.
	before map[string][]*entry

	// cancel ends the send. finished: it has; left: it goes on without its caller. Those two are guarded by Memory.mu.
	cancel         context.CancelFunc
	finished, left bool
}

type wait struct {
	place int
	entry *entry
}

func newCall(topic string, msgs []*driver.Message, named []bool) *call {
	c := &call{topic: topic, msgs: msgs, named: named, digests: make([]digest, len(msgs)), results: make([]driver.SendResult, len(msgs))}
	for i, m := range msgs {
		c.results[i] = driver.SendResult{MessageID: m.ID, Queue: -1, Offset: -1}
		if named[i] {
			c.digests[i] = digestOf(m)
		}
	}
	return c
}

func (c *call) sendHere(i int, e *entry) {
	c.toSend, c.places, c.entries = append(c.toSend, c.msgs[i]), append(c.places, i), append(c.entries, e)
	if e != nil {
		c.owned++
	}
	c.results[i].Err = errTimeUp
}

func (c *call) waitFor(i int, e *entry) {
	c.waits = append(c.waits, wait{i, e})
	c.repeated++
}

// behind says that what follows with this sharding key comes after e, which is not decided. A call waits only for calls that began earlier.
func (c *call) behind(shardingKey string, e *entry) {
	if slices.Contains(c.entries, e) {
		return // the driver keeps the order of one call
	}
	if c.before == nil {
		c.before = make(map[string][]*entry)
	}
	c.before[shardingKey] = append(c.before[shardingKey], e)
}

// sendBehind sends what is c's own, after what other calls have under way of the same sharding keys. What would overtake a message that failed there is
// answered in place of being sent.
func (c *call) sendBehind(ctx context.Context, send SendFunc) []driver.SendResult {
	if len(c.before) == 0 {
		return send(ctx, c.topic, c.toSend)
	}
	failed := c.awaitOthers(ctx)
	results := make([]driver.SendResult, len(c.toSend))
	var kept []*driver.Message
	var places []int
	for i, m := range c.toSend {
		if err := failed.Behind(m); err != nil {
			results[i] = driver.SendResult{MessageID: m.ID, Queue: -1, Offset: -1, Err: err}
			continue
		}
		kept, places = append(kept, m), append(places, i)
	}
	if len(kept) > 0 {
		for i, r := range send(ctx, c.topic, kept) {
			results[places[i]] = r
		}
	}
	return results
}

// awaitOthers waits until what must come before is decided, and answers the sharding keys of which something failed, or is not decided by ctx's end.
func (c *call) awaitOthers(ctx context.Context) (failed driver.FailedKeys) {
	for _, m := range c.toSend {
		for _, e := range c.before[m.ShardingKey] {
			select {
			case <-e.decided:
				if e.result.Err != nil {
					failed.Add(m.ShardingKey)
				}
			case <-ctx.Done():
				failed.Add(m.ShardingKey)
			}
		}
	}
	return failed
}

// bytes estimates what the send takes while it is under way.
func (c *call) bytes() int64 {
	n := int64(callBytes)
	for _, m := range c.toSend {
		n += entryBytes + m.Bytes()
	}
	return n
}

// errTimeUp is the answer where there is none in time.
var errTimeUp = driver.Errorf(driver.Timeout, "", "the caller's time ended before the broker's answer; the message may be stored: send it again with the same id")

func (c *call) take(results []driver.SendResult) {
	for i, place := range c.places {
		c.results[place] = results[i]
	}
}

// collect waits for what others decide, until ctx ends, and answers.
func (c *call) collect(ctx context.Context) []driver.SendResult {
	for _, w := range c.waits {
		select {
		case <-w.entry.decided: // both may be true; a result is better
			c.results[w.place] = w.entry.result
			continue
		default:
		}
		select {
		case <-w.entry.decided:
			c.results[w.place] = w.entry.result
		case <-ctx.Done():
			c.results[w.place].Err = errTimeUp
		}
	}
	return c.results
}

func (c *call) fail(err error) []driver.SendResult {
	for i := range c.results {
		c.results[i].Err = err
	}
	return c.results
}
