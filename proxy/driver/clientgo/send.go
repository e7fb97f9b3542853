// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"time"

	liberrors "github.com/apache/rocketmq-client-go/v2/errors"
	"github.com/apache/rocketmq-client-go/v2/primitive"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// retryPause is between two tries of one message.
const retryPause = 20 * time.Millisecond

// entry is one message of a Send and the place of its answer.
type entry struct {
	message *driver.Message
	result  *driver.SendResult
	timer   timer
	// shard is where it must go, nil = anywhere. Messages of one queue share one value.
	shard *wire.Queue
}

// Send implements driver.Producer.
func (p *producer) Send(ctx context.Context, topic string, msgs []*driver.Message) []driver.SendResult {
	results := make([]driver.SendResult, len(msgs))
	for i, m := range msgs {
		results[i] = driver.SendResult{Queue: -1, Offset: -1}
		if m != nil {
			results[i].MessageID = m.ID
		}
	}
	if !p.gate.Enter() {
		return failAll(results, errClosed())
	}
	defer p.gate.Leave()
	if !p.sends(topic) {
		return failAll(results, driver.Errorf(driver.TopicNotFound, "topic", "%q is not among the topics of this producer, which are %q", topic, p.cfg.Topics))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.gate.Life(), cancel)()
	failed := &driver.FailedKeys{}
	for _, request := range p.requests(p.shard(ctx, topic, p.timed(ctx, p.valid(topic, msgs, results)))) {
		p.store(ctx, topic, request, failed)
	}
	return results
}

func failAll(results []driver.SendResult, err error) []driver.SendResult {
	for i := range results {
		results[i].Err = err
	}
	return results
}

// valid answers the messages that are wrong in themselves, and those behind them, and returns the others.
func (p *producer) valid(topic string, msgs []*driver.Message, results []driver.SendResult) []entry {
	var failed driver.FailedKeys
	good := make([]entry, 0, len(msgs))
	for i, m := range msgs {
		err := driver.ValidateMessage(m, p.cfg.MaxMessageBytes)
		switch {
		case err != nil:
		case m.Topic != topic:
			err = driver.Errorf(driver.InvalidMessage, "topic", "the message is for topic %q, the call for %q", m.Topic, topic)
		case m.ID == "":
			err = driver.Errorf(driver.InvalidMessage, "id", "the id is empty; the caller sets it")
		default:
			err = failed.Behind(m)
		}
		if err != nil {
			failed.Note(m, err)
			results[i].Err = err
			continue
		}
		good = append(good, entry{message: m, result: &results[i]})
	}
	return good
}

// requests gathers messages into requests within the limits: those of one shard, and those that may go anywhere, in their order. What shall be compressed
// goes alone: the library compresses no batch. So does what is delivered later: in a batch brokers ignore the time.
func (p *producer) requests(entries []entry) [][]entry {
	var all [][]entry
	open := make(map[*wire.Queue]*gathering)
	flush := func(g *gathering) {
		if len(g.entries) > 0 {
			all = append(all, g.entries)
		}
		g.entries, g.size = nil, 0
	}
	var order []*gathering
	for _, e := range entries {
		n := e.message.Bytes()
		g := open[e.shard]
		if g == nil {
			g = &gathering{}
			open[e.shard], order = g, append(order, g)
		}
		alone := p.cfg.CompressAbove > 0 && len(e.message.Body) > p.cfg.CompressAbove || e.timer.name != ""
		if alone && e.shard == nil {
			all = append(all, []entry{e})
			continue
		}
		if alone || len(g.entries) >= batchMessages || g.size+n > batchBytes {
			flush(g)
		}
		g.entries, g.size = append(g.entries, e), g.size+n
		if alone {
			flush(g) // what follows must not overtake it
		}
	}
	for _, g := range order {
		flush(g)
	}
	return all
}

// gathering is a request that is not full.
type gathering struct {
	entries []entry
	size    int64
}

// store sends one request until it is stored, refused, out of tries or out of time, and writes every message's answer. Of a refused batch each
// message is tried alone, so that a bad one fails alone. failed are the sharding keys of which a message failed before.
func (p *producer) store(ctx context.Context, topic string, request []entry, failed *driver.FailedKeys) {
	if request = without(request, failed); len(request) == 0 {
		return
	}
	result, err := p.persist(ctx, topic, request)
	if err != nil && len(request) > 1 && !driver.Retryable(err) {
		for i := range request {
			p.store(ctx, topic, request[i:i+1], failed)
		}
		return
	} else if len(request) == 1 {
		err = wire.ExplainTooLarge(err, len(request[0].message.Body))
	}
	p.health.note(err)
	for i, e := range request {
		if err != nil {
			failed.Note(e.message, err)
			e.result.Err = err
			continue
		}
		e.result.Broker, e.result.Queue = result.MessageQueue.BrokerName, result.MessageQueue.QueueId
		e.result.Offset = result.QueueOffset + int64(i)
	}
}

