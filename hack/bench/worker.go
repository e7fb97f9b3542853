// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
)

// workerArgs are what a contender's process is told on its command line.
type workerArgs struct {
	nameServer, topic, dir string
	callers, batch         int
	window                 time.Duration
	tls                    bool
}

// work is the main function of a contender's process. Its last line on standard output is a JSON figure (echo: its address, first).
func work(ctx context.Context, worker string, a workerArgs) error {
	rlog.SetLogLevel("error")
	switch worker {
	case "echo":
		return echo(ctx, a)
	case "raw-send":
		return rawSend(ctx, a)
	case "raw-receive":
		return rawReceive(ctx, a)
	default:
		return fmt.Errorf("no worker is named %q", worker)
	}
}

// echoServer answers a Send with the ids it got: the cheapest honest answer to the same request.
type echoServer struct {
	proxyv1alpha1.UnimplementedProducerServiceServer
	proxyv1alpha1.UnimplementedConsumerServiceServer
}

func (echoServer) Send(_ context.Context, r *proxyv1alpha1.SendRequest) (*proxyv1alpha1.SendResponse, error) {
	results := make([]*proxyv1alpha1.SendResult, len(r.GetMessages()))
	for i, m := range r.GetMessages() {
		results[i] = &proxyv1alpha1.SendResult{MessageId: m.GetId()}
	}
	return &proxyv1alpha1.SendResponse{Results: results}, nil
}

// Receive streams frames of 32 deliveries of 1 KiB against acks, as the proxy does.
func (echoServer) Receive(stream grpc.BidiStreamingServer[proxyv1alpha1.ReceiveRequest, proxyv1alpha1.ReceiveResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	credit := make(chan int, 1024)
	credit <- int(first.GetMaxOutstandingMessages())
	go func() { // ends with the stream: Recv fails then
		defer close(credit)
		for {
			frame, err := stream.Recv()
			if err != nil {
				return
			}
			credit <- len(frame.GetAcks())
		}
	}()
	body, free, next := make([]byte, 1024), 0, 0
	for n := range credit {
		for free += n; free >= 32; free -= 32 {
			frame := &proxyv1alpha1.ReceiveResponse{}
			for range 32 {
				next++
				frame.Deliveries = append(frame.Deliveries, &proxyv1alpha1.Delivery{Message: &proxyv1alpha1.ReceivedMessage{Body: body, Topic: "echo"}, AckToken: fmt.Sprintf("%0160d", next)})
			}
			if err := stream.Send(frame); err != nil {
				return err
			}
		}
	}
	return nil
}

func echo(ctx context.Context, a workerArgs) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var options []grpc.ServerOption
	if a.tls {
		certificate, err := tls.LoadX509KeyPair(filepath.Join(a.dir, "tls.crt"), filepath.Join(a.dir, "tls.key"))
		if err != nil {
			return err
		}
		options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12})))
	}
	server := grpc.NewServer(options...)
	proxyv1alpha1.RegisterProducerServiceServer(server, echoServer{})
	proxyv1alpha1.RegisterConsumerServiceServer(server, echoServer{})
	fmt.Println(listener.Addr())
	stopped := context.AfterFunc(ctx, server.Stop)
	defer stopped()
	return server.Serve(listener)
}

// rawSend is the library's SendSync from a.callers goroutines, a.batch messages a call.
func rawSend(ctx context.Context, a workerArgs) error {
	p, err := rocketmq.NewProducer(producer.WithNsResolver(primitive.NewPassthroughResolver([]string{a.nameServer})),
		producer.WithGroupName(fmt.Sprintf("raw_%d", os.Getpid())), producer.WithInstanceName(fmt.Sprintf("raw%d", os.Getpid())))
	if err != nil {
		return err
	}
	if err := p.Start(); err != nil {
		return err
	}
	defer func() { _ = p.Shutdown() }() // the process ends
	body := make([]byte, 1024)
	send := func(ctx context.Context) (int, error) {
		messages := make([]*primitive.Message, a.batch)
		for i := range messages {
			messages[i] = primitive.NewMessage(a.topic, body)
		}
		result, err := p.SendSync(ctx, messages...)
		if err == nil && result.Status != primitive.SendOK {
			err = fmt.Errorf("status %d", result.Status)
		}
		return a.batch, err
	}
	if err := untilItWorks(ctx, send); err != nil {
		return err
	}
	if err := warm(ctx, a.callers, send); err != nil {
		return err
	}
	f, err := drive(ctx, a.callers, a.window, os.Getpid(), send)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

// untilItWorks calls until the first success: a fresh topic's route reaches the name server a moment after the topic was created.
func untilItWorks(ctx context.Context, do call) error {
	for began := time.Now(); ; {
		_, err := do(ctx)
		if err == nil || ctx.Err() != nil || time.Since(began) > 15*time.Second {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// rawReceive reads a backlog with the library's push consumer, batches of 32.
func rawReceive(ctx context.Context, a workerArgs) error {
	c, err := rocketmq.NewPushConsumer(consumer.WithNsResolver(primitive.NewPassthroughResolver([]string{a.nameServer})),
		consumer.WithGroupName(fmt.Sprintf("raw_%d", os.Getpid())), consumer.WithInstance(fmt.Sprintf("raw%d", os.Getpid())),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset), consumer.WithConsumeMessageBatchMaxSize(32), consumer.WithPullBatchSize(32))
	if err != nil {
		return err
	}
	var count atomic.Int64
	first := make(chan struct{})
	var once sync.Once
	err = c.Subscribe(a.topic, consumer.MessageSelector{}, func(_ context.Context, ms ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		count.Add(int64(len(ms)))
		once.Do(func() { close(first) })
		return consumer.ConsumeSuccess, nil
	})
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	select {
	case <-first:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(60 * time.Second):
		return errors.New("the push consumer received nothing within 60 s")
	}
	f, err := watch(ctx, a.window, os.Getpid(), count.Load)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}
