// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // callers may compress; what a request has after decompression is bounded
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
)

const (
	// streamWorkers are goroutines that grpc-go keeps for calls; a call that finds none free gets its own.
	streamWorkers = 64
	// What a caller may send ahead of our reading. Left to itself grpc-go estimates the bandwidth, with a ping for each round trip, and lets windows grow to
	// 16 MiB: that costs server and caller together 7 % of a small call. A message that is larger than the stream's window gets its room when it is read.
	streamWindow     = 256 << 10
	connectionWindow = 1 << 20
)

// newGRPC makes the gRPC server with every service registered.
func (s *Server) newGRPC(config *tls.Config) {
	l := s.limits
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(receiveLimit(l)),
		grpc.MaxConcurrentStreams(uint32(l.MaxConcurrentStreams)),
		grpc.MaxHeaderListSize(uint32(l.MaxHeaderBytes)),
		grpc.ConnectionTimeout(l.OpenTimeout),
		grpc.WaitForHandlers(true),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connectionWindow),
		grpc.InTapHandle(tapStream),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: l.MaxConnectionIdle,
			MaxConnectionAge:  l.MaxConnectionAge,
			// A stream that began just before the connection's end has its own full age and the grace after it.
			MaxConnectionAgeGrace: l.MaxConnectionAge + 2*l.StreamGrace,
			Time:                  l.KeepaliveTime,
			Timeout:               l.KeepaliveTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: l.MinClientPing, PermitWithoutStream: true}),
	}
	if config != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	s.grpc = grpc.NewServer(options...)
	s.grpc.RegisterService(&producerService, s)
	s.grpc.RegisterService(&consumerService, s)
	s.grpc.RegisterService(&deadLetterService, s)
	if s.peers != nil {
		s.grpc.RegisterService(&peerService, s)
	}
	s.health = health.NewServer()
	healthv1.RegisterHealthServer(s.grpc, s.health)
	s.setHealth(healthv1.HealthCheckResponse_NOT_SERVING)
	reflection.Register(s.grpc)
}

// Welcome says to health checks that new calls are welcome; before it, they are answered and not asked for. After Drain it does nothing.
func (s *Server) Welcome() { s.setHealth(healthv1.HealthCheckResponse_SERVING) }

func (s *Server) setHealth(status healthv1.HealthCheckResponse_ServingStatus) {
	for _, service := range []string{"", producerService.ServiceName, consumerService.ServiceName, deadLetterService.ServiceName} {
		s.health.SetServingStatus(service, status)
	}
}

// The services. The generated descriptors are not used, because their unary handlers read the request before anything of ours runs; see doc.go.
var (
	producerService = grpc.ServiceDesc{
		ServiceName: pb.ProducerService_ServiceDesc.ServiceName,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{
			unary("Send", (*Server).send),
			unary("Recall", (*Server).recall),
			unary("BeginTransaction", (*Server).beginTransaction),
			unary("EndTransaction", (*Server).endTransaction),
			{StreamName: "TransactionChecks", Handler: streamHandler("TransactionChecks", (*Server).transactionChecks), ServerStreams: true, ClientStreams: true},
		},
		Metadata: pb.ProducerService_ServiceDesc.Metadata,
	}
	consumerService = grpc.ServiceDesc{
		ServiceName: pb.ConsumerService_ServiceDesc.ServiceName,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{
			{StreamName: "Receive", Handler: streamHandler("Receive", (*Server).receive), ServerStreams: true, ClientStreams: true},
			{StreamName: "Pull", Handler: pullHandler, ServerStreams: true},
			unary("Ack", (*Server).ack),
			unary("Nack", (*Server).nack),
			unary("ModifyAckDeadline", (*Server).modify),
			unary("Seek", (*Server).seek),
		},
		Metadata: pb.ConsumerService_ServiceDesc.Metadata,
	}
	// streamMethods are those whose streams the server must be able to end.
	streamMethods = []string{
		"/" + pb.ConsumerService_ServiceDesc.ServiceName + "/Receive", "/" + pb.ProducerService_ServiceDesc.ServiceName + "/TransactionChecks",
	}
	deadLetterService = grpc.ServiceDesc{
		ServiceName: pb.DeadLetterService_ServiceDesc.ServiceName,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{
			unary("ListDeadLetters", (*Server).listDeadLetters),
			unary("PeekDeadLetters", (*Server).peekDeadLetters),
			unary("RedriveDeadLetters", (*Server).redriveDeadLetters),
		},
		Metadata: pb.DeadLetterService_ServiceDesc.Metadata,
	}
)

