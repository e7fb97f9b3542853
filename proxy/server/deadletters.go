// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/deadletter"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// DeadLetterBox is what a Consumer's client offers beside receiving; see package deadletter.
type DeadLetterBox interface {
	ListDeadLetters(ctx context.Context, q deadletter.Query) (deadletter.Page, error)
	RedriveDeadLetters(ctx context.Context, o deadletter.Order) (deadletter.Progress, error)
}

// Bounds of calls about dead letters: what is taken at most, and when nothing is said.
const (
	maxListed, listedByDefault     = 1000, 100
	maxPeeked, peekedByDefault     = 100, 10
	maxRedriven, redrivenByDefault = 10_000, 1000
	maxRedriveRate                 = 10_000
	maxSelectedIDs                 = 1000
)

func (s *Server) listDeadLetters(ctx context.Context, c *call, req *pb.ListDeadLettersRequest) (*pb.ListDeadLettersResponse, error) {
	return s.showDeadLetters(ctx, c, req, false)
}

func (s *Server) peekDeadLetters(ctx context.Context, c *call, req *pb.ListDeadLettersRequest) (*pb.ListDeadLettersResponse, error) {
	return s.showDeadLetters(ctx, c, req, true)
}

// showDeadLetters is both: bodies are what they differ in. To look needs the right to manage as well: bodies are there to be read, and who may receive
// gets them only one by one.
func (s *Server) showDeadLetters(ctx context.Context, c *call, req *pb.ListDeadLettersRequest, bodies bool) (*pb.ListDeadLettersResponse, error) {
	c.namespace, c.name = req.GetNamespace(), req.GetConsumer()
	use, err := s.open(ctx, c, mayManage, registry.Consumer)
	if err != nil {
		return nil, err
	}
	defer use.Release()
	q := deadletter.Query{Token: req.GetPageToken(), MaxBytes: maxAnswerBytes, Bodies: bodies}
	most, usual := maxListed, listedByDefault
	if bodies {
		most, usual = maxPeeked, peekedByDefault
	}
	if q.Limit, err = bounded("max_letters", int(req.GetMaxLetters()), most, usual); err != nil {
		return nil, err
	}
	if q.Selection, err = selectionOf(req.GetSelection()); err != nil {
		return nil, err
	}
	page, err := use.Client().(DeadLetterBox).ListDeadLetters(ctx, q)
	if err != nil {
		return nil, err
	}
	out := &pb.ListDeadLettersResponse{Letters: make([]*pb.DeadLetter, len(page.Letters)), NextPageToken: page.Next, Left: &page.Left}
	for i := range page.Letters {
		out.Letters[i] = letter(&page.Letters[i])
	}
	return out, nil
}

// redriveDeadLetters gives letters to the group again.
func (s *Server) redriveDeadLetters(ctx context.Context, c *call, req *pb.RedriveDeadLettersRequest) (*pb.RedriveDeadLettersResponse, error) {
	c.namespace, c.name = req.GetNamespace(), req.GetConsumer()
	use, err := s.open(ctx, c, mayManage, registry.Consumer)
	if err != nil {
		return nil, err
	}
	defer use.Release()
	o, err := orderOf(req)
	if err != nil {
		return nil, err
	}
	p, err := use.Client().(DeadLetterBox).RedriveDeadLetters(ctx, o)
	if err != nil {
		return nil, err
	}
	return &pb.RedriveDeadLettersResponse{
		Redriven: proto.Int32(int32(p.Redriven)), AlreadyRedriven: proto.Int32(int32(p.Already)), Skipped: proto.Int32(int32(p.Skipped)), Left: &p.Left,
		NextPageToken: p.Next, Problem: validText(p.Problem),
	}, nil
}

// orderOf checks what a redrive asks for. All letters must be asked for in so many words: a selection that was forgotten must not redrive everything.
func orderOf(req *pb.RedriveDeadLettersRequest) (o deadletter.Order, err error) {
	o = deadletter.Order{Token: req.GetPageToken(), Rate: int(req.GetLettersPerSecond()), DryRun: req.GetDryRun()}
	if o.Limit, err = bounded("max_letters", int(req.GetMaxLetters()), maxRedriven, redrivenByDefault); err != nil {
		return o, err
	}
	if o.Selection, err = selectionOf(req.GetSelection()); err != nil {
		return o, err
	}
	chosen := len(o.IDs) > 0 || o.Topic != "" || !o.From.IsZero() || !o.Until.IsZero()
	switch {
	case req.GetAll() && chosen:
		return o, invalid("selection", "all is set as well; set one of them")
	case !req.GetAll() && !chosen:
		return o, invalid("selection", "nothing is chosen; choose by message_ids, topic, from or until, or set all")
	case o.Rate < 0 || o.Rate > maxRedriveRate:
		return o, invalid("letters_per_second", "it is %d; it must be 1 to %d, or 0 for as fast as the broker takes them", o.Rate, maxRedriveRate)
	}
	return o, nil
}

// bounded checks a number that may be left out.
func bounded(field string, n, most, usual int) (int, error) {
	switch {
	case n == 0:
		return usual, nil
	case n < 0 || n > most:
		return 0, invalid(field, "it is %d; it must be 1 to %d, or 0 for %d", n, most, usual)
	default:
		return n, nil
	}
}

func selectionOf(p *pb.DeadLetterSelection) (s deadletter.Selection, err error) {
	s = deadletter.Selection{IDs: p.GetMessageIds(), Topic: p.GetTopic()}
	if len(s.IDs) > maxSelectedIDs {
		return s, invalid("selection.message_ids", "there are %d; one call takes at most %d", len(s.IDs), maxSelectedIDs)
	}
	for i, id := range s.IDs {
		if id == "" {
			return s, invalid("selection.message_ids["+strconv.Itoa(i)+"]", "it is empty")
		}
	}
	if s.From, err = timeOf("selection.from", p.GetFrom()); err != nil {
		return s, err
	}
	if s.Until, err = timeOf("selection.until", p.GetUntil()); err != nil {
		return s, err
	}
	if !s.From.IsZero() && !s.Until.IsZero() && !s.From.Before(s.Until) {
		return s, invalid("selection.until", "it is not after from, so that nothing is chosen")
	}
	return s, nil
}

// timeOf reads a time that may be left out.
func timeOf(field string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, invalid(field, "it is not a time: %s", plainProtoError(err))
	}
	return t.AsTime(), nil
}

func letter(l *deadletter.Letter) *pb.DeadLetter {
	return &pb.DeadLetter{
		Message: &pb.ReceivedMessage{
			Topic: validText(l.Topic), Id: validText(l.ID), Tag: validText(l.Tag), Keys: validTexts(l.Keys), Properties: validProperties(l.Properties),
			Body: l.Body,
		},
		Reason: validText(l.Reason), DeliveryAttempts: int32(l.Attempts), DeadTime: timestamppb.New(l.DeadTime), BornTime: timestamppb.New(l.BornTime),
		BodyBytes: int64(l.BodyBytes), Place: validText(l.Place()), Problem: validText(l.Problem),
	}
}
