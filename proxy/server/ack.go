// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// Bounds of what acknowledgements may ask for.
const (
	maxNackDelay   = 2 * time.Hour
	minAckDeadline = 10 * time.Second
	// maxAckDeadline is the longest lease of any driver; what the Consumer's own driver cannot give is clamped and the answer says so.
	maxAckDeadline = 12 * time.Hour
)

// ack acknowledges deliveries.
func (s *Server) ack(ctx context.Context, c *call, req *pb.AckRequest) (*pb.AckResponse, error) {
	c.namespace, c.name = req.GetNamespace(), req.GetConsumer()
	return s.acknowledge(ctx, c, req.GetClientId(), "ack_tokens", len(req.AckTokens), func(w Acknowledger) []delivery.Result {
		return w.Ack(ctx, req.AckTokens)
	}, func() error { return nil })
}

// nack gives deliveries back.
func (s *Server) nack(ctx context.Context, c *call, req *pb.NackRequest) (*pb.AckResponse, error) {
	c.namespace, c.name = req.GetNamespace(), req.GetConsumer()
	var nacks []delivery.Nack
	return s.acknowledge(ctx, c, req.GetClientId(), "nacks", len(req.Nacks), func(w Acknowledger) []delivery.Result {
		return w.Nack(ctx, nacks)
	}, func() (err error) {
		nacks, err = nacksOf(req.Nacks)
		return err
	})
}

// modify moves the deadlines of deliveries.
func (s *Server) modify(ctx context.Context, c *call, req *pb.ModifyAckDeadlineRequest) (*pb.AckResponse, error) {
	c.namespace, c.name = req.GetNamespace(), req.GetConsumer()
	var modifications []delivery.Modify
	return s.acknowledge(ctx, c, req.GetClientId(), "modifications", len(req.Modifications), func(w Acknowledger) []delivery.Result {
		return w.Modify(ctx, modifications)
	}, func() (err error) {
		modifications, err = modificationsOf(req.Modifications)
		return err
	})
}

// acknowledge is what the three have in common: right, form, window, results in order.
func (s *Server) acknowledge(ctx context.Context, c *call, clientID, field string, n int, do func(Acknowledger) []delivery.Result, check func() error,
) (*pb.AckResponse, error) {
	if err := s.allow(ctx, c, mayReceive); err != nil {
		return nil, err
	}
	switch {
	case n == 0:
		return nil, invalid(field, "there are none; send 1 to %d", s.limits.MaxTokensPerCall)
	case n > s.limits.MaxTokensPerCall:
		return nil, invalid(field, "there are %d; one call takes at most %d (limit MaxTokensPerCall)", n, s.limits.MaxTokensPerCall)
	}
	if err := check(); err != nil {
		return nil, err
	}
	use, err := s.acknowledger(ctx, c)
	if err != nil {
		return nil, err
	}
	defer use.Release()
	window, done, err := windowOf(ctx, use, clientID, false)
	if err != nil {
		return nil, err
	}
	defer done()
	results := do(window)
	out := make([]*pb.TokenResult, len(results))
	for i := range results {
		out[i] = tokenResult(&results[i])
	}
	return &pb.AckResponse{Results: out}, nil
}

// acknowledger finds the Consumer's window. A client that drains takes no new calls; acknowledgements still reach it, because what they save is
// delivered again otherwise.
func (s *Server) acknowledger(ctx context.Context, c *call) (Use, error) {
	use, err := s.registry.Use(ctx, registry.Consumer, c.namespace, c.name)
	if err == nil || ctx.Err() != nil {
		return use, err
	}
	if late, lateErr := s.registry.UseDraining(registry.Consumer, c.namespace, c.name); lateErr == nil {
		return late, nil
	}
	return nil, err
}

// nacksOf checks the form of entries; tokens are the window's matter.
func nacksOf(entries []*pb.NackEntry) ([]delivery.Nack, error) {
	out := make([]delivery.Nack, len(entries))
	for i, e := range entries {
		delay := time.Duration(0)
		if e.GetDelay() != nil {
			if err := e.Delay.CheckValid(); err != nil {
				return nil, invalid(indexed("nacks", i, "delay"), "it is not a duration: %s", plainProtoError(err))
			}
			delay = e.Delay.AsDuration()
		}
		if delay < 0 || delay > maxNackDelay {
			return nil, invalid(indexed("nacks", i, "delay"), "it is %s; it must be 0s to %s", delay, maxNackDelay)
		}
		if err := checkReason(indexed("nacks", i, "reason"), e.GetReason()); err != nil {
			return nil, err
		}
		out[i] = delivery.Nack{Token: e.GetAckToken(), Delay: delay, ByBackoff: e.GetDelay() == nil, Reason: e.GetReason()}
	}
	return out, nil
}

// checkReason refuses what would not fit into a message's property.
func checkReason(field, reason string) error {
	if len(reason) > delivery.MaxNackReasonBytes {
		return invalid(field, "it has %d bytes; it may have %d", len(reason), delivery.MaxNackReasonBytes)
	}
	if i := strings.IndexFunc(reason, unicode.IsControl); i >= 0 {
		return invalid(field, "byte %d is a control character; write plain text on one line", i)
	}
	return nil
}

func modificationsOf(entries []*pb.ModifyEntry) ([]delivery.Modify, error) {
	out := make([]delivery.Modify, len(entries))
	for i, e := range entries {
		deadline, err := ackDeadline(indexed("modifications", i, "ack_deadline"), e.GetAckDeadline())
		if err != nil {
			return nil, err
		}
		if deadline == 0 {
			return nil, invalid(indexed("modifications", i, "ack_deadline"), "it is missing; it must be %s to %s", minAckDeadline, maxAckDeadline)
		}
		out[i] = delivery.Modify{Token: e.GetAckToken(), AckDeadline: deadline}
	}
	return out, nil
}

// ackDeadline checks an optional deadline; 0 = not given.
func ackDeadline(field string, d *durationpb.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, invalid(field, "it is not a duration: %s", plainProtoError(err))
	}
	if got := d.AsDuration(); got < minAckDeadline || got > maxAckDeadline {
		return 0, invalid(field, "it is %s; it must be %s to %s", got, minAckDeadline, maxAckDeadline)
	}
	return d.AsDuration(), nil
}

func tokenResult(r *delivery.Result) *pb.TokenResult {
	out := &pb.TokenResult{AckToken: validText(r.Token), Outcome: outcome(r.Outcome), Detail: r.Detail, NewToken: r.NewToken}
	if !r.Deadline.IsZero() {
		out.AckDeadline = timestamppb.New(r.Deadline)
	}
	if r.EffectiveDelay > 0 {
		out.EffectiveDelay = durationpb.New(r.EffectiveDelay)
	}
	return out
}

func outcome(o delivery.Outcome) pb.TokenResult_Outcome {
	switch o {
	case delivery.OK:
		return pb.TokenResult_OK
	case delivery.Expired:
		return pb.TokenResult_EXPIRED
	case delivery.Retry:
		return pb.TokenResult_RETRY
	case delivery.Invalid:
		return pb.TokenResult_INVALID
	default:
		return pb.TokenResult_OUTCOME_UNSPECIFIED
	}
}
