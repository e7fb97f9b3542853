// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"cmp"
	"container/heap"
	"math"
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// group is a consumer group. Guarded by Broker.mu, as everything in this file.
type group struct {
	name    string
	id      uint64
	cursors map[string]*cursor
	byID    map[uint64]*cursor
	// members is the number of open Consumers.
	members int
	// retry is the cursor of the group's retry topic, which redriven dead letters go to; nil before the first. redriven are the offsets of those letters, marked is
	// the mark before which there are no others.
	retry    *cursor
	redriven map[int64]struct{}
	marked   int64
	// seen is when it was last marked; see driver.GroupKeeper.
	seen time.Time
}

// never is a due time that does not come.
const never = time.Duration(math.MaxInt64)

// held is a message that was fetched and is not acknowledged.
type held struct {
	*stored
	attempt int
	// generation names the current lease; 0 = not leased.
	generation uint64
	owner      *consumer
	// due is the lease's end, or when a delayed message is ready. index is its place in the heap, -1 = in the ready list.
	due   time.Duration
	index int
	// left: a seek has moved the group away from it. It is leased; when that ends in any way it is forgotten. See cursor.seek.
	left bool
}

// cursor is how far a group has come in a topic.
type cursor struct {
	group *group
	topic *topic
	// positions are the next offsets to hand out, one per queue.
	positions []int64
	held      map[place]*held
	// left are the leases that a seek has left behind, by generation; the same message may be in held again.
	left map[uint64]*held
	due  dueHeap
	// ready is served before new messages: what was given back first, then what expired or was delayed, by its time.
	ready []*held
	// ordered: the group's members are. What waits again is in no list then: it is found by its place.
	ordered bool
	// turn is the queue that the next Fetch looks at first.
	turn    int
	waiters map[*waiter]struct{}
}

// waiter is a Fetch that waits. signal holds one wake-up, so that none is lost.
type waiter struct {
	signal chan struct{}
	// armed is when it will look by itself.
	armed time.Duration
}

func (c *cursor) wake() {
	for w := range c.waiters {
		select {
		case w.signal <- struct{}{}:
		default: // it has one already
		}
	}
}

// wakeBefore wakes those who would look later than due.
func (c *cursor) wakeBefore(due time.Duration) {
	for w := range c.waiters {
		if due < w.armed {
			c.wake()
			return
		}
	}
}

// cursorOf finds the group's cursor or makes it where cfg wants a new one.
func (g *group) cursorOf(t *topic, cfg *driver.ConsumerConfig) *cursor {
	if c := g.cursors[t.name]; c != nil {
		return c
	}
	c := &cursor{group: g, topic: t, positions: make([]int64, len(t.queues)), held: map[place]*held{}, waiters: map[*waiter]struct{}{}}
	c.place(driver.Target{To: cfg.StartFrom, Time: cfg.StartTime})
	g.cursors[t.name], g.byID[t.id] = c, c
	t.cursors = append(t.cursors, c)
	return c
}

// expire moves what is due to the ready list.
func (c *cursor) expire(now time.Duration) {
	for len(c.due) > 0 && c.due[0].due <= now {
		h := heap.Pop(&c.due).(*held)
		if h.left {
			c.forget(h)
			continue
		}
		h.generation, h.owner = 0, nil
		if !c.ordered {
			c.ready = append(c.ready, h)
		}
	}
}

func (c *cursor) nextDue() time.Duration {
	if len(c.due) == 0 {
		return never
	}
	return c.due[0].due
}

// basket collects what one Fetch takes, within its credit.
type basket struct {
	broker   *Broker
	owner    *consumer
	request  driver.FetchRequest
	deadline time.Duration
	bytes    int64
	grants   []grant
	// batch is that of the queue which is being looked at; 0 = it has no order.
	batch uint64
}

// grant is what is needed to tell the caller about a lease after the lock is released.
type grant struct {
	message    *stored
	cursor     *cursor
	attempt    int
	generation uint64
	batch      uint64
}

func (k *basket) full() bool { return len(k.grants) >= k.request.MaxMessages }

// fits lets a first message be larger than the credit, alone.
func (k *basket) fits(m *stored) bool {
	return len(k.grants) == 0 || k.bytes+m.Message.Bytes() <= k.request.MaxBytes
}

// add leases h to the basket's owner; h is in no list.
func (k *basket) add(c *cursor, h *held) {
	k.broker.state.lastGeneration++
	h.generation, h.owner, h.due = k.broker.state.lastGeneration, k.owner, k.deadline
	h.attempt++
	heap.Push(&c.due, h)
	k.bytes += h.Message.Bytes()
	k.grants = append(k.grants, grant{h.stored, c, h.attempt, h.generation, k.batch})
}

// take fills the basket: first what waits again, then new messages from the queues in turn. It reports false when the basket is full.
func (c *cursor) take(k *basket, matches filter) bool {
	before := len(k.grants)
	open := true
	lanes := c.lanes()
	if k.batch = 0; !c.ordered {
		open = c.takeReady(k)
	}
	for i := 0; open && i < len(c.topic.queues); i++ {
		number := (c.turn + i) % len(c.topic.queues)
		if c.ordered {
			open = c.takeLane(k, number, lanes[number], matches)
		} else {
			open = c.takeNew(k, number, matches)
		}
	}
	c.turn = (c.turn + 1) % len(c.topic.queues)
	if len(k.grants) > before {
		c.wakeBefore(k.deadline)
	}
	return open
}

