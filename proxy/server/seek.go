// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// Mover is what a Consumer's client offers beside receiving; see driver.Consumer.Seek.
type Mover interface {
	Seek(ctx context.Context, to driver.Target) (mark string, err error)
}

// Seek is one call of Seek on its way.
type Seek struct {
	Key             registry.Key
	Namespace, Name string
	To              driver.Target
	// By is the caller's name.
	By string
	// Move moves the group from this host.
	Move func(ctx context.Context) (mark string, err error)
}

// Seeker does what is more than one host's matter of a Seek: one at a time for each Consumer, recorded, with the other hosts told. Seek returns when the
// group has moved, or why not. It is safe for concurrent use and blocks for at most ctx.
type Seeker interface {
	Seek(ctx context.Context, s Seek) error
}

// seek moves a Consumer for all of its receivers, on all hosts.
func (s *Server) seek(ctx context.Context, c *call, req *pb.SeekRequest) (*pb.SeekResponse, error) {
	c.namespace, c.name = req.GetNamespace(), req.GetConsumer()
	use, err := s.open(ctx, c, mayManage, registry.Consumer)
	if err != nil {
		return nil, err
	}
	defer use.Release()
	to, err := targetOf(req)
	if err != nil {
		return nil, err
	}
	move := func(ctx context.Context) (string, error) { return use.Client().(Mover).Seek(ctx, to) }
	if s.seeks == nil {
		_, err = move(ctx)
	} else {
		err = s.seeks.Seek(ctx, Seek{Key: use.Spec().Key, Namespace: c.namespace, Name: c.name, To: to, By: c.caller.Name, Move: move})
	}
	if err != nil {
		return nil, err
	}
	return &pb.SeekResponse{SoughtAt: timestamppb.New(time.Now())}, nil
}

func targetOf(req *pb.SeekRequest) (driver.Target, error) {
	switch to := req.GetTo().(type) {
	case *pb.SeekRequest_Time:
		if err := to.Time.CheckValid(); err != nil {
			return driver.Target{}, invalid("time", "it is no time: %v", err)
		}
		target := driver.Target{To: driver.Timestamp, Time: to.Time.AsTime()}
		if target.Validate() != nil {
			return driver.Target{}, invalid("time", "the time %s is out of range", to.Time.AsTime().Format(time.RFC3339))
		}
		return target, nil
	case *pb.SeekRequest_End_:
		switch to.End {
		case pb.SeekRequest_EARLIEST:
			return driver.Target{To: driver.Earliest}, nil
		case pb.SeekRequest_LATEST:
			return driver.Target{To: driver.Latest}, nil
		case pb.SeekRequest_END_UNSPECIFIED:
		}
		return driver.Target{}, invalid("end", "it must be EARLIEST or LATEST")
	default:
		return driver.Target{}, invalid("to", "where to is missing: set time, or end")
	}
}
