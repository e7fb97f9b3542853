// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// leastServer is the least that stores what it gets: gRPC on the one side, RocketMQ's protocol on the other, what waits goes together. It knows no
// objects, callers or rights, checks and counts nothing, tries nothing again and forgets its callers' deadlines. So it says how fast a proxy made of these
// parts can be at all on this machine, beside this load generator and this broker.
type leastServer struct {
	proxyv1alpha1.UnimplementedProducerServiceServer
	client  *wire.Client
	topic   string
	queues  []wire.Queue
	masters map[string]string
	turn    atomic.Int64

	mu      sync.Mutex // guards the rest
	flying  bool
	waiting []*leastCall
}

// leastCall is a call that waits; done gets one answer.
type leastCall struct {
	messages []wire.BatchMessage
	done     chan error
}

// leastMost is how many messages of 1 KiB go in one request at most: about 1 MiB, as the proxy's.
const leastMost = 960

func (s *leastServer) Send(ctx context.Context, r *proxyv1alpha1.SendRequest) (*proxyv1alpha1.SendResponse, error) {
	messages := make([]wire.BatchMessage, len(r.GetMessages()))
	results := make([]*proxyv1alpha1.SendResult, len(messages))
	for i, m := range r.GetMessages() {
		id := fmt.Sprintf("%032X", s.turn.Add(1))
		messages[i] = wire.BatchMessage{Text: wire.MessageProperties(&driver.Message{ID: id}), Body: m.GetBody()}
		results[i] = &proxyv1alpha1.SendResult{MessageId: id}
	}
	if err := s.store(ctx, messages); err != nil {
		return nil, err
	}
	return &proxyv1alpha1.SendResponse{Results: results}, nil
}

// store sends at once when nothing is under way, else with what waits.
func (s *leastServer) store(ctx context.Context, messages []wire.BatchMessage) error {
	s.mu.Lock()
	if s.flying {
		c := &leastCall{messages, make(chan error, 1)}
		s.waiting = append(s.waiting, c)
		s.mu.Unlock()
		return <-c.done
	}
	s.flying = true
	s.mu.Unlock()
	err := s.put(ctx, messages)
	if calls := s.next(); calls != nil {
		go s.fly(context.WithoutCancel(ctx), calls)
	}
	return err
}

// next takes what waits, as far as it fits; nil = nothing, and nothing is under way any more.
func (s *leastServer) next() []*leastCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, total := 0, 0
	for ; n < len(s.waiting); n++ {
		if total += len(s.waiting[n].messages); n > 0 && total > leastMost {
			break
		}
	}
	calls := s.waiting[:n:n]
	if s.waiting = s.waiting[n:]; len(s.waiting) == 0 {
		s.waiting = nil
	}
	s.flying = n > 0
	if n == 0 {
		return nil
	}
	return calls
}

// fly sends calls, and what waits then, until nothing does. Its life is that of the calls, which the server waits for.
func (s *leastServer) fly(ctx context.Context, calls []*leastCall) {
	for ; calls != nil; calls = s.next() {
		var all []wire.BatchMessage
		for _, c := range calls {
			all = append(all, c.messages...)
		}
		err := s.put(ctx, all)
		for _, c := range calls {
			c.done <- err
		}
	}
}

func (s *leastServer) put(ctx context.Context, messages []wire.BatchMessage) (err error) {
	queue := s.queues[int(s.turn.Add(1))%len(s.queues)]
	if len(messages) == 1 {
		_, err = s.client.Send(ctx, s.masters[queue.Broker], wire.Outgoing{
			ProducerGroup: "least", Topic: s.topic, Queue: queue.ID, Broker: queue.Broker, Text: messages[0].Text, Body: messages[0].Body, BornTime: time.Now(),
		})
		return err
	}
	_, err = s.client.SendBatch(ctx, s.masters[queue.Broker], wire.Batch{
		ProducerGroup: "least", Topic: s.topic, Queue: queue.ID, Broker: queue.Broker, BornTime: time.Now(), Messages: messages,
	})
	return err
}

// least serves, with what the proxy has to be fast: goroutines that are kept for the next call, its windows, and room for the collector.
func least(ctx context.Context, a workerArgs) error {
	debug.SetGCPercent(400)
	client := wire.New(driver.Connection{NameServers: []string{a.nameServer}, AllowAddress: func(string) error { return nil }}, wire.Options{})
	defer client.Close()
	route, err := client.Route(ctx, a.topic)
	if err != nil {
		return err
	}
	s := &leastServer{client: client, topic: a.topic, queues: route.Writable(a.topic), masters: route.Masters()}
	if len(s.queues) == 0 {
		return errors.New("the topic has no queue to write to")
	}
	return a.serve(ctx, func(server *grpc.Server) { proxyv1alpha1.RegisterProducerServiceServer(server, s) },
		grpc.WaitForHandlers(true), grpc.NumStreamWorkers(32), grpc.InitialWindowSize(256<<10), grpc.InitialConnWindowSize(1<<20))
}
