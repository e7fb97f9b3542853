// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package batching

import (
	"context"
	"errors"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// call is one Send. ctx, topic, msgs, bytes, line and places never change. Of a direct call the rest belongs to its caller's goroutine, of a waiting one to
// the queue's mu; the caller reads results after done.
type call struct {
	// ctx is the caller's: it bounds this call and no longer.
	ctx   context.Context
	topic string
	msgs  []*driver.Message
	bytes int64
	// line is where it goes or waits. places are, of the part of a Send with sharding keys, its messages' places in that Send.
	line   *line
	places []int

	results []driver.SendResult
	// next is the first message that was not put into a request yet; decided counts the answers.
	next    int
	decided int
	// failed are the sharding keys of which a message was not stored.
	failed driver.FailedKeys
	// inAir: a request with messages of this call is under way; the next one waits for it, to keep the order.
	inAir bool
	// left: the caller has its answer; results must not be touched any more.
	left bool
	done chan struct{}
	// batch is the request under way.
	batch *batch
}

func newCall(ctx context.Context, topic string, msgs []*driver.Message) *call {
	c := &call{ctx: ctx, topic: topic, msgs: msgs, results: make([]driver.SendResult, len(msgs))}
	for i, m := range msgs {
		c.bytes += m.Bytes()
		c.results[i] = driver.SendResult{MessageID: m.ID, Queue: -1, Offset: -1, Err: errUndecided}
	}
	return c
}

// errUndecided marks a result that nobody has set; no caller sees it.
var errUndecided = driver.Errorf(driver.Timeout, "", "not decided")

// fail answers everything that is not decided.
func (c *call) fail(err error) {
	for i := range c.results {
		if errors.Is(c.results[i].Err, errUndecided) {
			c.results[i].Err = err
		}
	}
}

// fitting is how many of c's next messages fit a request that has n messages of size bytes already, and how many bytes they have. An empty request
// takes at least one. Before a message that would overtake a failed one it ends.
func (c *call) fitting(limits driver.BatchLimits, n int, size int64) (count int, fit int64) {
	if c.next == 0 && n+len(c.msgs) <= limits.Messages && size+c.bytes <= int64(limits.Bytes) {
		return len(c.msgs), c.bytes
	}
	for _, m := range c.msgs[c.next:] {
		bytes := m.Bytes()
		if n++; n > 1 && (n > limits.Messages || size+fit+bytes > int64(limits.Bytes)) || c.failed.Behind(m) != nil {
			break
		}
		count++
		fit += bytes
	}
	return count, fit
}

// restBytes is the size of what was not put into a request yet.
func (c *call) restBytes() int64 {
	if c.next == 0 {
		return c.bytes
	}
	rest := int64(0)
	for _, m := range c.msgs[c.next:] {
		rest += m.Bytes()
	}
	return rest
}

// wait is the caller's side of a waiting call.
func (q *Queue) wait(c *call) {
	select {
	case <-c.done:
		return
	case <-c.ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if c.left {
		return
	}
	q.dropLocked(c.line, c, q.givenUp(c.ctx))
}

// ended is why ctx is over at now, nil while it is not. A context whose deadline has passed counts, although its timer may fire a moment later.
func ended(ctx context.Context, now time.Time) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d, ok := ctx.Deadline(); ok && !now.Before(d) {
		return context.DeadlineExceeded
	}
	return nil
}

// givenUp is the answer to a caller whose context has ended, or else to one whose queue has.
func (q *Queue) givenUp(ctx context.Context) error {
	if err := ended(ctx, time.Now()); err != nil {
		return driver.Errorf(driver.Timeout, "", "the caller's time ended before the broker's answer: %w", err)
	}
	return driver.Errorf(driver.Closed, "", "the producer's client was shut down before this message was sent")
}

// dropLocked takes a waiting call out of the queue and answers what is not decided with err. Its messages that are in a request under way are
// sent all the same, if others are in it.
func (q *Queue) dropLocked(t *line, c *call, err error) {
	unsent := len(c.msgs) - c.next
	if unsent > 0 {
		q.unqueueLocked(t, c)
		rest := c.restBytes()
		q.waiting -= unsent
		q.waitingBytes -= rest
		if !c.inAir {
			t.addReady(-unsent, -rest)
		}
		c.next = len(c.msgs)
	}
	c.fail(err)
	q.finishLocked(c)
	if b := c.batch; b != nil {
		b.leave()
	}
}

func (q *Queue) unqueueLocked(t *line, c *call) {
	for i := range t.calls {
		if t.calls[i] == c {
			t.calls = append(t.calls[:i], t.calls[i+1:]...)
			return
		}
	}
}

// finishLocked gives the caller its answer.
func (q *Queue) finishLocked(c *call) {
	c.left = true
	q.inFlight -= len(c.msgs)
	q.unpinLocked(c)
	close(c.done)
	q.checkQuietLocked()
}
