// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	"google.golang.org/grpc/codes"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/checks"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// Transactor is what a Producer's client offers for transactions; see proxy.ProducerClient.
type Transactor interface {
	BeginTransaction(ctx context.Context, m *driver.Message) (transaction string, err error)
	EndTransaction(ctx context.Context, transaction string, d driver.Decision) (messageID string, err error)
	// WatchChecks makes a receiver of checks; who asks for it closes it.
	WatchChecks() (*checks.Receiver, error)
}

// beginTransaction stores a message that nobody gets before it is committed. The right is that of sending.
func (s *Server) beginTransaction(ctx context.Context, c *call, req *pb.BeginTransactionRequest) (*pb.BeginTransactionResponse, error) {
	c.namespace, c.name = req.GetNamespace(), req.GetProducer()
	use, err := s.open(ctx, c, maySend, registry.Producer)
	if err != nil {
		return nil, err
	}
	defer use.Release()
	if req.GetMessage() == nil {
		return nil, invalid("message", "it is missing")
	}
	message, problem := s.message(req.GetMessage(), use.Spec().Producer)
	if problem == nil {
		if err := driver.ValidateTransaction(message); err != nil {
			problem = sendError(err)
		}
	}
	if problem != nil {
		return nil, failure(codes.Code(problem.Code), problem.Reason, inMessage(problem.Field), inMessage(problem.Field)+": "+problem.Message)
	}
	if limit := use.Spec().Producer.RateLimit; !limit.IsZero() {
		if wait := use.Client().(Sender).Admit(1, message.Bytes()); wait > 0 {
			s.observer.Sent(c.namespace, c.name, reasonRateLimited, 1)
			wait = hint(wait)
			problem := rateLimited(limit, wait)
			return nil, failureWith(codes.Code(problem.Code), problem.Reason, "message", "message: "+problem.Message, retryInfo(wait))
		}
	}
	transaction, err := use.Client().(Transactor).BeginTransaction(ctx, message)
	if err != nil {
		s.observer.Sent(c.namespace, c.name, string(driver.ReasonOf(err)), 1)
		return nil, err
	}
	s.observer.Transactions(c.namespace, c.name, "begun")
	return &pb.BeginTransactionResponse{Transaction: transaction, MessageId: message.ID}, nil
}

func inMessage(field string) string {
	if field == "" {
		return "message"
	}
	return "message." + field
}

// endTransaction commits or rolls back.
func (s *Server) endTransaction(ctx context.Context, c *call, req *pb.EndTransactionRequest) (*pb.EndTransactionResponse, error) {
	c.namespace, c.name = req.GetNamespace(), req.GetProducer()
	use, err := s.open(ctx, c, maySend, registry.Producer)
	if err != nil {
		return nil, err
	}
	defer use.Release()
	if req.GetTransaction() == "" {
		return nil, invalid("transaction", "it is missing; it is what BeginTransaction answered")
	}
	decision, known := decisions[req.GetDecision()]
	if !known {
		return nil, invalid("decision", "it is %s; it must be COMMIT or ROLLBACK", req.GetDecision())
	}
	id, err := use.Client().(Transactor).EndTransaction(ctx, req.GetTransaction(), decision)
	if err != nil {
		return nil, err
	}
	s.observer.Transactions(c.namespace, c.name, stepOf[decision])
	if decision == driver.Commit {
		s.observer.Sent(c.namespace, c.name, "OK", 1)
	}
	return &pb.EndTransactionResponse{MessageId: id}, nil
}

// decisions are those that end a transaction.
var decisions = map[pb.Decision]driver.Decision{pb.Decision_COMMIT: driver.Commit, pb.Decision_ROLLBACK: driver.Rollback}

// stepOf is what metrics call a decision that was carried out.
var stepOf = map[driver.Decision]string{driver.Commit: "committed", driver.Rollback: "rolled_back"}
