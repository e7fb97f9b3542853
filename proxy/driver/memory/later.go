// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"container/heap"
	"context"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// maxAhead is how long a message is kept back at most, as brokers do unless they are told otherwise.
const maxAhead = 72 * time.Hour

// later are messages that consumers get when their time has come, the next one first. They count as kept by their topic from the beginning. Nothing
// runs for them: whoever looks at the topic lets out what is due, and who waits for the topic waits no longer than for the next.
type later []*stored

func (l later) Len() int           { return len(l) }
func (l later) Less(i, j int) bool { return l[i].due < l[j].due }
func (l later) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }

// Push is for container/heap.
func (l *later) Push(x any) { *l = append(*l, x.(*stored)) }

// Pop is for container/heap.
func (l *later) Pop() any {
	last := len(*l) - 1
	m := (*l)[last]
	(*l)[last] = nil
	*l = (*l)[:last]
	return m
}

// dueAt is when m is due by the broker's clock; now and before: at once.
func (b *Broker) dueAt(w driver.When) time.Duration {
	if !w.At.IsZero() {
		return w.At.Sub(b.start.Round(0)) // wall clocks: the sender's time is one
	}
	return b.now() + w.Delay
}

// checkDelay refuses what is too far ahead.
func (b *Broker) checkDelay(w driver.When) error {
	if ahead := b.dueAt(w) - b.now(); w.Later() && ahead > maxAhead {
		field := "delay"
		if !w.At.IsZero() {
			field = "deliver_at"
		}
		return driver.Errorf(driver.InvalidMessage, field, "it is %s ahead; the broker keeps a message back for %s at most", ahead.Round(time.Second), maxAhead)
	}
	return nil
}

// keepBack takes messages whose time has not come. Called under mu.
func (b *Broker) keepBack(t *topic, msgs []*stored) error {
	if len(msgs) == 0 {
		return nil
	}
	if err := b.admit(t, msgs); err != nil {
		return err
	}
	for _, m := range msgs {
		heap.Push(&t.later, m)
	}
	for _, c := range t.cursors {
		c.wakeBefore(t.later[0].due)
	}
	return nil
}

// letOut puts what is due into the queues. Called under mu by whoever is about to look at them.
func (b *Broker) letOut(t *topic, now time.Duration) {
	for len(t.later) > 0 && t.later[0].due <= now {
		b.enqueue(t, []*stored{heap.Pop(&t.later).(*stored)})
	}
}

func (t *topic) nextLater() time.Duration {
	if len(t.later) == 0 {
		return never
	}
	return t.later[0].due
}

// recallHandle has the form of RocketMQ's: whoever reads one must not be surprised by the other.
func recallHandle(full string, due time.Time, id string) string {
	return base64.URLEncoding.EncodeToString(fmt.Appendf(nil, "v1 %s %s %d %s", full, Name, due.UnixMilli(), id))
}

// Recall implements driver.Producer. As with RocketMQ the answer is yes while the message's time is ahead.
func (p *producer) Recall(ctx context.Context, handle string) (string, error) {
	if !p.enter() {
		return "", closedError()
	}
	defer p.inside.Done()
	if ctx.Err() != nil {
		return "", timeout(ctx)
	}
	h, err := wire.ParseRecallHandle(handle)
	if err != nil || h.Broker != Name {
		return "", driver.Errorf(driver.InvalidHandle, "recall_handle", "not a recall handle of this broker")
	}
	b := p.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.state.topics[h.Topic]
	if t == nil || !p.sends(h.Topic) {
		return "", driver.Errorf(driver.InvalidHandle, "recall_handle", "it names a message of topic %q, which is not a topic of this producer", h.Topic)
	}
	if b.letOut(t, b.now()); !b.at(b.now()).Before(h.DeliverAt) {
		return "", driver.Errorf(driver.TooLate, "", "message %q was due at %s", h.ID, h.DeliverAt.UTC().Format(time.RFC3339Nano))
	}
	for i, m := range t.later {
		if m.ID == h.ID {
			heap.Remove(&t.later, i)
			t.bytes, t.count, b.state.bytes = t.bytes-m.bytes, t.count-1, b.state.bytes-m.bytes
			break
		}
	}
	return h.ID, nil
}
