// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package dedup

import (
	"context"

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
