// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Begin implements driver.Transactional.
func (p *producer) Begin(ctx context.Context, m *driver.Message) (driver.Transaction, error) {
	switch {
	case p.transactions == nil:
		return driver.Transaction{}, driver.ErrNoTransactions()
	case !p.gate.Enter():
		return driver.Transaction{}, errClosed()
	}
	defer p.gate.Leave()
	r, err := p.half(m)
	if err != nil {
		return driver.Transaction{}, err
	}
	name := p.name(m.Topic)
	stored, broker, err := p.keepBack(ctx, name, r)
	p.note(err)
	if err != nil {
		return driver.Transaction{}, err
	}
	at, err := stored.CommitLogOffset()
	if err != nil {
		return driver.Transaction{}, wire.Errorf(err, "read where broker %s has the message", broker)
	}
	h := wire.Half{Topic: name, Broker: broker, ID: m.ID, Born: r.born.UnixMilli(), Offset: stored.Offset, CommitLog: at}
	return driver.Transaction{MessageID: m.ID, Handle: halfHandle(h), Broker: broker}, nil
}

// half is the request that stores m as a half message.
func (p *producer) half(m *driver.Message) (request, error) {
	if err := driver.ValidateTransaction(m); err != nil {
		return request{}, err
	}
	results := make([]driver.SendResult, 1)
	topic := ""
	if m != nil {
		topic = m.Topic
	}
	good := p.valid(topic, []*driver.Message{m}, results)
	if len(good) == 0 {
		return request{}, results[0].Err
	}
	if !p.sends(topic) {
		return request{}, driver.Errorf(driver.TopicNotFound, "topic", "%q is not among the topics of this producer, which are %q", topic, p.cfg.Topics)
	}
	r := pack(good, p.cfg.CompressAbove)[0]
	r.sysFlag |= wire.SysPrepared
	r.messages[0].Text = wire.HalfMessage(p.group()) + r.messages[0].Text
	return r, nil
}

// keepBack tries another broker only when one has refused: a half message that was stored twice would be a second transaction, and whoever is asked for
// it would say again what he said of the first.
func (p *producer) keepBack(ctx context.Context, name string, r request) (wire.Stored, string, error) {
	var tried []string
	pause := retryPause
	for try := 0; ; try++ {
		stored, broker, err := p.try(ctx, name, r, tried)
		if err == nil {
			return stored[0], broker, nil
		}
		if _, refused := wire.CodeOf(err); !refused || try >= p.cfg.Retries || !worthAnother(err) {
			return wire.Stored{}, "", err
		}
		tried = append(tried, broker)
		if !p.cluster.hasOther(name, tried) {
			if !driver.Retryable(err) {
				return wire.Stored{}, "", err
			}
			if !p.sleep(ctx, pause) {
				return wire.Stored{}, "", p.ended(ctx, err)
			}
			pause = min(2*pause, retryPauseMost)
		}
	}
}

// group is the producer group with its namespace.
func (p *producer) group() string { return wire.WithNamespace(p.cfg.Connection.Namespace, p.cfg.Group) }

// noSuchID is the id of no message.
const noSuchID = "proxy-asks-for-its-rights-only"

// proveTransactions proves the rights that ending a transaction needs beyond that of sending, and makes p transactional. A broker that does not answer is
// no reason to fail where another one does.
func (p *producer) proveTransactions(ctx context.Context) error {
	for i, topic := range p.names() {
		v, err := p.cluster.writable(ctx, topic)
		if err != nil {
			return wire.Errorf(err, "find topic %q", topic)
		}
		brokers := slices.Sorted(maps.Keys(v.masters))
		answers := make([]error, len(brokers))
		err = proof.All(ctx, len(brokers), func(ctx context.Context, j int) error {
			if answers[j] = p.proveEnds(ctx, topic, v.masters[brokers[j]]); answers[j] != nil && !driver.Retryable(answers[j]) {
				return answers[j]
			}
			return nil
		})
		if err == nil && !slices.Contains(answers, nil) {
			err = answers[0]
		}
		if err != nil {
			return proof.WithField(err, "topics["+strconv.Itoa(i)+"]")
		}
	}
	p.transactions = newTransactions(p)
	p.cluster.rememberTransactions(p.transactions)
	return nil
}

// proveEnds does what ending does, with nothing to end.
func (p *producer) proveEnds(ctx context.Context, topic, address string) error {
	id := string(p.cfg.ClientID)
	lock := wire.Lock{Topic: topic, Name: noSuchID + id}
	_, err := p.cluster.wire.Copies(ctx, address, topic, noSuchID, 0)
	if err == nil {
		_, err = p.cluster.wire.Lock(ctx, address, p.group(), id, lock)
	}
	if err == nil {
		err = p.cluster.wire.Unlock(ctx, address, p.group(), id, []wire.Lock{lock})
	}
	switch code, _ := wire.CodeOf(err); {
	case err == nil:
		return nil
	case code == wire.CodeNoPermission:
		return driver.Errorf(driver.Unauthorized, "transactions",
			"transactions need rights beside that of sending: grant the credentials Sub on the topic %q and on the group %q: %w", topic, p.group(), err)
	default:
		return wire.Errorf(err, "ask %s what transactions need", address)
	}
}

// halfAddress is where the broker of a half message is. A topic that its broker has just made by itself may not have a route yet.
func (p *producer) halfAddress(ctx context.Context, h wire.Half) (string, error) {
	address, err := p.cluster.address(ctx, h.Topic, h.Broker)
	if code, answered := wire.CodeOf(err); !answered || code != wire.CodeTopicNotExist {
		return address, err
	}
	if makers, unknown := p.cluster.viewOf(ctx, wire.DefaultTopic); unknown == nil && makers.masters[h.Broker] != "" {
		return makers.masters[h.Broker], nil
	}
	return "", err
}
