// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/ratelimit"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// send stores the messages of one request. Each message is checked and answered on its own; messages of one topic keep their order.
func (s *Server) send(ctx context.Context, c *call, req *pb.SendRequest) (*pb.SendResponse, error) {
	c.namespace, c.name = req.GetNamespace(), req.GetProducer()
	use, err := s.open(ctx, c, maySend, registry.Producer)
	if err != nil {
		return nil, err
	}
	defer use.Release()
	switch n := len(req.Messages); {
	case n == 0:
		return nil, invalid("messages", "there are none; send 1 to %d", s.limits.MaxMessagesPerCall)
	case n > s.limits.MaxMessagesPerCall:
		return nil, invalid("messages", "there are %d; one call takes at most %d (limit MaxMessagesPerCall)", n, s.limits.MaxMessagesPerCall)
	}
	sender, spec := use.Client().(Sender), use.Spec()
	batch := newSendBatch(len(req.Messages))
	batch.once = spec.Producer.DeduplicationWindow > 0
	for i, m := range req.Messages {
		message, problem := s.message(m, spec.Producer)
		batch.add(i, m, message, problem)
	}
	if wait := batch.admit(sender, spec.Producer.RateLimit); wait == 0 {
		batch.send(ctx, sender)
	}
	return s.answerSend(c, batch)
}

// sendBatch is the messages of one call on their way.
type sendBatch struct {
	results []pb.SendResult
	topics  []*topicBatch // in the order of their first message; nearly always one
	single  topicBatch
	// failed are the sharding keys of messages that are wrong, in whatever topic.
	failed driver.FailedKeys
	// once: the Producer has a deduplication window.
	once bool
	// retryAfter is when to try again what the rate limit refused; 0 = it refused nothing.
	retryAfter time.Duration
	// one is the room for a call of one message, which is most calls: it is taken together with the batch.
	one struct {
		result  [1]pb.SendResult
		topic   [1]*topicBatch
		message [1]*driver.Message
		place   [1]int
	}
}

// topicBatch is the messages of one topic and where their results go.
type topicBatch struct {
	topic    string
	messages []*driver.Message
	places   []int
	// named says which ids are their caller's, when each shall be sent once.
	named []bool
}

func newSendBatch(n int) *sendBatch {
	b := &sendBatch{}
	b.topics, b.single.messages, b.single.places = b.one.topic[:0], b.one.message[:0], b.one.place[:0]
	if b.results = b.one.result[:]; n != 1 {
		b.results = make([]pb.SendResult, n)
		b.single.messages, b.single.places = make([]*driver.Message, 0, n), make([]int, 0, n)
	}
	return b
}

// add takes message i, or its problem. What would overtake a wrong message of its sharding key fails with it.
func (b *sendBatch) add(i int, from *pb.Message, m *driver.Message, problem *pb.SendError) {
	if problem == nil {
		if err := b.failed.Behind(m); err != nil {
			problem = sendError(err)
		}
	}
	if problem != nil {
		b.failed.Add(from.GetShardingKey())
		b.fail(i, problem)
		return
	}
	t := b.of(m.Topic)
	t.messages = append(t.messages, m)
	t.places = append(t.places, i)
	if b.once {
		t.named = append(t.named, from.GetId() != "")
	}
}

func (b *sendBatch) of(topic string) *topicBatch {
	for _, t := range b.topics {
		if t.topic == topic {
			return t
		}
	}
	t := &b.single
	if len(b.topics) > 0 {
		t = &topicBatch{}
	}
	t.topic = topic
	b.topics = append(b.topics, t)
	return t
}

func (b *sendBatch) fail(i int, problem *pb.SendError) {
	problem.Field = messageField(i, problem.Field)
	b.results[i].Error = problem
}

func messageField(i int, field string) string {
	path := "messages[" + strconv.Itoa(i) + "]"
	if field == "" {
		return path
	}
	return path + "." + field
}

// admit asks the Producer's rate limit for all messages that can be sent. It refuses them all or none: a caller then sends the same request again, and
// messages keep their order.
func (b *sendBatch) admit(sender Sender, limit ratelimit.Rate) (wait time.Duration) {
	if limit.IsZero() || len(b.topics) == 0 {
		return 0
	}
	n, size := 0, int64(0)
	for _, t := range b.topics {
		n += len(t.messages)
		for _, m := range t.messages {
			size += m.Bytes()
		}
	}
	if wait = sender.Admit(n, size); wait == 0 {
		return 0
	}
	b.retryAfter = hint(wait)
	for _, t := range b.topics {
		for _, place := range t.places {
			b.fail(place, rateLimited(limit, b.retryAfter))
		}
	}
	return wait
}

// hint is wait as a caller is told it: in whole milliseconds, rounded up.
func hint(wait time.Duration) time.Duration {
	return (wait + time.Millisecond - 1).Truncate(time.Millisecond)
}

func retryInfo(wait time.Duration) protoadapt.MessageV1 {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(wait)}
}

