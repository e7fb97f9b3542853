// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Options of a Broker. The zero value is a broker that takes every client and creates topics on first use.
type Options struct {
	// Queues is the number of queues of a topic that is created on first use. 0 = 4.
	Queues int
	// RefuseUnknownTopics answers TopicNotFound instead of creating topics; CreateTopic creates them then.
	RefuseUnknownTopics bool
	// MaxMessageBytes bounds the body of one message, as maxMessageSize does; a producer's own limit is for the whole message. 0 = 4 MiB.
	MaxMessageBytes int
	// MaxTopicMessages and MaxTopicBytes bound what a topic keeps, acknowledged messages included. 0 = 100,000 and 64 MiB.
	MaxTopicMessages int
	MaxTopicBytes    int64
	// MaxBytes bounds what all topics keep. 0 = 512 MiB.
	MaxBytes int64
	// MaxTopics and MaxGroups bound their numbers. 0 = 10,000 each.
	MaxTopics, MaxGroups int
	// Credentials that are let in. Empty = everybody, whatever credentials they show.
	Credentials []driver.Credentials
	// TransactionTimeout is when an undecided transaction is first asked for, TransactionCheckInterval the time to each further check, and
	// TransactionCheckMax how many there are before it is given up. 0 = 6 s, 30 s and 15, as RocketMQ has them.
	TransactionTimeout, TransactionCheckInterval time.Duration
	TransactionCheckMax                          int
	// NameServers, when set, are the only addresses at which the broker can be reached; others are Unavailable, and each client's
	// AllowAddress is asked as it would be before dialling. Empty = every address leads here and none is asked about.
	NameServers []string
}

func (o Options) withDefaults() Options {
	for _, n := range []struct {
		value *int
		def   int
	}{{&o.Queues, 4}, {&o.MaxMessageBytes, 4 << 20}, {&o.MaxTopicMessages, 100_000}, {&o.MaxTopics, 10_000}, {&o.MaxGroups, 10_000},
		{&o.TransactionCheckMax, 15}} {
		if *n.value <= 0 {
			*n.value = n.def
		}
	}
	if o.TransactionTimeout <= 0 {
		o.TransactionTimeout = 6 * time.Second
	}
	if o.TransactionCheckInterval <= 0 {
		o.TransactionCheckInterval = 30 * time.Second
	}
	if o.MaxTopicBytes <= 0 {
		o.MaxTopicBytes = 64 << 20
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 512 << 20
	}
	return o
}

// Broker is the broker. It is safe for concurrent use and needs no closing: it is memory and nothing else.
type Broker struct {
	options Options
	faults  Faults
	seed    maphash.Seed
	// start is the zero of all times below: they are durations on the monotonic clock.
	start time.Time

	mu    sync.Mutex
	state lockedState
}

// lockedState is what Broker.mu guards, everything reachable from it included.
type lockedState struct {
	topics  map[string]*topic
	groups  map[string]*group
	clients map[*gate]driver.ClientID
	bytes   int64
	// transactions are those of all groups.
	transactions transactions
	// lastID numbers groups and topics, lastGeneration leases.
	lastID, lastGeneration uint64
}

// NewBroker makes an empty broker.
func NewBroker(o Options) *Broker {
	return &Broker{options: o.withDefaults(), seed: maphash.MakeSeed(), start: time.Now(), state: lockedState{
		topics: map[string]*topic{}, groups: map[string]*group{}, clients: map[*gate]driver.ClientID{},
	}}
}

// Faults makes calls fail or hang, for tests.
func (b *Broker) Faults() *Faults { return &b.faults }

// CreateTopic creates a topic with that many queues, 0 = Options.Queues; an existing topic stays as it is. namespace may be empty.
func (b *Broker) CreateTopic(namespace, name string, queues int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if queues <= 0 {
		queues = b.options.Queues
	}
	_, err := b.ensureTopic(withNamespace(namespace, name), queues)
	return err
}

