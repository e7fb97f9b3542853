// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
)

const (
	// maxAnswerBytes keeps an answer below the 4 MiB that gRPC clients take by default; a single message that is larger comes alone.
	maxAnswerBytes = 4<<20 - 16<<10
	// frameMessages and frameBytes are what a stream puts into one frame: enough to make the cost of a frame small, little enough that a
	// receiver that stops reading leaves little in the connection's memory.
	frameMessages = 256
	frameBytes    = 1 << 20
	// frameResults is how many results of acknowledgements go into one frame; a token has less than 2 KiB as a rule.
	frameResults = 1000
)

// frame is one answer with its storage. A stream uses one again and again: what was sent has been encoded when the send returns.
type frame struct {
	response pb.ReceiveResponse
	slots    []*slot
}

// slot is one delivery with all that it points to.
type slot struct {
	delivery              pb.Delivery
	message               pb.ReceivedMessage
	deadline, born, store timestamppb.Timestamp
}

// fill puts ds into f.response and answers how many fit into one answer; the first always does.
func (f *frame) fill(ds []delivery.Delivery) int {
	for len(f.slots) < len(ds) {
		f.slots = append(f.slots, &slot{})
	}
	f.response.Deliveries = f.response.Deliveries[:0]
	size := 0
	for i := range ds {
		out := f.slots[i].set(&ds[i])
		size += deliverySize(out)
		if i > 0 && size > maxAnswerBytes {
			return i
		}
		f.response.Deliveries = append(f.response.Deliveries, out)
	}
	return len(ds)
}

// release forgets the messages, so that an idle stream does not hold their bodies.
func (f *frame) release() {
	for i := range f.response.Deliveries {
		m := &f.slots[i].message
		m.Body, m.Properties, m.Keys = nil, nil, nil
	}
	f.response.Deliveries = f.response.Deliveries[:0]
	f.response.Results, f.response.Draining = nil, false
}

// deliverySize is the size of d inside an answer.
func deliverySize(d *pb.Delivery) int { return proto.Size(d) + 6 }

// set fills the slot and answers its message.
func (s *slot) set(d *delivery.Delivery) *pb.Delivery {
	m := &s.message
	m.Topic, m.Id, m.Tag, m.ShardingKey = validText(d.Topic), validText(d.ID), validText(d.Tag), validText(d.ShardingKey)
	m.Body, m.Keys, m.Properties = d.Body, validTexts(d.Keys), validProperties(d.Properties)
	out := &s.delivery
	out.Message = m
	out.AckToken, out.DeliveryAttempt = d.Token, int32(d.Attempt)
	out.AckDeadline = setTime(&s.deadline, d.Deadline)
	out.BornTime, out.StoreTime = setTime(&s.born, d.BornTime), setTime(&s.store, d.StoreTime)
	return out
}

func setTime(into *timestamppb.Timestamp, t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	into.Seconds, into.Nanos = t.Unix(), int32(t.Nanosecond())
	return into
}

// validText replaces what is not UTF-8. Senders outside of this proxy can store such text, and protobuf refuses it: one message would end
// every stream that it is delivered to.
func validText(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

func validTexts(texts []string) []string {
	for _, t := range texts {
		if !utf8.ValidString(t) {
			out := make([]string, len(texts))
			for i := range texts {
				out[i] = validText(texts[i])
			}
			return out
		}
	}
	return texts
}

func validProperties(properties map[string]string) map[string]string {
	for name, value := range properties {
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			out := make(map[string]string, len(properties))
			for n, v := range properties {
				out[validText(n)] = validText(v)
			}
			return out
		}
	}
	return properties
}
