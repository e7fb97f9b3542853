// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"context"
	"strconv"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// consumer is a driver.Consumer: a member of a group. All members share the group's cursors.
type consumer struct {
	*gate
	broker     *Broker
	group      *group
	plainGroup string
	namespace  string
	reads      []read
	// subscriptions are what reads are made of.
	subscriptions []driver.Subscription
	ordered       bool
	// turn is the subscription that the next Fetch looks at first. Guarded by Broker.mu.
	turn int
}

// read is one subscription.
type read struct {
	cursor  *cursor
	matches filter
	topic   string
}

// begin is the start of every call: the gate, the fault, the context. With a nil error the caller calls c.inside.Done at its end.
func (c *consumer) begin(ctx context.Context, op Operation) (after, err error) {
	if !c.enter() {
		return nil, closedError()
	}
	fate := c.broker.faults.enter(ctx, op, c.plainGroup, c.done)
	if fate.before != nil {
		c.inside.Done()
		c.note(fate.before)
		return nil, fate.before
	}
	c.note(fate.after)
	return fate.after, nil
}

func (c *consumer) Fetch(ctx context.Context, req driver.FetchRequest) ([]*driver.Received, error) {
	if req.MaxMessages <= 0 || req.Lease <= 0 {
		return nil, driver.Errorf(driver.Invalid, "", "a Fetch needs MaxMessages and Lease above zero, got %d and %v", req.MaxMessages, req.Lease)
	}
	if _, err := c.begin(ctx, Fetch); err != nil {
		return nil, err
	}
	defer c.inside.Done()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	req.Lease = min(req.Lease, maxLease)
	var w *waiter
	defer func() { c.leave(w) }()
	for {
		basket, wait := c.try(req, &w)
		if basket != nil {
			return c.received(basket), nil
		}
		if err := c.wait(ctx, w, wait); err != nil {
			return nil, err
		}
	}
}

// try takes what is there; when nothing is, it joins w to the waiters of all topics and says how long nothing will become due.
func (c *consumer) try(req driver.FetchRequest, w **waiter) (*basket, time.Duration) {
	b := c.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	now, next := b.now(), never
	k := &basket{broker: b, owner: c, request: req, deadline: now + req.Lease}
	reads := c.all()
	c.turn = (c.turn + 1) % len(reads)
	for i := range reads {
		r := reads[(c.turn+i)%len(reads)]
		b.letOut(r.cursor.topic, now)
		r.cursor.expire(now)
		if !r.cursor.take(k, r.matches) {
			break
		}
		next = min(next, r.cursor.nextDue(), r.cursor.topic.nextLater())
	}
	if len(k.grants) > 0 {
		return k, 0
	}
	if *w == nil {
		*w = &waiter{signal: make(chan struct{}, 1)}
	}
	for _, r := range reads {
		r.cursor.waiters[*w] = struct{}{}
	}
	(*w).armed = next
	if next == never {
		return nil, never
	}
	return nil, next - now
}

// wait returns nil when it is worth to try again. It needs a timer only while something of this group is leased or delayed.
func (c *consumer) wait(ctx context.Context, w *waiter, due time.Duration) error {
	var timer <-chan time.Time
	if due != never {
		t := time.NewTimer(due)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-w.signal:
		return nil
	case <-timer:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.done:
		return closedError()
	}
}

func (c *consumer) leave(w *waiter) {
	if w == nil {
		return
	}
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	for _, r := range c.all() {
		delete(r.cursor.waiters, w)
	}
}

// received copies what was leased, outside the lock: a stored message does not change.
func (c *consumer) received(k *basket) []*driver.Received {
	rs := make([]*driver.Received, len(k.grants))
	deadline := c.broker.at(k.deadline)
	for i, g := range k.grants {
		t := ticket{c.group.id, g.cursor.topic.id, place{g.message.queue, g.message.offset}, g.generation, k.deadline}
		rs[i] = &driver.Received{
			Message: cloneMessage(&g.message.Message), Handle: c.broker.seal(t), Attempt: g.attempt, Deadline: deadline,
			BornTime: g.message.born, StoreTime: g.message.kept, Broker: Name, Queue: g.message.queue, Offset: g.message.offset,
			Batch: g.batch,
		}
	}
	return rs
}

// locate finds the cursor that a handle means. Called under Broker.mu.
func (c *consumer) locate(h driver.Handle) (ticket, *cursor, error) {
	t, err := c.broker.unseal(h)
	if err != nil {
		return ticket{}, nil, err
	}
	cur := c.group.byID[t.topic]
	if t.group != c.group.id || cur == nil {
		return ticket{}, nil, badHandle()
	}
	return t, cur, nil
}

func expired() error {
	return driver.Errorf(driver.LeaseExpired, "", "the lease of this delivery has ended; the message comes or came again")
}

// each runs do under the lock for every handle, and finally, when it is not nil, after the last one.
func (c *consumer) each(
	ctx context.Context, op Operation, hs []driver.Handle, do func(now time.Duration, h driver.Handle) error, finally func(),
) []error {
	errs := make([]error, len(hs))
	after, err := c.begin(ctx, op)
	if err != nil {
		return repeat(errs, err)
	}
	defer c.inside.Done()
	if ctx.Err() != nil {
		return repeat(errs, timeout(ctx))
	}
	b := c.broker
	b.mu.Lock()
	now := b.now()
	for i, h := range hs {
		errs[i] = do(now, h)
	}
	if finally != nil {
		finally()
	}
	b.mu.Unlock()
	if after != nil {
		return repeat(errs, after)
	}
	return errs
}

func repeat(errs []error, err error) []error {
	for i := range errs {
		errs[i] = err
	}
	return errs
}

