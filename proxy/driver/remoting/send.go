// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

const (
	// retryPause is before a second try at the same broker; it doubles with each further one, up to retryPauseMost. Another broker is tried at once.
	retryPause     = 20 * time.Millisecond
	retryPauseMost = time.Second
	// blameAfter is how long a broker has not answered when the end of the caller's time counts against it.
	blameAfter = 500 * time.Millisecond
)

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
	entries := p.shard(ctx, p.name(topic), p.valid(topic, msgs, results))
	requests, err := p.pack(ctx, entries)
	if err != nil {
		for _, e := range entries {
			e.result.Err = err
		}
	}
	failed := &driver.FailedKeys{}
	for _, r := range requests {
		p.store(ctx, p.name(topic), r, failed)
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

// store sends r until it is stored, refused, out of tries or out of time, and writes every message's answer. A batch that is refused for what is in
// it is halved until the bad message stands alone: brokers refuse a batch as a whole, also for its size, which their configuration bounds. failed are the
// sharding keys of which a message failed before.
func (p *producer) store(ctx context.Context, name string, r request, failed *driver.FailedKeys) {
	if r = r.without(failed); len(r.entries) == 0 {
		return
	}
	stored, broker, err := p.persist(ctx, name, r)
	if n := len(r.entries); n > 1 && err != nil && driver.ReasonOf(err) == driver.InvalidMessage {
		p.store(ctx, name, r.part(0, n/2), failed)
		p.store(ctx, name, r.part(n/2, n), failed)
		return
	} else if n == 1 {
		err = wire.ExplainTooLarge(err, len(r.entries[0].message.Body))
	}
	p.note(err)
	for i, e := range r.entries {
		if err != nil {
			failed.Note(e.message, err)
			e.result.Err = err
			continue
		}
		e.result.Broker, e.result.Queue, e.result.Offset, e.result.RecallHandle = broker, stored[i].Queue, stored[i].Offset, stored[i].RecallHandle
	}
}

// persist tries r up to 1 + Retries times, at another broker each time while there is one, or in its one queue for messages with a sharding key. The ids
// stay the same, so that a receiver can recognise what was stored twice because an answer was lost.
func (p *producer) persist(ctx context.Context, name string, r request) (stored []wire.Stored, broker string, err error) {
	var tried []string
	pause := retryPause
	for try := 0; ; try++ {
		stored, broker, err = p.try(ctx, name, r, tried)
		if err == nil || try >= p.cfg.Retries || !worthAnother(err) {
			return stored, broker, err
		}
		if p.over(ctx) {
			return nil, "", p.ended(ctx, err)
		}
		again, other := err, false
		if broker != "" {
			tried = append(tried, broker)
			other = r.shard == nil && p.cluster.hasOther(name, tried)
		}
		if !other {
			if !driver.Retryable(again) {
				return nil, "", again // each broker that could have said otherwise was asked
			}
			if !p.sleep(ctx, pause) {
				return nil, "", p.ended(ctx, again)
			}
			pause = min(2*pause, retryPauseMost)
		}
	}
}

// worthAnother: what is stored but not replicated must not be stored again, and a message that one broker calls illegal is so for all. A right that
// is missing and a topic that is unknown may be so at one broker only: it was made read-only, or the route is old.
func worthAnother(err error) bool {
	switch driver.ReasonOf(err) {
	case driver.Unavailable, driver.Timeout, driver.Throttled:
		return true
	case driver.Unauthorized, driver.TopicNotFound:
		_, answered := wire.CodeOf(err)
		return answered
	default:
		return false
	}
}

// try sends r once and tells the cluster what it learnt about the broker. It returns by ctx's end, or SendTimeout after there was room for r.
func (p *producer) try(ctx context.Context, name string, r request, tried []string) ([]wire.Stored, string, error) {
	if p.over(ctx) {
		return nil, "", p.ended(ctx, nil)
	}
	leave, err := p.board(ctx, r)
	if err != nil {
		return nil, "", err
	}
	defer leave()
	limit, cancel := context.WithTimeout(ctx, p.cfg.SendTimeout)
	defer cancel()
	defer context.AfterFunc(p.gate.Life(), cancel)()
	to, err := p.target(limit, name, r, tried)
	if err != nil {
		return nil, "", p.judge(ctx, "", name, wire.Errorf(err, "find a queue"))
	}
	began := time.Now()
	stored, err := p.put(limit, name, to, r)
	if took := time.Since(began); err != nil && took > blameAfter && timeUp(ctx) && !p.gate.Shut() {
		p.cluster.trouble(to.broker, err)
	}
	switch {
	case err != nil:
		return nil, to.broker, p.judge(ctx, to.broker, name, err)
	case time.Since(began) > slowAfter:
		p.cluster.trouble(to.broker, nil)
	default:
		p.cluster.well(to.broker)
	}
	return stored, to.broker, nil
}

// target is where r is tried.
func (p *producer) target(ctx context.Context, name string, r request, tried []string) (target, error) {
	v, err := p.cluster.writable(ctx, name)
	switch {
	case err != nil:
		return target{}, err
	case r.shard == nil:
		return p.cluster.pick(v, tried), nil
	}
	address, ok := v.masters[r.shard.Broker]
	if !ok {
		p.cluster.stale(name)
		return target{}, driver.Errorf(driver.Unavailable, "", "broker %q, whose queue %d has the messages with this sharding key, has no master at present",
			r.shard.Broker, r.shard.ID)
	}
	return target{r.shard.Broker, address, r.shard.ID}, nil
}

// put stores r in one queue.
func (p *producer) put(ctx context.Context, name string, to target, r request) ([]wire.Stored, error) {
	group := wire.WithNamespace(p.cfg.Connection.Namespace, p.cfg.Group)
	if len(r.entries) == 1 {
		m := r.messages[0]
		one, err := p.cluster.wire.Send(ctx, to.address, wire.Outgoing{
			ProducerGroup: group, Topic: name, Queue: to.queue, Broker: to.broker, BornTime: r.born, SysFlag: r.sysFlag, Text: m.Text, Body: m.Body,
		})
		return []wire.Stored{one}, err
	}
	return p.cluster.wire.SendBatch(ctx, to.address, wire.Batch{
		ProducerGroup: group, Topic: name, Queue: to.queue, Broker: to.broker, BornTime: r.born, SysFlag: r.sysFlag, Messages: r.messages,
	})
}

// judge turns a failed try into the answer, and draws the conclusions: brokers that do not answer or are too busy are avoided, and a route that led to a
// dead broker, to an unknown queue or topic or to one that takes no messages is asked for again.
func (p *producer) judge(ctx context.Context, broker, name string, err error) error {
	if p.gate.Shut() {
		return errClosed()
	}
	if timeUp(ctx) {
		return p.ended(ctx, err)
	}
	code, answered := wire.CodeOf(err)
	switch {
	case broker == "":
		return err
	case !answered:
		p.cluster.stale(name)
		p.cluster.trouble(broker, err)
		if driver.ReasonOf(err) == driver.Timeout {
			return driver.Errorf(driver.Timeout, "", "broker %s did not answer within %v; the message may be stored, and a retry may duplicate it: %w",
				broker, p.cfg.SendTimeout, err)
		}
	case code == wire.CodeSystemBusy || code == wire.CodeServiceNotAvailable:
		p.cluster.trouble(broker, err)
	case code == wire.CodeNoPermission || code == wire.CodeTopicNotExist || code == wire.CodeInvalidParameter:
		p.cluster.stale(name)
	}
	return sendError(err, broker, code)
}

// sendError classifies what a broker answered. Code 29 is a queue that does not exist: the topic was proven, so the route was old. Code 1 is
// anything; brokers say it of a batch above their limit, with this text, before they store any of it (MessageExtEncoder, 5.5.0).
func sendError(err error, broker string, code int) error {
	reason := driver.ReasonOf(wire.Errorf(err, ""))
	var answer *wire.AnswerError
	switch {
	case code == wire.CodeInvalidParameter:
		reason = driver.Unavailable
	case code == wire.CodeSystemError && errors.As(err, &answer) && strings.Contains(answer.Remark, "size exceeded"):
		reason = driver.InvalidMessage
	case reason == driver.NotReplicated:
		return driver.Errorf(reason, "", "broker %s stored it, but did not flush or replicate it in time; a retry may duplicate: %w", broker, err)
	}
	return driver.Errorf(reason, "", "send to broker %s: %w", broker, err)
}

// ended is why a send stops when its context has ended: the client is closing, or the caller's time is over. last is the error before.
func (p *producer) ended(ctx context.Context, last error) error {
	if p.gate.Shut() {
		return errClosed()
	}
	if last == nil {
		return wire.Errorf(cmp.Or(ctx.Err(), context.DeadlineExceeded), "send")
	}
	return driver.Errorf(driver.Timeout, "", "the time for the send is over; the message may be stored, and a retry may duplicate it: %w", last)
}

// over reports whether a send is to stop: its caller's time is over, or the producer closes.
func (p *producer) over(ctx context.Context) bool { return timeUp(ctx) || p.gate.Shut() }

// timeUp reports whether ctx has ended, or will in a moment because its deadline has passed: the connection looks at the same deadline and may be
// the first to see it. Another try would then have no time, and its failure would count against a broker that was not asked.
func timeUp(ctx context.Context) bool {
	deadline, bounded := ctx.Deadline()
	return ctx.Err() != nil || bounded && !time.Now().Before(deadline)
}

func (p *producer) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	case <-p.gate.Life().Done():
		return false
	}
}