// DeleteTopic forgets a topic, its messages and all positions in it. It reports false when there is no such topic or a group with an open
// Consumer reads it.
func (b *Broker) DeleteTopic(namespace, name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	full := withNamespace(namespace, name)
	t := b.state.topics[full]
	if t == nil || slices.ContainsFunc(t.cursors, func(c *cursor) bool { return c.group.members > 0 }) {
		return false
	}
	for _, c := range t.cursors {
		delete(c.group.cursors, full)
		delete(c.group.byID, t.id)
		if c.group.retry == c {
			c.group.retry = nil
		}
	}
	b.state.bytes -= t.bytes
	delete(b.state.topics, full)
	return true
}

// DeleteGroup forgets a group and its positions, so that it no longer holds messages back. It reports false when there is no such group or it has
// an open Consumer.
func (b *Broker) DeleteGroup(namespace, name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	full := withNamespace(namespace, name)
	g := b.state.groups[full]
	if g == nil || g.members > 0 {
		return false
	}
	for _, c := range g.cursors {
		c.releaseAll()
		c.topic.cursors = slices.DeleteFunc(c.topic.cursors, func(other *cursor) bool { return other == c })
	}
	delete(b.state.groups, full)
	return true
}

// Clients lists the ids of the Producers and Consumers that are open, in order.
func (b *Broker) Clients() []driver.ClientID {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Values(b.state.clients))
}

// Stats is a count of what the broker holds.
type Stats struct {
	Topics, Groups, Clients int
	// Messages and Bytes are what topics keep, acknowledged messages included. Held is what groups have leased, delayed or waiting again.
	Messages, Held int
	Bytes          int64
}

// Stats counts.
func (b *Broker) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Stats{Topics: len(b.state.topics), Groups: len(b.state.groups), Clients: len(b.state.clients), Bytes: b.state.bytes}
	for _, t := range b.state.topics {
		s.Messages += t.count
		for _, c := range t.cursors {
			s.Held += len(c.held) + len(c.left)
		}
	}
	return s
}

// now is the broker's clock.
func (b *Broker) now() time.Duration { return time.Since(b.start) }

// at turns the broker's clock into a time of this process.
func (b *Broker) at(d time.Duration) time.Time { return b.start.Add(d) }

// useTopic finds a topic or creates it where that is allowed. Called under mu.
func (b *Broker) useTopic(full string) (*topic, error) {
	if t := b.state.topics[full]; t != nil {
		return t, nil
	}
	if b.options.RefuseUnknownTopics {
		return nil, b.topicNotFound(full)
	}
	return b.ensureTopic(full, b.options.Queues)
}

func (b *Broker) topicNotFound(full string) error {
	return driver.Errorf(driver.TopicNotFound, "", "topic %q does not exist and this broker does not create topics on first use", full)
}

func (b *Broker) ensureTopic(full string, queues int) (*topic, error) {
	if t := b.state.topics[full]; t != nil {
		return t, nil
	}
	if len(b.state.topics) >= b.options.MaxTopics {
		return nil, driver.Errorf(driver.Throttled, "", "topic %q was not created: the broker has %d topics, its limit MaxTopics", full, b.options.MaxTopics)
	}
	b.state.lastID++
	t := newTopic(full, b.state.lastID, queues)
	b.state.topics[full] = t
	return t, nil
}

func (b *Broker) ensureGroup(full string) (*group, error) {
	if g := b.state.groups[full]; g != nil {
		return g, nil
	}
	if len(b.state.groups) >= b.options.MaxGroups {
		return nil, driver.Errorf(driver.Throttled, "group", "group %q was not created: the broker has %d groups, its limit MaxGroups", full, b.options.MaxGroups)
	}
	b.state.lastID++
	g := &group{name: full, id: b.state.lastID, cursors: map[string]*cursor{}, byID: map[uint64]*cursor{}}
	b.state.groups[full] = g
	return g, nil
}

// withNamespace is RocketMQ's full name of a topic or group: the namespace comes after the prefix of retry and dead-letter topics.
func withNamespace(namespace, name string) string {
	if namespace == "" {
		return name
	}
	for _, prefix := range []string{"%RETRY%", "%DLQ%"} {
		if rest, found := strings.CutPrefix(name, prefix); found {
			return prefix + namespace + "%" + rest
		}
	}
	return namespace + "%" + name
}