func (c *consumer) Ack(ctx context.Context, hs []driver.Handle) []error {
	return c.each(ctx, Ack, hs, func(now time.Duration, handle driver.Handle) error {
		t, cur, err := c.locate(handle)
		if err != nil {
			return err
		}
		h, done := cur.find(t, now)
		if h != nil {
			cur.remove(h)
			cur.wakeOrdered()
		} else if !done {
			return expired()
		}
		return nil
	}, nil)
}

// one finds the message that a handle leases now, for the calls that need a live lease. Called under Broker.mu.
func (c *consumer) one(now time.Duration, handle driver.Handle) (ticket, *cursor, *held, error) {
	t, cur, err := c.locate(handle)
	if err != nil {
		return t, nil, nil, err
	}
	h, _ := cur.find(t, now)
	if h == nil {
		return t, nil, nil, expired()
	}
	return t, cur, h, nil
}

func (c *consumer) Nack(ctx context.Context, handle driver.Handle, delay time.Duration) (time.Duration, error) {
	delay = min(max(delay, 0), maxDelay)
	errs := c.each(ctx, Nack, []driver.Handle{handle}, func(now time.Duration, handle driver.Handle) error {
		_, cur, h, err := c.one(now, handle)
		if err != nil {
			return err
		}
		cur.reschedule(c.broker, h, now+delay, false)
		return nil
	}, nil)
	return delay, errs[0]
}

func (c *consumer) Extend(ctx context.Context, handle driver.Handle, lease time.Duration) (driver.Handle, time.Time, error) {
	lease = min(max(lease, 0), maxLease)
	var t ticket
	errs := c.each(ctx, Extend, []driver.Handle{handle}, func(now time.Duration, handle driver.Handle) error {
		var cur *cursor
		var h *held
		var err error
		if t, cur, h, err = c.one(now, handle); err != nil {
			return err
		}
		cur.reschedule(c.broker, h, now+lease, true)
		t.generation, t.deadline = h.generation, h.due
		return nil
	}, nil)
	if errs[0] != nil {
		return "", time.Time{}, errs[0]
	}
	return c.broker.seal(t), c.broker.at(t.deadline), nil
}

// GiveBack keeps the order of the handles: the first one comes again first.
func (c *consumer) GiveBack(ctx context.Context, hs []driver.Handle) []error {
	given := map[*cursor][]*held{}
	return c.each(ctx, GiveBack, hs, func(now time.Duration, handle driver.Handle) error {
		_, cur, h, err := c.one(now, handle)
		switch {
		case err != nil:
		case h.left:
			cur.remove(h)
		default:
			cur.release(h)
			given[cur] = append(given[cur], h)
		}
		return err
	}, func() {
		for cur, hs := range given {
			cur.requeue(hs)
		}
	})
}

// DeadLetter stores the copy and acknowledges the original in one step, so that it is never there twice.
func (c *consumer) DeadLetter(ctx context.Context, m *driver.Received, reason string) error {
	if m == nil {
		return driver.Errorf(driver.InvalidMessage, "", "the message is missing")
	}
	plain := driver.DeadLetterTopic(c.plainGroup)
	letter := newStored(&m.Message, plain, time.Now())
	setDeadLetterProperties(letter, m, reason)
	errs := c.each(ctx, DeadLetter, []driver.Handle{m.Handle}, func(now time.Duration, handle driver.Handle) error {
		_, cur, h, err := c.one(now, handle)
		if err != nil {
			return err
		}
		t, err := c.broker.ensureTopic(withNamespace(c.namespace, plain), 1)
		if err == nil {
			err = c.broker.store(t, []*stored{letter})
		}
		if err == nil {
			cur.remove(h)
			cur.wakeOrdered()
		}
		return err
	}, nil)
	return errs[0]
}

func setDeadLetterProperties(letter *stored, m *driver.Received, reason string) {
	if letter.Properties == nil {
		letter.Properties = make(map[string]string, 4)
	}
	letter.Properties[driver.PropertyDeadLetterReason] = driver.CutReason(reason)
	letter.Properties[driver.PropertyDeadLetterAttempts] = strconv.Itoa(m.Attempt)
	letter.Properties[driver.PropertyDeadLetterTopic] = m.Topic
	letter.Properties[driver.PropertyDeadLetterMessageID] = m.ID
	letter.bytes = letter.Message.Bytes() + overhead
}

// Lag counts what waits before filters are applied, as RocketMQ does.
func (c *consumer) Lag(ctx context.Context) ([]driver.Lag, error) {
	if _, err := c.begin(ctx, Lag); err != nil {
		return nil, err
	}
	defer c.inside.Done()
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	now := c.broker.now()
	lags := make([]driver.Lag, len(c.reads))
	for i, r := range c.reads {
		c.broker.letOut(r.cursor.topic, now)
		lags[i] = r.cursor.lag(r.topic, now)
	}
	if retry := c.group.retry; retry != nil {
		waiting := retry.lag("", now)
		lags[0].Add(waiting.Waiting, waiting.Oldest) // of whatever topic they are, as RocketMQ counts them
	}
	return lags, nil
}

func (c *consumer) Err() error { return c.err() }

// Close gives back what this member has leased; the other members get it at once.
func (c *consumer) Close(ctx context.Context) error {
	return c.broker.faults.enterClose(ctx, c.plainGroup, func() {
		c.close(func() {
			b := c.broker
			b.mu.Lock()
			defer b.mu.Unlock()
			for _, cur := range c.group.cursors {
				cur.expire(b.now())
				cur.giveBackOf(c)
			}
			c.group.members--
			delete(b.state.clients, c.gate)
		})
	})
}
