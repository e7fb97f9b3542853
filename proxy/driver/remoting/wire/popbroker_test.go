// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"testing"
	"time"
)

// pop asks the broker of the first queue once. What is not set in r: any queue, 32 messages, lent for a minute.
func (s *site) pop(t *testing.T, r PopRequest) *Popped {
	t.Helper()
	if r.Invisible == 0 {
		r.Invisible = time.Minute
	}
	if r.Max == 0 {
		r.Max = 32
	}
	if r.Queue == 0 {
		r.Queue = -1
	}
	got := newEnded()
	s.Go(s.queues[0].Address, r.Command(), r.Poll+10*time.Second, got.done)
	end := got.once(t)
	must(t, "pop", end.err)
	if end.answer.Code == CodePollTimeout {
		return &Popped{}
	}
	if end.answer.Code != CodeSuccess {
		t.Fatalf("pop: code %d: %s", end.answer.Code, end.answer.Remark)
	}
	popped, err := DecodePop(end.answer, s.queues[0].Broker)
	must(t, "decode the pop", err)
	return popped
}

// ackAll acknowledges everything with one request.
func (s *site) ackAll(t *testing.T, group string, p *Popped) {
	t.Helper()
	var acks []Ack
	for _, m := range p.Messages {
		acks = append(acks, Ack{s.topic, m.Handle})
	}
	_, err := s.Invoke(t.Context(), s.queues[0].Address, BatchAckCommand(group, s.queues[0].Broker, acks))
	must(t, "batch ack", err)
}
