// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package dedup

import (
	"container/list"
	"context"
	"strings"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

const (
	// MaxIDs and MaxBytes bound what one Memory keeps; the oldest is forgotten first.
	MaxIDs   = 100_000
	MaxBytes = 32 << 20
	// entryBytes is what an entry takes beside its strings: itself, its places in the map and in the list.
	entryBytes = 320
	// linger is how much longer than its caller's time a send may take.
	linger = 10 * time.Second
	// MaxLeftBytes bounds the sends whose callers have left; what is above ends with its caller. callBytes is what one takes beside its messages.
	MaxLeftBytes = 32 << 20
	callBytes    = 8 << 10
)

// Observer is told what happens, for metrics. Its methods must not block; none is called under a lock.
type Observer interface {
	// Repeated: n messages were answered with the result of an earlier send.
	Repeated(n int)
	// Forgotten: n ids were forgotten before their window was over, because there were too many.
	Forgotten(n int)
}

// SendFunc is a driver's Send for one topic.
type SendFunc func(ctx context.Context, topic string, msgs []*driver.Message) []driver.SendResult

// Memory knows the ids of one Producer. All methods are safe for concurrent use. Close must be called.
type Memory struct {
	send SendFunc
	obs  Observer
	// work counts the goroutines of sends under way and the armed timer. Add happens under mu while not closed.
	work sync.WaitGroup

	mu sync.Mutex // guards lockedState
	lockedState
}

type lockedState struct {
	window   time.Duration
	maxIDs   int
	maxBytes int64
	closed   bool
	entries  map[key]*entry
	// done are the entries with a result, the oldest first.
	done  list.List
	bytes int64 // of done
	left  int64 // bytes of the sends whose callers have left
	timer *time.Timer
}

type key struct{ topic, id string }

// entry is one id. result is set before decided is closed, and at is when that was.
type entry struct {
	key     key
	content digest
	decided chan struct{}
	result  driver.SendResult
	at      time.Time
	place   *list.Element // in done
}

func (e *entry) bytes() int64 {
	return int64(entryBytes + len(e.key.topic) + len(e.key.id) + len(e.result.RecallHandle))
}

// New makes a Memory that sends by send. It starts nothing. obs may be nil.
func New(window time.Duration, send SendFunc, obs Observer) *Memory {
	if obs == nil {
		obs = nobody{}
	}
	return &Memory{send: send, obs: obs, lockedState: lockedState{
		window: window, maxIDs: MaxIDs, maxBytes: MaxBytes, entries: map[key]*entry{},
	}}
}

// SetWindow changes how long results are remembered, also those that are; 0 = not at all.
func (m *Memory) SetWindow(window time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.window = window
	m.expireLocked()
	m.disarmLocked()
	m.armLocked()
}

// Forget makes the id of a message that was recalled by this handle free again; it was for one of topics.
func (m *Memory) Forget(topics []string, id, recallHandle string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, topic := range topics {
		if e := m.entries[key{topic, id}]; e != nil && e.place != nil && e.result.RecallHandle == recallHandle {
			m.forgetLocked(e)
		}
	}
}

// Send is driver.Producer.Send for messages of which those with named[i] have an id that the caller chose. It returns by ctx's end; a message whose answer
// is not there by then may still be stored, and a repetition learns of it.
func (m *Memory) Send(ctx context.Context, topic string, msgs []*driver.Message, named []bool) []driver.SendResult {
	c := newCall(topic, msgs, named)
	if !m.begin(c) {
		return c.fail(driver.Errorf(driver.Closed, "", "this host is shutting the producer down; send it again, to another host"))
	}
	if c.repeated > 0 {
		m.obs.Repeated(c.repeated)
	}
	if len(c.toSend) > 0 && c.owned == 0 {
		c.take(c.sendBehind(ctx, m.send)) // nobody will ask for these again
	} else if len(c.toSend) > 0 {
		select {
		case results := <-m.start(ctx, c):
			c.take(results)
		case <-ctx.Done():
			m.leave(c)
		}
	}
	return c.collect(ctx)
}

// leave lets c go on without its caller, or ends it when too much does.
func (m *Memory) leave(c *call) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.left = !c.finished && m.left+c.bytes() <= MaxLeftBytes; c.left {
		m.left += c.bytes()
	} else {
		c.cancel()
	}
}

