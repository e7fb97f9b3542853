// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// producer is a driver.Producer.
type producer struct {
	*gate
	broker    *Broker
	group     string
	namespace string
	limit     int
	topics    []string
	// transactional: its configuration asked for transactions. watchers are guarded by broker.mu.
	transactional bool
	watchers      []*watcher
}

// Limits says what a request to this broker may carry; the bytes leave room for one message of the largest size.
func (p *producer) Limits() driver.BatchLimits {
	return driver.BatchLimits{Messages: 1024, Bytes: p.broker.options.MaxMessageBytes}
}

// Lane implements driver.Producer.
func (p *producer) Lane(topicName, key string) int {
	p.broker.mu.Lock()
	defer p.broker.mu.Unlock()
	if t := p.broker.state.topics[withNamespace(p.namespace, topicName)]; t != nil {
		return driver.Shard(key, len(t.queues))
	}
	return 0
}

// Send stores all good messages of the call, or none of them: those without a sharding key in one queue.
func (p *producer) Send(ctx context.Context, topicName string, msgs []*driver.Message) []driver.SendResult {
	results := make([]driver.SendResult, len(msgs))
	for i, m := range msgs {
		results[i] = driver.SendResult{Queue: -1, Offset: -1}
		if m != nil {
			results[i].MessageID = m.ID
		}
	}
	if !p.enter() {
		return failAll(results, closedError())
	}
	defer p.inside.Done()
	fate := p.broker.faults.enter(ctx, Send, p.group, p.done)
	if fate.before == nil && ctx.Err() != nil {
		fate.before = timeout(ctx)
	}
	if fate.before != nil {
		p.note(fate.before)
		return failAll(results, fate.before)
	}
	p.store(topicName, msgs, results)
	if fate.after != nil {
		p.note(fate.after)
		return failAll(results, fate.after)
	}
	p.note(nil)
	return results
}

func failAll(results []driver.SendResult, err error) []driver.SendResult {
	for i := range results {
		if results[i].Err == nil {
			results[i].Queue, results[i].Offset, results[i].Broker, results[i].Err = -1, -1, "", err
		}
	}
	return results
}

// store copies the good messages before it takes the lock.
func (p *producer) store(topicName string, msgs []*driver.Message, results []driver.SendResult) {
	full, born := withNamespace(p.namespace, topicName), time.Now()
	b := p.broker
	all := make([]*stored, len(msgs))
	var now, back []*stored
	var failed driver.FailedKeys
	for i, m := range msgs {
		if results[i].Err = cmp.Or(p.check(topicName, m), failed.Behind(m)); results[i].Err != nil {
			failed.Note(m, results[i].Err)
			continue
		}
		s := newStored(m, topicName, born)
		if all[i] = s; m.When.Later() {
			if due := b.dueAt(m.When); due > b.now() {
				s.due, back = due, append(back, s)
				continue
			}
		}
		now = append(now, s)
	}
	if len(now)+len(back) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t, err := b.useTopic(full)
	if err != nil {
		failAll(results, err)
		return
	}
	errNow, errBack := b.store(t, now), b.keepBack(t, back)
	for i, s := range all {
		r := &results[i]
		switch {
		case s == nil:
		case s.due > 0 && errBack == nil:
			r.Broker, r.RecallHandle = Name, recallHandle(full, b.at(s.due), s.ID)
		case s.due > 0:
			r.Err = errBack
		case errNow == nil:
			r.Broker, r.Queue, r.Offset = Name, s.queue, s.offset
		default:
			r.Err = errNow
		}
	}
}

// sends reports whether the topic, with its namespace, is among the producer's.
func (p *producer) sends(full string) bool {
	return slices.ContainsFunc(p.topics, func(topic string) bool { return withNamespace(p.namespace, topic) == full })
}

func (p *producer) check(topicName string, m *driver.Message) error {
	if m == nil {
		return driver.ValidateMessage(nil, p.limit)
	}
	if m.Topic != "" && m.Topic != topicName {
		return driver.Errorf(driver.InvalidMessage, "topic", "the message is for %q, the call for %q", m.Topic, topicName)
	}
	if m.ID == "" {
		return driver.Errorf(driver.InvalidMessage, "id", "the message has no id; the sender's side sets it before Send")
	}
	checked := *m
	checked.Topic = topicName
	if err := driver.ValidateMessage(&checked, p.limit); err != nil {
		return err
	}
	if most := p.broker.options.MaxMessageBytes; len(m.Body) > most {
		return driver.Errorf(driver.InvalidMessage, "body", "the body has %d bytes; the broker takes at most %d (its maxMessageSize)", len(m.Body), most)
	}
	return p.broker.checkDelay(m.When)
}

func (p *producer) Err() error { return p.err() }

// Close waits for the Sends under way, which end at once.
func (p *producer) Close(ctx context.Context) error {
	return p.broker.faults.enterClose(ctx, p.group, func() {
		p.close(func() {
			p.broker.mu.Lock()
			delete(p.broker.state.clients, p.gate)
			watchers := p.watchers
			p.broker.mu.Unlock()
			for _, w := range watchers {
				p.unwatch(w)
			}
		})
	})
}
