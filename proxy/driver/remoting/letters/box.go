// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package letters reads and redrives the dead letters of a group at real brokers, for both drivers that have them.
//
// Reading is pulling at offsets, which changes nothing. The mark of what has been redriven is the group's own position in its dead-letter topic, which
// nothing else uses: the group exists, the credentials have a right to it, and RocketMQ's own tools show what is left as the group's lag there.
//
// A letter is redriven by a copy in the group's retry topic, %RETRY%group, which its members alone read: the library's consumer by itself, and the driver
// Remoting beside its pops. POP's own retry topic of v1, %RETRY%group_topic, would be popped by messages and not in order; but a send to it makes the broker
// (5.5.0) take "group_topic" for a group, which it creates or, with autoCreateSubscriptionGroup=false, refuses as unknown, and does not wake the long polls
// of the topic (both tried).
//
// Whether a letter has a copy is looked up in the index of its broker by the message's id; the copy names its letter (driver.PropertyRedriven). Letter and
// copy are on one broker, the copy is the younger one, and brokers delete their log from its old end: while the letter can be read, its copy can be
// found.
package letters

import (
	"context"
	"sync"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/gate"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Options are what a Box is made of.
type Options struct {
	Wire   *wire.Client
	Routes proof.Routes
	Config driver.ConsumerConfig
	// Gate is the consumer's: calls enter it, and end with its life.
	Gate *gate.Gate
	// Stored is called after each copy that the broker has confirmed; it must not block. nil = nobody wants to know.
	Stored func()
}

// Box is the dead letters of one group. It implements driver.DeadLetters, holds nothing open, and is safe for concurrent use.
type Box struct {
	Options
	group string // with its namespace

	mu      sync.Mutex
	masters map[string]string // by broker's name; mu guards it
}

var _ driver.DeadLetters = (*Box)(nil)

// New makes a Box.
func New(o Options) *Box {
	return &Box{Options: o, group: wire.WithNamespace(o.Config.Connection.Namespace, o.Config.Group)}
}

// inside runs do inside the gate, with a context that ends with it.
func (b *Box) inside(ctx context.Context, action string, do func(ctx context.Context) error) error {
	if !b.Gate.Enter() {
		return driver.Errorf(driver.Closed, "", "the client is closed")
	}
	defer b.Gate.Leave()
	bounded, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(b.Gate.Life(), cancel)()
	err := do(bounded)
	switch {
	case err != nil && b.Gate.Shut():
		return driver.Errorf(driver.Closed, "", "the client is closed")
	case err != nil:
		return wire.Errorf(err, "%s of group %q", action, b.Config.Group)
	default:
		return nil
	}
}

// DeadLetterQueues implements driver.DeadLetters.
func (b *Box) DeadLetterQueues(ctx context.Context) (all []driver.DeadLetterQueue, err error) {
	if err := driver.RefuseOwnDeadLetters(&b.Config); err != nil {
		return nil, err
	}
	err = b.inside(ctx, "look at the dead letters", func(ctx context.Context) error {
		queues, err := b.find(ctx)
		if err != nil {
			return err
		}
		all = make([]driver.DeadLetterQueue, len(queues))
		return proof.All(ctx, len(queues), func(ctx context.Context, i int) error { return b.look(ctx, queues[i], &all[i]) })
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// find lists the queues and learns where their brokers are. Without a dead-letter topic there are none.
func (b *Box) find(ctx context.Context) ([]wire.Queue, error) {
	topic := wire.DeadLetterTopic(b.group)
	route, err := b.Routes.Route(ctx, topic)
	if code, ok := wire.CodeOf(err); ok && code == wire.CodeTopicNotExist {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	queues := route.Readable(topic)
	if len(queues) == 0 && len(route.Queues) > 0 {
		return nil, driver.Errorf(driver.Unauthorized, "", "topic %q cannot be read on any of its brokers: give it the permission to read (mqadmin updateTopicPerm -p 6)", topic)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.masters = make(map[string]string, len(queues))
	for _, q := range queues {
		b.masters[q.Broker] = q.Address
	}
	return queues, nil
}

func (b *Box) look(ctx context.Context, q wire.Queue, into *driver.DeadLetterQueue) error {
	oldest, end, err := b.Wire.Bounds(ctx, q, b.group)
	if err != nil {
		return err
	}
	at, err := b.Wire.ConsumerOffset(ctx, q, b.group)
	*into = driver.DeadLetterQueue{Broker: q.Broker, ID: q.ID, Oldest: oldest, End: end, Marked: at.Offset}
	return err
}

// queue is q as the wire wants it.
func (b *Box) queue(ctx context.Context, broker string, id int) (wire.Queue, error) {
	address, err := b.address(ctx, broker)
	return wire.Queue{Topic: wire.DeadLetterTopic(b.group), Broker: broker, Address: address, ID: id}, err
}

func (b *Box) address(ctx context.Context, broker string) (string, error) {
	b.mu.Lock()
	address, known := b.masters[broker]
	b.mu.Unlock()
	if known {
		return address, nil
	}
	if _, err := b.find(ctx); err != nil {
		return "", err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if address, known = b.masters[broker]; !known {
		return "", driver.Errorf(driver.Unavailable, "", "broker %q, which has dead letters of the group, has no master at present", broker)
	}
	return address, nil
}

// ReadDeadLetters implements driver.DeadLetters.
func (b *Box) ReadDeadLetters(ctx context.Context, q driver.DeadLetterQueue, offset int64, n int) (all []*driver.DeadLetter, next int64, err error) {
	err = b.inside(ctx, "read dead letters", func(ctx context.Context) error {
		at, err := b.queue(ctx, q.Broker, q.ID)
		if err != nil {
			return err
		}
		pulled, err := b.Wire.Pull(ctx, at, b.group, offset, n)
		if err != nil {
			return err
		}
		all = make([]*driver.DeadLetter, 0, len(pulled.Messages))
		for i := range pulled.Messages {
			all = append(all, b.letter(q.Broker, &pulled.Messages[i]))
		}
		next = pulled.Next
		return nil
	})
	return all, next, err
}

// letter is a stored message as a dead letter.
func (b *Box) letter(broker string, m *wire.StoredMessage) *driver.DeadLetter {
	l := &driver.DeadLetter{
		Message: driver.Message{
			ID: m.Properties[driver.PropertyID], Tag: m.Properties[driver.PropertyTag], Keys: driver.SplitKeys(m.Properties[driver.PropertyKeys]),
			Properties: driver.OrdinaryProperties(m.Properties), Body: m.Body,
		},
		Broker: broker, Queue: m.Queue, Offset: m.Offset, BornTime: m.Born, DeadTime: m.Stored,
	}
	driver.FillDeadLetter(l, func() string { return m.Properties[propertyRetryTopic] })
	if l.ID == "" {
		l.ID = m.OffsetID
	}
	l.Topic = b.sentTo(l.Topic)
	driver.CheckRedrivable(l, b.Config.Subscriptions)
	if m.Undecoded() && l.Problem == "" {
		l.Problem = "its body does not unpack"
	}
	return l
}

// propertyRetryTopic is where a letter that another program wrote says which topic it was sent to, or which retry topic of POP it came from.
const propertyRetryTopic = "RETRY_TOPIC"

// sentTo is the topic, without the namespace, that named stands for.
func (b *Box) sentTo(named string) string {
	for _, s := range b.Config.Subscriptions {
		topic := wire.WithNamespace(b.Config.Connection.Namespace, s.Topic)
		if named == wire.RetryV1.Topic(b.group, topic) || named == wire.RetryV2.Topic(b.group, topic) {
			return s.Topic
		}
	}
	return wire.WithoutNamespace(b.Config.Connection.Namespace, named)
}
