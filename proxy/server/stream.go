// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

// streamHandler is what the streams of applications have in common: who it is, how many they may have, and that they are counted.
func streamHandler(method string, do func(s *Server, ctx context.Context, c *call, stream grpc.ServerStream) error) grpc.StreamHandler {
	return func(server any, stream grpc.ServerStream) error {
		s := server.(*Server)
		c := &call{method: method, protocol: "grpc"}
		return s.serve(stream.Context(), c, 0, func(ctx context.Context) error {
			var err error
			if c.caller, err = s.authenticate(ctx); err != nil {
				return err
			}
			if err := s.admission.enterCaller(c.caller.Name, true); err != nil {
				return err
			}
			defer s.admission.leaveCaller(c.caller.Name, true)
			s.observer.Streams(1)
			defer s.observer.Streams(-1)
			return do(s, ctx, c, stream)
		})
	}
}

// watched is a stream that ends when a write to it takes longer than WriteTimeout. It writes from one goroutine.
type watched struct {
	s      *Server
	stream grpc.ServerStream
	// stalled is set when a write took too long; the watchdog has ended the stream then.
	stalled  atomic.Bool
	watchdog *time.Timer
}

// watch runs write, which may send, and answers why the stream ends.
func (w *watched) watch(ctx context.Context, write func(context.Context) error) error {
	w.watchdog = time.AfterFunc(w.s.limits.WriteTimeout, func() {
		w.stalled.Store(true)
		endOfStream(ctx, errNotRead)
	})
	w.watchdog.Stop()
	err := write(ctx)
	w.watchdog.Stop()
	if w.stalled.Load() {
		w.s.observer.ReceiverNotReading()
		if p, ok := peer.FromContext(ctx); ok {
			w.s.grpcConns.stalled(p.Addr.String())
		}
		return errNotRead
	}
	return err
}

// send writes one frame; the watchdog ends the stream when the transport does not take it in time.
func (w *watched) send(m any) error {
	w.watchdog.Reset(w.s.limits.WriteTimeout)
	err := w.stream.SendMsg(m)
	w.watchdog.Stop()
	return err
}
