// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package batching

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Defaults of Settings that are zero.
const (
	defaultInAir              = 2
	defaultFullInAir          = 8
	defaultMaxWaitingMessages = 10000
	defaultMaxWaitingBytes    = 64 << 20
)

// Queue sends for one Producer. All methods are safe for concurrent use.
type Queue struct {
	producer driver.Producer
	obs      Observer
	log      logr.Logger

	// life is the queue's own life: Close ends it, and with it each request under way.
	life    context.Context
	endLife context.CancelFunc
	// wg counts runners and direct sends. Add happens under mu while not closed.
	wg sync.WaitGroup

	// mu guards lockedState and the calls' progress. No driver call and no observer under it.
	mu sync.Mutex
	lockedState
}

type lockedState struct {
	settings Settings
	closed   bool
	quiet    chan struct{}
	lines    map[lineKey]*line
	pins     map[pinKey]*pin
	// inFlight counts the messages that wait or are under way; waiting and waitingBytes those that wait.
	inFlight     int
	waiting      int
	waitingBytes int64
	// mean is the moving average of messages a request without sharding keys, over all topics: a topic is forgotten when nothing of it waits or is under way, which with many
	// callers happens in between.
	mean float64
}

// lineKey names a line: lane is 0 for the messages of a topic without a sharding key, else 1 and the driver's number (driver.Producer.Lane).
type lineKey struct {
	topic string
	lane  int
}

// line is what is under way and waits for one topic, or for one lane of it. It exists while there is something.
type line struct {
	lineKey
	inAir int
	calls []*call
	// ready and readyBytes are what could go now: the rest of each call that has no request under way. Counted, because it is asked for with every
	// call that comes.
	ready      int
	readyBytes int64
}

// NewQueue makes a queue over p. It starts nothing. The caller closes p, after Close of the queue.
func NewQueue(p driver.Producer, o Options) *Queue {
	q := &Queue{producer: p, obs: o.Observer, log: o.Log}
	if q.obs == nil {
		q.obs = nobody{}
	}
	if q.log.GetSink() == nil {
		q.log = logr.Discard()
	}
	q.life, q.endLife = context.WithCancel(context.Background())
	q.lines = map[lineKey]*line{}
	q.pins = map[pinKey]*pin{}
	q.settings = o.complete()
	return q
}

func (s Settings) complete() Settings {
	if s.InAir <= 0 {
		s.InAir = defaultInAir
	}
	if s.FullInAir <= 0 {
		s.FullInAir = defaultFullInAir
	}
	if s.MaxWaitingMessages <= 0 {
		s.MaxWaitingMessages = defaultMaxWaitingMessages
	}
	if s.MaxWaitingBytes <= 0 {
		s.MaxWaitingBytes = defaultMaxWaitingBytes
	}
	return s
}

// SetSettings changes how the sends to come are treated; what waits still goes.
func (q *Queue) SetSettings(s Settings) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.settings = s.complete()
}

// InFlight is the number of messages that wait or are under way.
func (q *Queue) InFlight() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.inFlight
}

// Send stores msgs, all for one topic, and answers one result per message, in order. It returns at the latest when ctx ends: what is not
// decided then has a driver.Timeout error, and what was not sent is not going to be. Too much waiting: driver.Throttled. After
// Close has begun: driver.Closed. The messages must not be changed before it returns, nor afterwards when a result is a Timeout.
func (q *Queue) Send(ctx context.Context, topic string, msgs []*driver.Message) []driver.SendResult {
	if len(msgs) == 0 {
		return nil
	}
	if slices.ContainsFunc(msgs, isSharded) {
		return q.sendSharded(ctx, topic, msgs)
	}
	c := newCall(ctx, topic, msgs)
	q.mu.Lock()
	direct, refusal := q.admitLocked(c, lineKey{topic: topic})
	q.mu.Unlock()
	q.send(c, direct, refusal)
	return c.results
}

// send does what was decided about c, in its caller's goroutine.
func (q *Queue) send(c *call, direct way, refusal *driver.Error) {
	switch {
	case refusal != nil:
		c.fail(refusal)
		if refusal.Reason == driver.Throttled {
			q.obs.Refused(len(c.msgs))
		}
	case direct == passThrough:
		q.sendStraight(c)
	case direct == ownSlot:
		q.sendDirect(c)
	default:
		q.wait(c)
	}
}

// way is how a call goes.
type way int

const (
	passThrough way = iota
	ownSlot
	queued
)

// admitLocked decides c's way and counts it.
func (q *Queue) admitLocked(c *call, at lineKey) (way, *driver.Error) {
	if q.closed {
		return 0, driver.Errorf(driver.Closed, "", "this host is shutting the producer down; send it again, to another host")
	}
	if !q.settings.Enabled && !at.sharded() {
		q.wg.Add(1)
		q.inFlight += len(c.msgs)
		return passThrough, nil
	}
	t := q.lines[at]
	if t == nil {
		t = &line{lineKey: at}
		q.lines[at] = t
	}
	c.line = t
	if len(t.calls) == 0 && q.mayFlyLocked(t, t.inAir) {
		t.inAir++
		q.countLocked(t, len(c.msgs))
		q.wg.Add(1)
		q.inFlight += len(c.msgs)
		return ownSlot, nil
	}
	if err := q.overLocked(c); err != nil {
		return 0, err
	}
	c.done = make(chan struct{})
	t.calls = append(t.calls, c)
	t.addReady(len(c.msgs), c.bytes)
	q.inFlight += len(c.msgs)
	q.waiting += len(c.msgs)
	q.waitingBytes += c.bytes
	if q.mayFlyLocked(t, t.inAir) {
		// A slot is free although something waits: that is the rest of a call whose earlier request is under way, or enough for another request.
		t.inAir++
		q.wg.Add(1)
		go q.run(t)
	}
	return queued, nil
}

