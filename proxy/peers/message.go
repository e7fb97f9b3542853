// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/peer/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
)

// Both enumerations have their zero value free in the protocol, so that a field that was not set is noticed.
func action(a delivery.Action) pb.Settlement_Action { return pb.Settlement_Action(a) + 1 }

func encodeSettlement(id []byte, whom process, s delivery.Settlement) ([]byte, error) {
	q := &pb.Settlement{
		Id: id, Host: whom.host, Incarnation: whom.incarnation, ConsumerUid: s.ConsumerUID, Action: action(s.Action),
		Items: make([]*pb.Settlement_Item, len(s.Items)),
	}
	for i, item := range s.Items {
		q.Items[i] = &pb.Settlement_Item{Token: item.Token, ByBackoff: item.ByBackoff, Reason: item.Reason}
		if item.Duration != 0 {
			q.Items[i].Duration = durationpb.New(item.Duration)
		}
	}
	return proto.Marshal(q)
}

func decodeSettlement(b []byte) (*pb.Settlement, delivery.Settlement, error) {
	q, s := &pb.Settlement{}, delivery.Settlement{}
	if err := proto.Unmarshal(b, q); err != nil {
		return nil, s, err
	}
	switch q.GetAction() {
	case action(delivery.ActionAck), action(delivery.ActionNack), action(delivery.ActionModify):
	default:
		return nil, s, fmt.Errorf("this release does not know the action %s", q.GetAction())
	}
	s.ConsumerUID, s.Action = q.GetConsumerUid(), delivery.Action(q.GetAction()-1)
	s.Items = make([]delivery.SettlementItem, len(q.GetItems()))
	for i, item := range q.GetItems() {
		s.Items[i] = delivery.SettlementItem{
			Token: item.GetToken(), Duration: item.GetDuration().AsDuration(), ByBackoff: item.GetByBackoff(), Reason: item.GetReason(),
		}
	}
	return q, s, nil
}

func encodeSettled(results []delivery.Result) ([]byte, error) {
	a := &pb.Settled{Results: make([]*pb.Settled_Result, len(results))}
	for i := range results {
		r := &results[i]
		out := &pb.Settled_Result{Outcome: pb.Settled_Outcome(r.Outcome), Detail: strings.ToValidUTF8(r.Detail, "?"), NewToken: r.NewToken}
		if !r.Deadline.IsZero() {
			out.Deadline = timestamppb.New(r.Deadline)
		}
		if r.EffectiveDelay != 0 {
			out.EffectiveDelay = durationpb.New(r.EffectiveDelay)
		}
		a.Results[i] = out
	}
	return proto.Marshal(a)
}

func decodeSettled(b []byte) ([]delivery.Result, error) {
	a := &pb.Settled{}
	if err := proto.Unmarshal(b, a); err != nil {
		return nil, fmt.Errorf("its answer is not one: %w", err)
	}
	results := make([]delivery.Result, len(a.GetResults()))
	for i, r := range a.GetResults() {
		results[i] = delivery.Result{
			Outcome: delivery.Outcome(r.GetOutcome()), Detail: r.GetDetail(), NewToken: r.GetNewToken(), EffectiveDelay: r.GetEffectiveDelay().AsDuration(),
		}
		if r.GetOutcome() < pb.Settled_OUTCOME_OK || r.GetOutcome() > pb.Settled_OUTCOME_INVALID {
			return nil, fmt.Errorf("its answer has the outcome %s, which this release does not know", r.GetOutcome())
		}
		if r.GetDeadline() != nil {
			results[i].Deadline = r.GetDeadline().AsTime()
		}
	}
	return results, nil
}
