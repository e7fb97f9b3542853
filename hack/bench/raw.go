// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// Clients of the library are not shut down: the process ends, and Shutdown may panic.

func rawOptions(a workerArgs) []producer.Option {
	return []producer.Option{
		producer.WithNsResolver(primitive.NewPassthroughResolver([]string{a.nameServer})),
		producer.WithGroupName(fmt.Sprintf("raw_%d", os.Getpid())), producer.WithInstanceName(fmt.Sprintf("raw%d", os.Getpid())),
	}
}

func rawProducer(a workerArgs, options ...producer.Option) (rocketmq.Producer, error) {
	p, err := rocketmq.NewProducer(append(rawOptions(a), options...)...)
	if err != nil {
		return nil, err
	}
	return p, p.Start()
}

// sendSync sends a new message for each body: the library changes what it is given.
func sendSync(ctx context.Context, p rocketmq.Producer, topic string, bodies ...[]byte) error {
	messages := make([]*primitive.Message, len(bodies))
	for i := range messages {
		messages[i] = primitive.NewMessage(topic, bodies[i])
	}
	return sent(p.SendSync(ctx, messages...))
}

func sent(result *primitive.SendResult, err error) error {
	if err == nil && result.Status != primitive.SendOK {
		err = fmt.Errorf("status %d", result.Status)
	}
	return err
}

// rawSend is the library's SendSync from a.callers goroutines, a.batch messages a call.
func rawSend(ctx context.Context, a workerArgs) (figure, error) {
	p, err := rawProducer(a)
	if err != nil {
		return figure{}, err
	}
	bodies := make([][]byte, a.batch)
	for i := range bodies {
		bodies[i] = make([]byte, bodyBytes)
	}
	return rawDrive(ctx, a, func(ctx context.Context) (int, error) { return a.batch, sendSync(ctx, p, a.topic, bodies...) })
}

// rawDrive measures send from a.callers goroutines.
func rawDrive(ctx context.Context, a workerArgs, send call) (figure, error) {
	if err := untilItWorks(ctx, send); err != nil {
		return figure{}, err
	}
	if err := warm(ctx, a.callers, send); err != nil {
		return figure{}, err
	}
	return drive(ctx, a.callers, a.window, a.parties(), send)
}

// rawOrdered is SendSync with a sharding key and the library's selector that puts equal keys into one queue.
func rawOrdered(ctx context.Context, a workerArgs) (figure, error) {
	p, err := rawProducer(a, producer.WithQueueSelector(producer.NewHashQueueSelector()))
	if err != nil {
		return figure{}, err
	}
	var turn atomic.Int64
	send := func(ctx context.Context) (int, error) {
		m := primitive.NewMessage(a.topic, make([]byte, bodyBytes)).WithShardingKey(shardingKey(turn.Add(1)))
		return 1, sent(p.SendSync(ctx, m))
	}
	return rawDrive(ctx, a, send)
}

// rawTransaction is the library's transactional producer: it stores the half message, asks the listener, and commits by a request that nobody
// answers. Its producer stays alive through the process's end, and so do its check-backs, which nobody needs.
func rawTransaction(ctx context.Context, a workerArgs) (figure, error) {
	p, err := rocketmq.NewTransactionProducer(commits{}, rawOptions(a)...)
	if err != nil {
		return figure{}, err
	}
	if err := p.Start(); err != nil {
		return figure{}, err
	}
	send := func(ctx context.Context) (int, error) {
		result, err := p.SendMessageInTransaction(ctx, primitive.NewMessage(a.topic, make([]byte, bodyBytes)))
		if err != nil {
			return 1, err
		}
		return 1, sent(result.SendResult, nil)
	}
	return rawDrive(ctx, a, send)
}

// commits decides for every message at once.
type commits struct{}

func (commits) ExecuteLocalTransaction(*primitive.Message) primitive.LocalTransactionState {
	return primitive.CommitMessageState
}

func (commits) CheckLocalTransaction(*primitive.MessageExt) primitive.LocalTransactionState {
	return primitive.CommitMessageState
}

// rawConsume starts the library's push consumer at the topic's oldest message.
func rawConsume(a workerArgs, got func(...*primitive.MessageExt), options ...consumer.Option) error {
	c, err := rocketmq.NewPushConsumer(append([]consumer.Option{
		consumer.WithNsResolver(primitive.NewPassthroughResolver([]string{a.nameServer})),
		consumer.WithGroupName(fmt.Sprintf("raw_%d", os.Getpid())), consumer.WithInstance(fmt.Sprintf("raw%d", os.Getpid())),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
	}, options...)...)
	if err != nil {
		return err
	}
	err = c.Subscribe(a.topic, consumer.MessageSelector{}, func(_ context.Context, ms ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		got(ms...)
		return consumer.ConsumeSuccess, nil
	})
	if err != nil {
		return err
	}
	return c.Start()
}

// rawReceive reads a backlog, batches of 32.
func rawReceive(ctx context.Context, a workerArgs) (figure, error) {
	var count atomic.Int64
	first, once := make(chan struct{}), sync.Once{}
	err := rawConsume(a, func(ms ...*primitive.MessageExt) {
		count.Add(int64(len(ms)))
		once.Do(func() { close(first) })
	}, consumer.WithConsumeMessageBatchMaxSize(32), consumer.WithPullBatchSize(32))
	if err != nil {
		return figure{}, err
	}
	select {
	case <-first:
	case <-ctx.Done():
		return figure{}, ctx.Err()
	case <-time.After(60 * time.Second):
		return figure{}, errors.New("the push consumer received nothing within 60 s")
	}
	return watch(ctx, a.window, a.parties(), count.Load)
}

// rawPaced sends at a steady rate with one client and receives with another one, as an application that uses the library does.
func rawPaced(ctx context.Context, a workerArgs) (figure, error) {
	producing, err := rawProducer(a)
	if err != nil {
		return figure{}, err
	}
	p, first, once := newPaced(), make(chan struct{}), sync.Once{}
	err = rawConsume(a, func(ms ...*primitive.MessageExt) {
		for _, m := range ms {
			p.arrived(m.Body)
		}
		once.Do(func() { close(first) })
	})
	if err != nil {
		return figure{}, err
	}
	send := func(ctx context.Context, body []byte) error { return sendSync(ctx, producing, a.topic, body) }
	if err := probe(ctx, first, send); err != nil {
		return figure{}, err
	}
	return p.run(ctx, a.window, a.parties(), func() {}, send)
}