const (
	// few messages a request on average leave room for another one: a handful of callers shall not wait for each other.
	few = 4
	// meanOver is over how many requests the average goes, about.
	meanOver = 8
	// many messages that wait are worth another request. In between one request in the air carries most: with 64 callers two carried a fifth less, at
	// half the size each; with 256 two are as good or better.
	many = 48
)

// mayFlyLocked reports whether a request of t may be under way beside that many others.
func (q *Queue) mayFlyLocked(t *line, others int) bool {
	switch {
	case others == 0:
		return true
	case t.sharded():
		return false // two could overtake each other
	case others < q.settings.InAir:
		return q.mean < few || t.ready >= many || q.fullLocked(t)
	default:
		return others < q.settings.FullInAir && q.fullLocked(t)
	}
}

// fullLocked reports whether what waits for t and can go now fills a request.
func (q *Queue) fullLocked(t *line) bool {
	limits := q.producer.Limits()
	return t.ready >= limits.Messages || t.readyBytes >= int64(limits.Bytes)
}

// countLocked takes a request of n messages of t into the average.
func (q *Queue) countLocked(t *line, n int) {
	if !t.sharded() {
		q.mean += (float64(n) - q.mean) / meanOver
	}
}

func (t *line) addReady(n int, size int64) {
	t.ready += n
	t.readyBytes += size
}

// overLocked refuses c when too much waits with it. A call that is alone is never refused: the server bounds one call.
func (q *Queue) overLocked(c *call) *driver.Error {
	if q.waiting == 0 {
		return nil
	}
	if n, limit := q.waiting+len(c.msgs), q.settings.MaxWaitingMessages; n > limit {
		return driver.Errorf(driver.Throttled, "", "%d messages would wait to be sent by this producer on this host, the limit (max waiting messages) is %d", n, limit)
	}
	if n, limit := q.waitingBytes+c.bytes, q.settings.MaxWaitingBytes; n > limit {
		return driver.Errorf(driver.Throttled, "", "%d bytes would wait to be sent by this producer on this host, the limit (max waiting bytes) is %d", n, limit)
	}
	return nil
}

// sendStraight is the way without batching: one Send of the driver for the call, which splits it by itself.
func (q *Queue) sendStraight(c *call) {
	defer q.wg.Done()
	ctx, cancel := q.lifetime(c.ctx)
	defer cancel()
	copy(c.results, q.request(ctx, c.topic, c.msgs, 1))
	q.mu.Lock()
	q.inFlight -= len(c.msgs)
	q.checkQuietLocked()
	q.mu.Unlock()
}

// lifetime is ctx that also ends with the queue.
func (q *Queue) lifetime(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(q.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// sendDirect sends c in its caller's goroutine, which has a slot of the topic; what came meanwhile gets the slot.
func (q *Queue) sendDirect(c *call) {
	defer q.wg.Done()
	ctx, cancel := q.lifetime(c.ctx)
	defer cancel()
	for c.next < len(c.msgs) {
		if ctx.Err() != nil || ended(c.ctx, time.Now()) != nil {
			c.fail(q.givenUp(c.ctx))
			break
		}
		from := c.next
		k, _ := c.fitting(q.producer.Limits(), 0, 0)
		c.next = from + k
		q.sendParts(ctx, c.topic, []part{{c, from, c.next}})
		c.passBehind(from)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.inFlight -= len(c.msgs)
	q.unpinLocked(c)
	t := c.line
	if len(t.calls) > 0 && !q.closed {
		q.wg.Add(1)
		go q.run(t)
	} else {
		q.freeSlotLocked(t)
	}
	q.checkQuietLocked()
}

func (q *Queue) freeSlotLocked(t *line) {
	if t.inAir--; t.inAir == 0 && len(t.calls) == 0 {
		delete(q.lines, t.lineKey)
	}
}

// Drain waits until all sends under way are answered, or ctx ends. It may be called again. It refuses nothing: who sends now took the client before
// its drain began, and the registry gives it to nobody any more. Refusing them would fail calls that came just before a new client took over.
func (q *Queue) Drain(ctx context.Context) DrainReport {
	began := time.Now()
	q.mu.Lock()
	if q.quiet == nil {
		q.quiet = make(chan struct{})
	}
	quiet := q.quiet
	report := DrainReport{InFlight: q.inFlight}
	q.checkQuietLocked()
	q.mu.Unlock()
	select {
	case <-quiet:
	case <-ctx.Done():
		report.Left = min(q.InFlight(), report.InFlight)
	case <-q.life.Done():
		report.Left = min(q.InFlight(), report.InFlight)
	}
	report.Drained = report.InFlight - report.Left
	report.Took = time.Since(began)
	return report
}

func (q *Queue) checkQuietLocked() {
	if q.quiet != nil && q.inFlight == 0 {
		close(q.quiet)
		q.quiet = nil // a later Drain waits anew
	}
}

// Close ends the queue and returns when none of its goroutines and requests is left. What waits is answered with driver.Closed, what is under
// way by the driver. It works twice and from two goroutines.
func (q *Queue) Close() {
	q.mu.Lock()
	// 1. The gate: nothing new.
	q.closed = true
	// 2. What was not sent has its answer.
	for _, t := range q.lines {
		for _, c := range append([]*call(nil), t.calls...) {
			q.dropLocked(t, c, driver.Errorf(driver.Closed, "", "the producer's client was shut down before this message was sent"))
		}
	}
	q.mu.Unlock()
	// 3. What is under way is told to end, and waited for outside the lock.
	q.endLife()
	q.wg.Wait()
}
