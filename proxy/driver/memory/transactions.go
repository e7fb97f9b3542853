// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"context"
	"hash/maphash"
	"strconv"
	"strings"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// half is a message of a transaction. It counts as kept by its topic until it is rolled back or given up. Guarded by Broker.mu.
type half struct {
	*stored
	number uint64
	topic  *topic
	// group is the producers', with its namespace.
	group string
	// decision is empty while nobody has decided; gaveUp: it was asked for too often.
	decision driver.Decision
	gaveUp   bool
	times    int
	next     time.Duration
}

// transactions are all that were begun. Guarded by Broker.mu.
type transactions struct {
	last   uint64
	halves map[uint64]*half
	// undecided are those that nobody has ended, in the order of their numbers; ended are the others, the oldest first, of which maxEnded are remembered.
	undecided, ended []*half
	watchers         []*watcher
	turn             int
	// timer rings for the next check. It is armed only while somebody watches and something is undecided.
	timer *time.Timer
}

// maxEnded is how many ended transactions are remembered, to tell who ends one again.
const maxEnded = 10_000

const halfPrefix = "memtx."

// halfHandle writes the number of a transaction as text, with a checksum as the handles of leases have.
func (b *Broker) halfHandle(number uint64) driver.TransactionHandle {
	text := halfPrefix + strconv.FormatUint(number, 36)
	return driver.TransactionHandle(text + "." + strconv.FormatUint(maphash.String(b.seed, text), 36))
}

// halfOf finds the transaction of a handle.
func (b *Broker) halfOf(handle driver.TransactionHandle) (*half, error) {
	number, _, _ := strings.Cut(strings.TrimPrefix(string(handle), halfPrefix), ".")
	n, err := strconv.ParseUint(number, 36, 64)
	if err != nil || b.halfHandle(n) != handle {
		return nil, driver.Errorf(driver.InvalidHandle, "transaction", "not a handle of a transaction of this broker")
	}
	h := b.state.transactions.halves[n]
	if h == nil || h.gaveUp {
		return nil, driver.Errorf(driver.TooLate, "", "the broker does not have the message any more")
	}
	return h, nil
}

// Begin implements driver.Transactional.
func (p *producer) Begin(ctx context.Context, m *driver.Message) (driver.Transaction, error) {
	var t driver.Transaction
	err := p.transact(ctx, Begin, func() (err error) {
		t, err = p.begin(m)
		return err
	})
	if err != nil {
		return driver.Transaction{}, err
	}
	return t, nil
}

// End implements driver.Transactional.
func (p *producer) End(ctx context.Context, handle driver.TransactionHandle, d driver.Decision) error {
	if d != driver.Commit && d != driver.Rollback {
		return driver.Errorf(driver.InvalidMessage, "decision", "%q is neither %s nor %s", d, driver.Commit, driver.Rollback)
	}
	return p.transact(ctx, End, func() error { return p.end(handle, d) })
}

// transact is the frame of both.
func (p *producer) transact(ctx context.Context, op Operation, do func() error) error {
	switch {
	case !p.transactional:
		return driver.ErrNoTransactions()
	case !p.enter():
		return closedError()
	}
	defer p.inside.Done()
	fate := p.broker.faults.enter(ctx, op, p.group, p.done)
	if fate.before == nil && ctx.Err() != nil {
		fate.before = timeout(ctx)
	}
	err := fate.before
	if err == nil {
		if err = do(); err == nil {
			err = fate.after
		}
	}
	p.note(err)
	return err
}

func (p *producer) begin(m *driver.Message) (driver.Transaction, error) {
	topicName := ""
	if m != nil {
		topicName = m.Topic
	}
	if err := p.check(topicName, m); err != nil {
		return driver.Transaction{}, err
	}
	if err := driver.ValidateTransaction(m); err != nil {
		return driver.Transaction{}, err
	}
	full := withNamespace(p.namespace, topicName)
	if !p.sends(full) {
		return driver.Transaction{}, driver.Errorf(driver.TopicNotFound, "topic", "%q is not among the topics of this producer", topicName)
	}
	s := newStored(m, topicName, time.Now())
	b := p.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	t, err := b.useTopic(full)
	if err == nil {
		err = b.admit(t, []*stored{s})
	}
	if err != nil {
		return driver.Transaction{}, err
	}
	all := &b.state.transactions
	all.last++
	h := &half{stored: s, number: all.last, topic: t, group: withNamespace(p.namespace, p.group), next: b.now() + b.options.TransactionTimeout}
	if all.halves == nil {
		all.halves = make(map[uint64]*half)
	}
	all.halves[h.number] = h
	all.undecided = append(all.undecided, h)
	b.armChecks()
	return driver.Transaction{MessageID: s.ID, Handle: b.halfHandle(h.number), Broker: Name}, nil
}

func (p *producer) end(handle driver.TransactionHandle, d driver.Decision) error {
	b := p.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	h, err := b.halfOf(handle)
	switch {
	case err != nil:
		return err
	case h.group != withNamespace(p.namespace, p.group):
		return driver.Errorf(driver.InvalidHandle, "transaction", "it is a transaction of another producer group")
	case h.decision == d:
		return nil
	case h.decision == driver.Commit:
		return driver.Errorf(driver.TransactionEnded, "", "the transaction was committed before; that cannot be changed")
	case h.decision == driver.Rollback:
		return driver.Errorf(driver.TransactionEnded, "", "the transaction was rolled back before; that cannot be changed")
	case b.state.topics[h.topic.name] != h.topic:
		return driver.Errorf(driver.TooLate, "", "topic %q was deleted, and the message with it", h.topic.name)
	}
	h.decision = d
	b.ended(h)
	if d == driver.Rollback {
		b.dismiss(h)
		return nil
	}
	b.letOut(h.topic, b.now())
	b.enqueue(h.topic, []*stored{h.stored})
	return nil
}

// dismiss takes a message out of its topic's count.
func (b *Broker) dismiss(h *half) {
	if b.state.topics[h.topic.name] != h.topic {
		return // it went with the topic
	}
	h.topic.bytes, h.topic.count, b.state.bytes = h.topic.bytes-h.bytes, h.topic.count-1, b.state.bytes-h.bytes
}

// ended moves a transaction to those that are only remembered.
func (b *Broker) ended(h *half) {
	all := &b.state.transactions
	for i, other := range all.undecided {
		if other == h {
			all.undecided = append(all.undecided[:i], all.undecided[i+1:]...)
			break
		}
	}
	all.ended = append(all.ended, h)
	if len(all.ended) > maxEnded {
		delete(all.halves, all.ended[0].number)
		all.ended[0] = nil
		all.ended = all.ended[1:]
	}
}