// request is what every request of ours can say.
type request interface {
	proto.Message
	GetNamespace() string
}

// unary describes a method with one request and one answer.
func unary[Q, A any, PQ interface {
	*Q
	request
}](name string, do func(*Server, context.Context, *call, PQ) (*A, error)) grpc.StreamDesc {
	handler := func(server any, stream grpc.ServerStream) error {
		s := server.(*Server)
		c := &call{method: name, protocol: "grpc"}
		return s.serve(stream.Context(), c, s.limits.DefaultDeadline, func(ctx context.Context) error {
			answer, err := admitted(ctx, s, c, func() (*A, error) {
				req := PQ(new(Q))
				if err := s.read(stream, req); err != nil {
					return nil, err
				}
				return do(s, ctx, c, req)
			})
			if err != nil {
				return err
			}
			return stream.SendMsg(answer)
		})
	}
	return grpc.StreamDesc{StreamName: name, Handler: handler, ServerStreams: true}
}

// admitted authenticates the caller, before anything of the request is read, and holds one of its places while do runs.
func admitted[A any](ctx context.Context, s *Server, c *call, do func() (A, error)) (A, error) {
	var none A
	var err error
	if c.caller, err = s.authenticate(ctx); err != nil {
		return none, err
	}
	if err := s.admission.enterCaller(c.caller.Name, false); err != nil {
		return none, err
	}
	defer s.admission.leaveCaller(c.caller.Name, false)
	return do()
}

// read takes one message of the caller. When RecvMsg fails grpc-go has answered already, in its own words; so that a request that is too large is
// answered in ours, its limit is a little higher (receiveLimit).
func (s *Server) read(stream grpc.ServerStream, into proto.Message) error {
	if err := stream.RecvMsg(into); err != nil {
		return err
	}
	if size := proto.Size(into); size > s.limits.MaxRequestBytes {
		return limitReached("MaxRequestBytes", "the request has %d bytes and may have %d", size, s.limits.MaxRequestBytes)
	}
	return nil
}

// receiveLimit is where grpc-go refuses a request before it is read.
func receiveLimit(l Limits) int { return l.MaxRequestBytes + l.MaxRequestBytes/4 }

// cancelKey finds the function that ends a stream in the stream's context.
type cancelKey struct{}

// tapStream gives each Receive and TransactionChecks stream a context that the server can end. It is the one way by which a write that blocks can be interrupted
// from outside while its handler waits in it.
func tapStream(ctx context.Context, info *tap.Info) (context.Context, error) {
	if !slices.Contains(streamMethods, info.FullMethodName) {
		return ctx, nil
	}
	ctx, cancel := context.WithCancel(ctx) // The stream's end cancels the parent, and this one with it.
	return context.WithValue(ctx, cancelKey{}, cancel), nil
}

// endOfStream is what interrupts a stream whose write blocks. The status goes out first, where grpc-go lets us, so that a receiver that
// reads again learns why; then the context ends.
func endOfStream(ctx context.Context, why error) {
	if transport, ok := grpc.ServerTransportStreamFromContext(ctx).(interface {
		WriteStatus(*status.Status) error
	}); ok {
		_ = transport.WriteStatus(status.Convert(why)) // It fails when the stream has ended already.
	}
	if cancel, ok := ctx.Value(cancelKey{}).(context.CancelFunc); ok {
		cancel()
	}
}

// jitter spreads d by up to a tenth, so that what began together does not end together.
func jitter(d time.Duration, random float64) time.Duration {
	return d + time.Duration((random-0.5)*0.2*float64(d))
}