func (c *cursor) takeReady(k *basket) bool {
	for len(c.ready) > 0 {
		h := c.ready[0]
		if k.full() || !k.fits(h.stored) {
			return false
		}
		c.ready[0] = nil
		c.ready = c.ready[1:]
		k.add(c, h)
	}
	return true
}

func (c *cursor) takeNew(k *basket, number int, matches filter) bool {
	q := c.topic.queues[number]
	for i := q.index(c.positions[number]); i < len(q.messages); i++ {
		m := q.messages[i]
		if matches == nil || matches(&m.Message) {
			if k.full() || !k.fits(m) {
				return false
			}
			h := &held{stored: m}
			m.holders++
			c.held[place{number, m.offset}] = h
			k.add(c, h)
		}
		c.positions[number] = m.offset + 1
	}
	return true
}

// find returns the message that t leases now. done means that it is acknowledged and t's time has not passed yet.
func (c *cursor) find(t ticket, now time.Duration) (h *held, done bool) {
	c.expire(now)
	if h = c.left[t.generation]; h != nil && (place{h.queue, h.offset}) == t.place {
		return h, false
	}
	h = c.held[t.place]
	if h != nil {
		if h.generation != t.generation {
			return nil, false
		}
		return h, false
	}
	done = t.place.queue < len(c.positions) && t.place.offset < c.positions[t.place.queue] && now < t.deadline
	return nil, done
}

// remove forgets a leased message: it is acknowledged.
func (c *cursor) remove(h *held) {
	heap.Remove(&c.due, h.index)
	c.forget(h)
}

// forget drops a message that is not in the heap any more.
func (c *cursor) forget(h *held) {
	if h.left {
		delete(c.left, h.generation)
	} else {
		delete(c.held, place{h.queue, h.offset})
	}
	h.holders--
}

// reschedule gives h another due time; with leased it stays leased under a new generation, otherwise it is delayed.
func (c *cursor) reschedule(b *Broker, h *held, due time.Duration, leased bool) {
	if h.left && !leased {
		c.remove(h)
		return
	}
	before := h.generation
	h.due, h.generation = due, 0
	if leased {
		b.state.lastGeneration++
		h.generation = b.state.lastGeneration
	} else {
		h.owner = nil
	}
	if h.left {
		delete(c.left, before)
		c.left[h.generation] = h
	}
	heap.Fix(&c.due, h.index)
	c.wakeBefore(due)
}

// release ends a lease as if the message had never been fetched; requeue must follow.
func (c *cursor) release(h *held) {
	heap.Remove(&c.due, h.index)
	h.generation, h.owner = 0, nil
	h.attempt--
}

// requeue puts released messages at the head of the ready list, in their order.
func (c *cursor) requeue(hs []*held) {
	if len(hs) == 0 {
		return
	}
	if !c.ordered {
		c.ready = slices.Concat(hs, c.ready)
	}
	c.wake()
}

// giveBackOf gives back what a Consumer has leased, in the order it was leased.
func (c *cursor) giveBackOf(owner *consumer) {
	var hs []*held
	for _, h := range c.due {
		if h.owner == owner {
			hs = append(hs, h)
		}
	}
	slices.SortFunc(hs, func(x, y *held) int { return cmp.Compare(x.generation, y.generation) })
	hs = slices.DeleteFunc(hs, func(h *held) bool {
		if h.left {
			c.remove(h)
			return true
		}
		c.release(h)
		return false
	})
	c.requeue(hs)
}

// releaseAll drops everything that the cursor holds.
func (c *cursor) releaseAll() {
	for _, h := range c.held {
		h.holders--
	}
	for _, h := range c.left {
		h.holders--
	}
	c.held, c.left, c.due, c.ready = nil, nil, nil, nil
}

// lag counts what this group has not been handed, or has to be handed again.
func (c *cursor) lag(topic string, now time.Duration) driver.Lag {
	c.expire(now)
	lag := driver.Lag{Topic: topic}
	for _, h := range c.ready {
		lag.Add(1, h.kept)
	}
	if c.ordered {
		for _, h := range c.held {
			if h.index < 0 {
				lag.Add(1, h.kept)
			}
		}
	}
	for i, q := range c.topic.queues {
		if first := q.index(c.positions[i]); first < len(q.messages) {
			lag.Add(int64(len(q.messages)-first), q.messages[first].kept)
		}
	}
	for _, h := range c.due {
		if h.generation == 0 {
			lag.Add(1, h.kept)
		}
	}
	return lag
}

// dueHeap orders by due time; it keeps each element's index.
type dueHeap []*held

func (d dueHeap) Len() int           { return len(d) }
func (d dueHeap) Less(i, j int) bool { return d[i].due < d[j].due }
func (d dueHeap) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}

// Push is for container/heap.
func (d *dueHeap) Push(x any) {
	h := x.(*held)
	h.index = len(*d)
	*d = append(*d, h)
}

// Pop is for container/heap.
func (d *dueHeap) Pop() any {
	last := len(*d) - 1
	h := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	h.index = -1
	return h
}
