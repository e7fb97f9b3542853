// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"context"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var _ driver.DeadLetters = (*consumer)(nil)

// all is what a Fetch reads: the subscriptions, and the group's retry topic once there is one. Called under Broker.mu.
func (c *consumer) all() []read {
	if c.group.retry == nil {
		return c.reads
	}
	return append(c.reads[:len(c.reads):len(c.reads)], read{cursor: c.group.retry, topic: c.reads[0].topic})
}

// locked runs do under the broker's lock, as one call of op.
func (c *consumer) locked(ctx context.Context, op Operation, do func() error) error {
	after, err := c.begin(ctx, op)
	if err != nil {
		return err
	}
	defer c.inside.Done()
	if ctx.Err() != nil {
		return timeout(ctx)
	}
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	if err := do(); err != nil {
		return err
	}
	return after
}

// grave is the group's dead-letter topic, nil = there is none. Called under Broker.mu.
func (c *consumer) grave() *topic {
	return c.broker.state.topics[withNamespace(c.namespace, driver.DeadLetterTopic(c.plainGroup))]
}

// DeadLetterQueues implements driver.DeadLetters. The topic has one queue, as RocketMQ makes it.
func (c *consumer) DeadLetterQueues(ctx context.Context) (all []driver.DeadLetterQueue, err error) {
	if err := driver.RefuseOwnDeadLetters(&driver.ConsumerConfig{Group: c.plainGroup, Subscriptions: c.subscriptions}); err != nil {
		return nil, err
	}
	err = c.locked(ctx, ReadDeadLetters, func() error {
		if t := c.grave(); t != nil {
			for i, q := range t.queues {
				one := driver.DeadLetterQueue{Broker: Name, ID: i, Oldest: q.next, End: q.next, Marked: c.group.marked}
				if len(q.messages) > 0 {
					one.Oldest = q.messages[0].offset
				}
				all = append(all, one)
			}
		}
		return nil
	})
	return all, err
}

// ReadDeadLetters implements driver.DeadLetters.
func (c *consumer) ReadDeadLetters(ctx context.Context, q driver.DeadLetterQueue, offset int64, n int) (all []*driver.DeadLetter, next int64, err error) {
	err = c.locked(ctx, ReadDeadLetters, func() error {
		t := c.grave()
		if t == nil || q.ID >= len(t.queues) {
			return nil
		}
		queue := t.queues[q.ID]
		i := queue.index(offset)
		found := queue.messages[i:min(i+n, len(queue.messages))]
		for _, m := range found {
			all = append(all, c.letter(m))
		}
		if next = queue.next; i+len(found) < len(queue.messages) {
			next = queue.messages[i+len(found)].offset
		}
		return nil
	})
	return all, next, err
}

func (c *consumer) letter(m *stored) *driver.DeadLetter {
	l := &driver.DeadLetter{Message: cloneMessage(&m.Message), Broker: Name, Queue: m.queue, Offset: m.offset, BornTime: m.born, DeadTime: m.kept}
	driver.FillDeadLetter(l, func() string { return "" })
	driver.CheckRedrivable(l, c.subscriptions)
	return l
}

// Redriven implements driver.DeadLetters.
func (c *consumer) Redriven(ctx context.Context, letters []*driver.DeadLetter) ([]bool, error) {
	found := make([]bool, len(letters))
	err := c.locked(ctx, ReadDeadLetters, func() error {
		for i, l := range letters {
			_, found[i] = c.group.redriven[l.Offset]
		}
		return nil
	})
	return found, err
}

// Redrive implements driver.DeadLetters.
func (c *consumer) Redrive(ctx context.Context, l *driver.DeadLetter) error {
	if l.Problem != "" {
		return driver.Errorf(driver.Unsupported, "", "%s", l.Problem)
	}
	copied := newStored(&l.Message, l.Topic, l.BornTime)
	if copied.Properties == nil {
		copied.Properties = make(map[string]string, 1)
	}
	copied.Properties[driver.PropertyRedriven] = l.Place()
	return c.locked(ctx, Redrive, func() error {
		t, err := c.broker.ensureTopic(withNamespace(c.namespace, "%RETRY%"+c.plainGroup), 1)
		if err != nil {
			return err
		}
		g := c.group
		if g.retry == nil {
			g.retry = g.cursorOf(t, &driver.ConsumerConfig{StartFrom: driver.Earliest})
		}
		if err := c.broker.store(t, []*stored{copied}); err != nil {
			return err
		}
		if g.redriven == nil {
			g.redriven = make(map[int64]struct{})
		}
		g.redriven[l.Offset] = struct{}{}
		for _, other := range g.cursors {
			other.wake() // a Fetch that waits since before there was a retry topic is not among its waiters
		}
		return nil
	})
}

// MarkRedriven implements driver.DeadLetters.
func (c *consumer) MarkRedriven(ctx context.Context, _ driver.DeadLetterQueue, offset int64) error {
	return c.locked(ctx, Redrive, func() error {
		for ; c.group.marked < offset; c.group.marked++ {
			delete(c.group.redriven, c.group.marked) // nobody looks before the mark
		}
		return nil
	})
}
