// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"time"

	"google.golang.org/grpc"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// pulled is what a Pull has taken, until it is known whether the answer was written.
type pulled struct {
	use        Use
	done       func() // lets the window go; nil = there is none yet
	receiver   *delivery.Receiver
	deliveries []delivery.Delivery
	frame      frame
}

// response is the answer.
func (p *pulled) response() *pb.PullResponse {
	return &pb.PullResponse{Deliveries: p.frame.response.Deliveries}
}

// settle must be called once: written deliveries stay leased to their deadline, others go back at once.
func (p *pulled) settle(written bool) {
	if len(p.deliveries) > 0 {
		if written {
			p.receiver.Written(p.deliveries)
		} else {
			p.receiver.Unwritten(p.deliveries)
		}
	}
	p.end()
}

// end lets go of everything, in the order in which it depends on each other.
func (p *pulled) end() {
	if p.receiver != nil {
		p.receiver.Close()
	}
	if p.done != nil {
		p.done()
	}
	p.use.Release()
}

// pullHandler answers Pull over gRPC.
func pullHandler(server any, stream grpc.ServerStream) error {
	s := server.(*Server)
	c := &call{method: "Pull", protocol: "grpc"}
	return s.serve(stream.Context(), c, s.limits.DefaultDeadline+s.limits.MaxWait, func(ctx context.Context) error {
		_, err := admitted(ctx, s, c, func() (struct{}, error) {
			req := &pb.PullRequest{}
			if err := s.read(stream, req); err != nil {
				return struct{}{}, err
			}
			p, err := s.pull(ctx, c, req)
			if err != nil {
				return struct{}{}, err
			}
			written := false
			defer func() { p.settle(written) }()
			err = stream.SendMsg(p.response())
			written = err == nil && ctx.Err() == nil
			return struct{}{}, err
		})
		return err
	})
}

// pull waits for the first message and takes what there is then. On a nil error the caller settles.
func (s *Server) pull(ctx context.Context, c *call, req *pb.PullRequest) (*pulled, error) {
	c.namespace, c.name = req.GetNamespace(), req.GetConsumer()
	use, err := s.open(ctx, c, mayReceive, registry.Consumer)
	if err != nil {
		return nil, err
	}
	p := &pulled{use: use}
	if err := s.fillPull(ctx, p, req); err != nil {
		p.end()
		return nil, err
	}
	return p, nil
}

func (s *Server) fillPull(ctx context.Context, p *pulled, req *pb.PullRequest) error {
	options, wait, err := s.pullOptions(req)
	if err != nil {
		return err
	}
	window, done, err := windowOf(ctx, p.use, req.GetClientId(), true)
	if err != nil {
		return err
	}
	p.done = done
	if p.receiver, err = window.Attach(options); err != nil {
		return err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for over := false; ; {
		if taken := p.receiver.Take(options.MaxMessages, options.MaxBytes); len(taken) > 0 {
			n := p.frame.fill(taken)
			p.receiver.Unwritten(taken[n:])
			p.deliveries = taken[:n]
			return nil
		}
		if over {
			return nil
		}
		select {
		case <-p.receiver.Ready():
		case <-timer.C:
			over = true
		case <-p.receiver.Draining():
			return s.drainingError()
		case <-ctx.Done():
			return contextFailure(ctx)
		}
	}
}

// pullOptions checks what a Pull asks for.
func (s *Server) pullOptions(req *pb.PullRequest) (delivery.ReceiverOptions, time.Duration, error) {
	o := delivery.ReceiverOptions{MaxMessages: max(int(req.GetMaxMessages()), 1), MaxBytes: req.GetMaxBytes()}
	wait := s.limits.DefaultWait
	if req.GetWait() != nil {
		if err := req.Wait.CheckValid(); err != nil {
			return o, 0, invalid("wait", "it is not a duration: %s", plainProtoError(err))
		}
		wait = req.Wait.AsDuration()
	}
	switch {
	case req.GetMaxMessages() < 0 || o.MaxMessages > s.limits.MaxMessagesPerCall:
		return o, 0, invalid("max_messages", "it is %d; it must be 1 to %d (limit MaxMessagesPerCall)", req.GetMaxMessages(), s.limits.MaxMessagesPerCall)
	case o.MaxBytes < 0:
		return o, 0, invalid("max_bytes", "it is %d; it must be positive, or 0 for %d", o.MaxBytes, maxAnswerBytes)
	case wait < 0 || wait > s.limits.MaxWait:
		return o, 0, invalid("wait", "it is %s; it must be 0s to %s (limit MaxWait)", wait, s.limits.MaxWait)
	}
	if o.MaxBytes == 0 || o.MaxBytes > maxAnswerBytes {
		o.MaxBytes = maxAnswerBytes
	}
	var err error
	o.AckDeadline, err = ackDeadline("ack_deadline", req.GetAckDeadline())
	return o, wait, err
}
