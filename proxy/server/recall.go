// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// Recaller is what a Producer's client offers beside sending; see driver.Producer.Recall.
type Recaller interface {
	Recall(ctx context.Context, handle string) (messageID string, err error)
}

// recall cancels a message that is to be delivered later. The right is that of sending: who may send may take back.
func (s *Server) recall(ctx context.Context, c *call, req *pb.RecallRequest) (*pb.RecallResponse, error) {
	c.namespace, c.name = req.GetNamespace(), req.GetProducer()
	use, err := s.open(ctx, c, maySend, registry.Producer)
	if err != nil {
		return nil, err
	}
	defer use.Release()
	if req.GetRecallHandle() == "" {
		return nil, invalid("recall_handle", "it is missing; it is what Send answered for the message")
	}
	id, err := use.Client().(Recaller).Recall(ctx, req.GetRecallHandle())
	if err != nil {
		return nil, err
	}
	return &pb.RecallResponse{MessageId: id}, nil
}