// persist tries one request on up to 1 + Retries brokers, or as often in its one queue.
func (p *producer) persist(ctx context.Context, topic string, request []entry) (*primitive.SendResult, error) {
	size := int64(0)
	for _, e := range request {
		size += e.message.Bytes()
	}
	leave, ok := p.gate.Take(ctx, p.air, min(size, airBytes))
	if !ok {
		return nil, p.ended(ctx, nil)
	}
	defer leave()
	avoid := ""
	for try := 0; ; try++ {
		a := p.try(ctx, topic, request, avoid)
		if a.err == nil || try >= p.cfg.Retries || !worthAnother(a.err) {
			return a.result, a.err
		}
		avoid = a.broker
		if !driver.Sleep(ctx, retryPause) {
			return nil, p.ended(ctx, a.err)
		}
	}
}

// worthAnother: what is stored but not replicated must not be stored again, and what is refused will be refused again.
func worthAnother(err error) bool {
	switch driver.ReasonOf(err) {
	case driver.Unavailable, driver.Timeout, driver.Throttled:
		return true
	default:
		return false
	}
}

// ended is why a send stops when its context has ended: the client is closing, or the caller's time is over. last is the error before.
func (p *producer) ended(ctx context.Context, last error) error {
	if p.gate.Shut() {
		return errClosed()
	}
	if last == nil {
		return wire.Errorf(ctx.Err(), "send")
	}
	return driver.Errorf(driver.Timeout, "", "the time for the send is over; before that: %w", last)
}

// answer is what a try brought. broker is the one that was asked; empty = not known.
type answer struct {
	result *primitive.SendResult
	broker string
	err    error
}

// try sends one request once. It returns by ctx's end or SendTimeout: the library may wait for another caller's attempt to connect, under a
// lock and without a context, so the call runs in a goroutine of its own; that ends when the attempt does and is waited for by Close.
func (p *producer) try(ctx context.Context, topic string, request []entry, avoid string) answer {
	if ctx.Err() != nil {
		return answer{err: p.ended(ctx, nil)}
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.SendTimeout)
	defer cancel()
	choice := newChoice(avoid, request[0].shard)
	msgs := p.encode(topic, request, choice)
	done := make(chan answer, 1)
	p.gate.Stay()
	go func() {
		defer p.gate.Leave()
		pprof.SetGoroutineLabels(p.labels)
		var a answer
		a.err = guarded("send", func() (err error) {
			a.result, err = p.library.SendSync(ctx, msgs...)
			return err
		})
		a.broker = choice.BrokerName // the selector writes it in this goroutine
		done <- a
	}()
	select {
	case a := <-done:
		return p.judge(a)
	case <-ctx.Done():
	}
	select {
	case a := <-done: // both came; an answer is better
		return p.judge(a)
	default:
		return answer{err: p.ended(ctx, nil)}
	}
}

// encode makes new messages of the library, which writes into them: a second try with the same ones would, for one, prefix the topic twice. The
// caller may change its own as soon as Send returns, so bodies are copied.
func (p *producer) encode(topic string, request []entry, choice *primitive.MessageQueue) []*primitive.Message {
	msgs := make([]*primitive.Message, len(request))
	for i, e := range request {
		m := primitive.NewMessage(wire.WithNamespace(p.cfg.Connection.Namespace, topic), bytes.Clone(e.message.Body))
		m.WithProperties(driver.StoredProperties(e.message))
		if e.timer.name != "" {
			m.WithProperty(e.timer.name, e.timer.value)
		}
		m.Queue = choice
		msgs[i] = m
	}
	return msgs
}

// judge turns the library's answer into ours: OK is only what is stored as safely as the broker is configured to.
func (p *producer) judge(a answer) answer {
	switch {
	case a.err != nil && p.gate.Shut():
		a.err = errClosed()
	case a.err != nil:
		a.err = sendError(a.err)
	default:
		a.err = statusError(a.result.Status)
	}
	return a
}

func statusError(status primitive.SendStatus) error {
	switch status {
	case primitive.SendOK:
		return nil
	case primitive.SendFlushDiskTimeout, primitive.SendFlushSlaveTimeout, primitive.SendSlaveNotAvailable:
		return driver.Errorf(driver.NotReplicated, "", "stored, but not flushed or replicated in time (status %d); a retry may duplicate", status)
	default:
		return driver.Errorf(driver.Unavailable, "", "the library answered with status %d", status)
	}
}

// sendError classifies an error of the library. It hands broker answers on as text only.
func sendError(err error) error {
	var known *driver.Error
	var code int
	switch _, scanned := fmt.Sscanf(err.Error(), "CODE: %d,", &code); {
	case errors.As(err, &known):
		return known
	case scanned == nil:
		return driver.Errorf(reasonOfSend(code), "", "the broker refused the message: %w", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, liberrors.ErrRequestTimeout):
		return driver.Errorf(driver.Timeout, "", "no answer in time; the message may be stored, and a retry may duplicate it: %w", err)
	default:
		return driver.Errorf(driver.Unavailable, "", "%w", err)
	}
}

// reasonOfSend is wire.ReasonOfCode, but for the code of a queue that does not exist: the topic was proven, so the route is out of date.
func reasonOfSend(code int) driver.Reason {
	if code == wire.CodeInvalidParameter {
		return driver.Unavailable
	}
	return wire.ReasonOfCode(code)
}
