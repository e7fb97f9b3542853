// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"context"
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
}

// Limits says what a request to this broker may carry; the bytes leave room for one message of the largest size.
func (p *producer) Limits() driver.BatchLimits {
	return driver.BatchLimits{Messages: 1024, Bytes: p.broker.options.MaxMessageBytes}
}

// Send stores all good messages of the call in one queue, or none of them.
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
	good := make([]*stored, 0, len(msgs))
	for i, m := range msgs {
		if err := p.check(topicName, m); err != nil {
			results[i].Err = err
			continue
		}
		good = append(good, newStored(m, topicName, born))
	}
	if len(good) == 0 {
		return
	}
	b := p.broker
	b.mu.Lock()
	t, err := b.useTopic(full)
	if err == nil {
		err = b.store(t, good)
	}
	b.mu.Unlock()
	if err != nil {
		failAll(results, err)
		return
	}
	for i := range results {
		if results[i].Err == nil {
			results[i].Broker, results[i].Queue, results[i].Offset = Name, good[0].queue, good[0].offset
			good = good[1:]
		}
	}
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
	return driver.ValidateMessage(&checked, p.limit)
}

func (p *producer) Err() error { return p.err() }

// Close waits for the Sends under way, which end at once.
func (p *producer) Close(ctx context.Context) error {
	return p.broker.faults.enterClose(ctx, p.group, func() {
		p.close(func() {
			p.broker.mu.Lock()
			defer p.broker.mu.Unlock()
			delete(p.broker.state.clients, p.gate)
		})
	})
}