// rateLimited is the answer for each message that the rate limit refused.
func rateLimited(limit ratelimit.Rate, wait time.Duration) *pb.SendError {
	var most []string
	if limit.Messages > 0 {
		most = append(most, fmt.Sprintf("%d messages", limit.Messages))
	}
	if limit.Bytes > 0 {
		most = append(most, fmt.Sprintf("%d bytes", limit.Bytes))
	}
	return &pb.SendError{
		Code: int32(codes.ResourceExhausted), Reason: reasonRateLimited, Retryable: true, Message: fmt.Sprintf(
			"the Producer's rateLimit, %s a second on each host, is used up: try again in %s", strings.Join(most, " and "), wait),
	}
}

// send gives each topic's messages to the sender, topics at the same time, and returns when all are answered.
func (b *sendBatch) send(ctx context.Context, sender Sender) {
	var others sync.WaitGroup
	for i, t := range b.topics {
		if i == 0 {
			continue
		}
		others.Go(func() { b.sendTopic(ctx, sender, t) })
	}
	if len(b.topics) > 0 {
		b.sendTopic(ctx, sender, b.topics[0])
	}
	others.Wait()
}

func (b *sendBatch) sendTopic(ctx context.Context, sender Sender, t *topicBatch) {
	var results []driver.SendResult
	if b.once {
		results = sender.SendOnce(ctx, t.topic, t.messages, t.named)
	} else {
		results = sender.Send(ctx, t.topic, t.messages)
	}
	for j, place := range t.places {
		if err := results[j].Err; err != nil {
			b.fail(place, sendError(err))
			continue
		}
		b.results[place].MessageId, b.results[place].RecallHandle = results[j].MessageID, results[j].RecallHandle
	}
}

// sendError is a driver's error as the protocol tells it.
func sendError(err error) *pb.SendError {
	reason := driver.ReasonOf(err)
	out := &pb.SendError{
		Code: int32(codeOfReason(reason)), Reason: string(reason), Message: err.Error(), Retryable: driver.Retryable(err),
	}
	var detailed *driver.Error
	if errors.As(err, &detailed) {
		out.Field, out.Message = detailed.Field, detailed.Message
	}
	return out
}

// answerSend counts the results and makes the answer: OK when at least one message was stored.
func (s *Server) answerSend(c *call, b *sendBatch) (*pb.SendResponse, error) {
	response := &pb.SendResponse{Results: make([]*pb.SendResult, len(b.results))}
	stored := 0
	var reasons map[string]int
	for i := range b.results {
		result := &b.results[i]
		response.Results[i] = result
		if result.Error == nil {
			stored++
			continue
		}
		if reasons == nil {
			reasons = make(map[string]int)
		}
		reasons[result.Error.Reason]++
	}
	if stored > 0 {
		s.observer.Sent(c.namespace, c.name, "OK", stored)
	}
	for reason, n := range reasons {
		s.observer.Sent(c.namespace, c.name, reason, n)
	}
	if stored > 0 {
		return response, nil
	}
	return nil, allFailed(response, b.retryAfter, c.protocol == "grpc")
}

// allFailed is the error of a call of which nothing was stored. Its code is that of the first message that may be tried again, else of the
// first: a caller that goes by the code alone must not give up a message that could still be stored. One behind a failed message of its sharding key does
// not count: it can be stored when that one can.
func allFailed(response *pb.SendResponse, retryAfter time.Duration, bounded bool) error {
	worst := response.Results[0].Error
	for _, r := range response.Results {
		if r.Error.Retryable && r.Error.Reason != string(driver.EarlierFailed) {
			worst = r.Error
			break
		}
	}
	text := worst.Field + ": " + worst.Message
	if n := len(response.Results); n > 1 {
		text = fmt.Sprintf("none of the %d messages was stored; %s", n, text)
	}
	if bounded {
		var shown int
		if response, shown = fitDetails(response); shown < len(response.Results) || shown == 0 {
			text += " (too many results for an error's details)"
		}
	}
	details := []protoadapt.MessageV1{response}
	if retryAfter > 0 {
		details = append(details, retryInfo(retryAfter))
	}
	return failureWith(codes.Code(worst.Code), worst.Reason, worst.Field, text, details...)
}

// maxDetailBytes bounds the results inside a gRPC error. They travel in a header, in base64, and the libraries of other languages refuse
// headers above 8 KiB - the caller would then see an error about headers in place of ours.
const maxDetailBytes = 4 << 10

// fitDetails makes response small enough: first the sentences that repeat are left out, then the results that do not fit any more, from the end.
func fitDetails(response *pb.SendResponse) (*pb.SendResponse, int) {
	if proto.Size(response) <= maxDetailBytes {
		return response, len(response.Results)
	}
	small, told, size := &pb.SendResponse{}, map[string]bool{}, 0
	for _, r := range response.Results {
		e := proto.Clone(r.Error).(*pb.SendError)
		if told[e.Reason] {
			e.Message = ""
		}
		told[e.Reason] = true
		short := &pb.SendResult{Error: e}
		if size += proto.Size(short) + 3; size > maxDetailBytes {
			break
		}
		small.Results = append(small.Results, short)
	}
	return small, len(small.Results)
}