// begin looks every message up and makes entries of the new ids.
func (m *Memory) begin(c *call) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.expireLocked()
	var failed driver.FailedKeys
	for i, message := range c.msgs {
		if c.results[i].Err = failed.Behind(message); c.results[i].Err != nil {
			continue
		}
		if !c.named[i] {
			c.sendHere(i, nil)
			continue
		}
		k := key{c.topic, message.ID}
		e := m.entries[k]
		switch {
		case e == nil:
			e = &entry{key: k, content: c.digests[i], decided: make(chan struct{})}
			m.entries[k] = e
			c.sendHere(i, e)
		case e.content != c.digests[i]:
			c.results[i].Err = driver.Errorf(driver.InvalidMessage, "id",
				"%q was sent to topic %q before, with other content, within the Producer's deduplicationWindowSeconds: choose another id for another message", k.id, k.topic)
			failed.Add(message.ShardingKey)
		default:
			c.waitFor(i, e)
			if e.place == nil && message.ShardingKey != "" {
				c.behind(message.ShardingKey, e)
			}
		}
	}
	if c.owned > 0 {
		m.work.Add(1)
	}
	return true
}

// start sends what is c's own, whether its caller stays or not.
func (m *Memory) start(ctx context.Context, c *call) <-chan []driver.SendResult {
	answer := make(chan []driver.SendResult, 1)
	limit := linger
	if deadline, has := ctx.Deadline(); has {
		limit += time.Until(deadline)
	}
	ctx, c.cancel = context.WithTimeout(context.WithoutCancel(ctx), limit)
	go func() {
		defer m.work.Done()
		defer c.cancel()
		results := c.sendBehind(ctx, m.send)
		m.finish(c, results)
		answer <- results
	}()
	return answer
}

// finish keeps what was stored and forgets what was not. Whoever waits for it is told.
func (m *Memory) finish(c *call, results []driver.SendResult) {
	forgotten := 0
	m.mu.Lock()
	if c.finished = true; c.left {
		m.left -= c.bytes()
	}
	now := time.Now()
	for i, e := range c.entries {
		if e == nil {
			continue
		}
		e.result, e.at = results[i], now
		e.result.RecallHandle = strings.Clone(e.result.RecallHandle) // it may be a part of something large
		if e.result.Err != nil || m.window <= 0 || m.closed {
			delete(m.entries, e.key)
		} else {
			e.place = m.done.PushBack(e)
			m.bytes += e.bytes()
		}
		close(e.decided)
	}
	for m.done.Len() > m.maxIDs || m.bytes > m.maxBytes {
		m.forgetLocked(m.done.Front().Value.(*entry))
		forgotten++
	}
	m.armLocked()
	m.mu.Unlock()
	if forgotten > 0 {
		m.obs.Forgotten(forgotten)
	}
}

func (m *Memory) forgetLocked(e *entry) {
	m.done.Remove(e.place)
	m.bytes -= e.bytes()
	delete(m.entries, e.key)
}

// expireLocked forgets what is older than the window.
func (m *Memory) expireLocked() {
	now := time.Now()
	for first := m.done.Front(); first != nil; first = m.done.Front() {
		e := first.Value.(*entry)
		if now.Sub(e.at) < m.window {
			return
		}
		m.forgetLocked(e)
	}
}

// armLocked sets the timer for the oldest entry, so that a Producer that sends nothing more keeps nothing. Without entries there is none.
func (m *Memory) armLocked() {
	first := m.done.Front()
	if first == nil || m.closed {
		m.disarmLocked()
		return
	}
	if m.timer == nil {
		m.work.Add(1)
		// A second at least, so that at a high rate it does not fire for each id.
		m.timer = time.AfterFunc(max(time.Until(first.Value.(*entry).at.Add(m.window)), time.Second), m.tick)
	}
}

// disarmLocked stops the timer, unless it has rung.
func (m *Memory) disarmLocked() {
	if m.timer != nil && m.timer.Stop() {
		m.timer = nil
		m.work.Done()
	}
}

func (m *Memory) tick() {
	defer m.work.Done()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.timer = nil
	m.expireLocked()
	m.armLocked()
}

// Len is how many ids are remembered or under way.
func (m *Memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.entries)
}

// Close forgets everything and returns when no send of it is under way; who closes has ended those. It works twice and concurrently.
func (m *Memory) Close() {
	m.mu.Lock()
	m.closed = true
	for m.done.Len() > 0 {
		m.forgetLocked(m.done.Front().Value.(*entry))
	}
	m.armLocked()
	m.mu.Unlock()
	m.work.Wait()
}

type nobody struct{}

func (nobody) Repeated(int)  {}
func (nobody) Forgotten(int) {}
