// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/timestamppb"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
)

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

// frameOf is how many deliveries go into a frame.
const frameOf = 32

// Receive is the cheapest honest bidirectional stream with the proxy's frames: deliveries of 1 KiB with everything that the proxy tells about
// a message, against credit; a result for each acknowledgement. The reader only counts, the writer sends.
func (echoServer) Receive(stream grpc.BidiStreamingServer[proxyv1alpha1.ReceiveRequest, proxyv1alpha1.ReceiveResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	acks := make(chan []string, 1024)
	go func() { // ends with the stream: Recv fails then
		defer close(acks)
		for {
			frame, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case acks <- frame.GetAcks():
			case <-stream.Context().Done():
				return
			}
		}
	}()
	w := echoWriter{stream: stream, body: make([]byte, bodyBytes)}
	if err := w.deliver(int(first.GetMaxOutstandingMessages()), nil); err != nil {
		return err
	}
	for tokens := range acks {
		results := make([]*proxyv1alpha1.TokenResult, len(tokens))
		for i, token := range tokens {
			results[i] = &proxyv1alpha1.TokenResult{AckToken: token, Outcome: proxyv1alpha1.TokenResult_OK}
		}
		if err := w.deliver(len(tokens), results); err != nil {
			return err
		}
	}
	return nil
}

// echoWriter has the state of one stream's writer.
type echoWriter struct {
	stream grpc.ServerStreamingServer[proxyv1alpha1.ReceiveResponse]
	body   []byte
	free   int // credit
	next   int
}

// deliver sends whole frames against the credit so far, the results with the first.
func (w *echoWriter) deliver(credit int, results []*proxyv1alpha1.TokenResult) error {
	for w.free += credit; w.free >= frameOf || results != nil; results = nil {
		frame := &proxyv1alpha1.ReceiveResponse{Results: results}
		for range min(frameOf, w.free) {
			frame.Deliveries = append(frame.Deliveries, w.delivery())
		}
		w.free -= len(frame.Deliveries)
		if err := w.stream.Send(frame); err != nil {
			return err
		}
	}
	return nil
}

// delivery has ids and tokens as long as the proxy's.
func (w *echoWriter) delivery() *proxyv1alpha1.Delivery {
	w.next++
	now := timestamppb.Now()
	return &proxyv1alpha1.Delivery{
		Message:  &proxyv1alpha1.ReceivedMessage{Topic: "bench", Id: fmt.Sprintf("%032X", w.next), Body: w.body},
		AckToken: fmt.Sprintf("%0160d", w.next), DeliveryAttempt: 1, AckDeadline: now, BornTime: now, StoreTime: now,
	}
}

func echo(ctx context.Context, a workerArgs) error {
	return a.serve(ctx, func(server *grpc.Server) {
		proxyv1alpha1.RegisterProducerServiceServer(server, echoServer{})
		proxyv1alpha1.RegisterConsumerServiceServer(server, echoServer{})
	})
}

// serve tells its address and serves what is registered until ctx ends.
func (a workerArgs) serve(ctx context.Context, register func(*grpc.Server), more ...grpc.ServerOption) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	options, err := a.serverOptions()
	if err != nil {
		return err
	}
	server := grpc.NewServer(append(options, more...)...)
	register(server)
	fmt.Println(listener.Addr())
	stopped := context.AfterFunc(ctx, server.Stop)
	defer stopped()
	return server.Serve(listener)
}

// serverOptions are TLS with the operator's certificate, or nothing.
func (a workerArgs) serverOptions() ([]grpc.ServerOption, error) {
	if !a.tls {
		return nil, nil
	}
	certificate, err := tls.LoadX509KeyPair(filepath.Join(a.dir, "tls.crt"), filepath.Join(a.dir, "tls.key"))
	if err != nil {
		return nil, err
	}
	return []grpc.ServerOption{grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}))}, nil
}
