// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	peerpb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/peer/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/peers"
)

// PeerAnswerer answers what other hosts ask; see peers.Peers. Its errors are status errors.
type PeerAnswerer interface {
	// Admit says whether a host calls, before anything of the request is read.
	Admit(credential string) error
	Answer(ctx context.Context, sealed []byte) ([]byte, error)
}

// peerService is for hosts of the operator. They prove who they are by the keys that they share, not by a token; the rest is as for every call.
var peerService = grpc.ServiceDesc{
	ServiceName: peerpb.PeerService_ServiceDesc.ServiceName,
	HandlerType: (*any)(nil),
	Streams:     []grpc.StreamDesc{{StreamName: "Settle", Handler: settleHandler, ServerStreams: true}},
	Metadata:    peerpb.PeerService_ServiceDesc.Metadata,
}

// peerCaller is all other hosts, for the log. They have no limit as one caller: what they ask, their own callers' limits have let in, and
// MaxConcurrentCalls bounds it here.
var peerCaller = Caller{Name: "hosts of this operator"}

func settleHandler(server any, stream grpc.ServerStream) error {
	s := server.(*Server)
	c := &call{method: "Settle", protocol: "grpc"}
	return s.serve(stream.Context(), c, s.limits.DefaultDeadline, func(ctx context.Context) error {
		credentials := metadata.ValueFromIncomingContext(ctx, peers.CredentialKey)
		if len(credentials) != 1 {
			return failure(codes.Unauthenticated, "TokenMissing", "", "only hosts of this operator may call this")
		}
		if err := s.peers.Admit(credentials[0]); err != nil {
			return err
		}
		c.caller = peerCaller
		request := &peerpb.SettleRequest{}
		if err := stream.RecvMsg(request); err != nil {
			return err
		}
		sealed, err := s.peers.Answer(ctx, request.GetSealed())
		if err != nil {
			return err
		}
		return stream.SendMsg(&peerpb.SettleResponse{Sealed: sealed})
	})
}
