// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/memory"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
)

// echo is the least that a gRPC server can do with a Send. Callers and server share this process in both benchmarks, so that the difference of
// cpu-us/op is what the proxy adds.
type echo struct {
	pb.UnimplementedProducerServiceServer
}

func (echo) Send(_ context.Context, req *pb.SendRequest) (*pb.SendResponse, error) {
	return &pb.SendResponse{Results: []*pb.SendResult{{MessageId: req.Messages[0].Id}}}, nil
}

func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchmarkSend(b *testing.B, conn *grpc.ClientConn) {
	const callers = 64
	body := &pb.Message_Text{Text: strings.Repeat("x", 1024)}
	client := pb.NewProducerServiceClient(conn)
	before := cpu()
	b.ReportAllocs()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := client.Send(context.Background(), &pb.SendRequest{Namespace: "shop", Producer: "orders", Messages: []*pb.Message{{Content: body}}}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/op")
}

func BenchmarkSendEcho(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := grpc.NewServer(grpc.NumStreamWorkers(32))
	pb.RegisterProducerServiceServer(s, echo{})
	go func() { _ = s.Serve(l) }()
	defer s.Stop()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	benchmarkSend(b, conn)
}

func BenchmarkSendProxy(b *testing.B) {
	r := proxytest.New(b, proxytest.Options{Broker: memory.Options{MaxTopicMessages: 100_000_000, MaxTopicBytes: 4 << 30, MaxBytes: 8 << 30}})
	r.AddProducer("orders", "orders")
	benchmarkSend(b, r.Conn)
}

func BenchmarkReceiveStream(b *testing.B) {
	r := proxytest.New(b, proxytest.Options{Broker: memory.Options{MaxTopicMessages: 100_000_000, MaxTopicBytes: 4 << 30, MaxBytes: 8 << 30}})
	r.AddProducer("orders", "orders")
	r.AddConsumer("billing", "orders")
	body := strings.Repeat("x", 1024)
	for sent := 0; sent < b.N; sent += 500 {
		texts := make([]string, 500)
		for i := range texts {
			texts[i] = body
		}
		r.Send("orders", texts...)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := r.Consumers().Receive(ctx)
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Send(&pb.ReceiveRequest{Namespace: "shop", Consumer: "billing"}); err != nil {
		b.Fatal(err)
	}
	before := cpu()
	b.ReportAllocs()
	b.ResetTimer()
	for got := 0; got < b.N; {
		res, err := s.Recv()
		if err != nil {
			b.Fatal(err)
		}
		got += len(res.Deliveries)
		req := &pb.ReceiveRequest{Acks: make([]string, 0, len(res.Deliveries))}
		for _, d := range res.Deliveries {
			req.Acks = append(req.Acks, d.AckToken)
		}
		if len(req.Acks) > 0 {
			if err := s.Send(req); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/op")
}
