// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/base64"
	"strconv"
	"time"
)

// Ack names a message to acknowledge.
type Ack struct {
	// Topic is the topic that was popped, with its namespace, also for a message of a retry topic.
	Topic  string
	Handle PopHandle
}

// AckCommand acknowledges one message. CodeSuccess does not mean that it had an effect: brokers answer it to a handle that has expired as well.
func AckCommand(group string, a Ack) *Command {
	return &Command{Code: reqAck, Fields: leaseFields(group, a.Topic, a.Handle)}
}

func leaseFields(group, topic string, h PopHandle) map[string]string {
	return map[string]string{
		"consumerGroup": group, "topic": h.Kind.Topic(group, topic), "queueId": strconv.Itoa(h.Queue),
		"extraInfo": h.String(), "offset": strconv.FormatInt(h.Offset, 10), "bname": h.Broker,
	}
}

// BatchAckCommand acknowledges any number of messages that group popped from broker, of any topics, queues and pops, one part of the body for
// each pop of a queue, in the order in which they first appear. There is one answer for all; it says nothing about each (see AckCommand).
//
//	{"brokerName":b,"acks":[{"c":group,"t":topic,"r":kind,"so":start,"q":queue,"rq":revive queue,"pt":pop time,"it":invisible time,
//	  "b":base64 of a little-endian set of bits, bit = offset - start},...]}
func BatchAckCommand(group, broker string, acks []Ack) *Command {
	parts := gatherAcks(acks)
	body := make([]byte, 0, 64+len(parts)*(160+len(group)))
	body = append(body, `{"brokerName":`...)
	body = appendJSONString(body, broker)
	body = append(body, `,"acks":[`...)
	for i := range parts {
		if i > 0 {
			body = append(body, ',')
		}
		body = parts[i].append(body, group)
	}
	return &Command{Code: reqBatchAck, Fields: map[string]string{"bname": broker}, Body: append(body, "]}"...)}
}

// ackPart is what shares one set of bits: the messages of one pop from one queue.
type ackPart struct {
	ackKey
	bits []byte
}

type ackKey struct {
	topic                     string
	kind                      RetryKind
	queue, revive             int
	start, popTime, invisible int64
}

func keyOf(a *Ack) ackKey {
	h := &a.Handle
	return ackKey{a.Topic, h.Kind, h.Queue, h.ReviveQueue, h.Start, h.PopTime, h.Invisible}
}

func gatherAcks(acks []Ack) []ackPart {
	var parts []ackPart
	index := make(map[ackKey]int)
	last := -1
	for i := range acks {
		key := keyOf(&acks[i])
		// Most often it is the same pop as the one before.
		if last < 0 || parts[last].ackKey != key {
			at, known := index[key]
			if !known {
				at = len(parts)
				index[key] = at
				parts = append(parts, ackPart{ackKey: key})
			}
			last = at
		}
		parts[last].set(acks[i].Handle.Offset - key.start)
	}
	return parts
}

func (p *ackPart) set(bit int64) {
	if need := int(bit/8) + 1; need > len(p.bits) {
		p.bits = append(p.bits, make([]byte, need-len(p.bits))...)
	}
	p.bits[bit/8] |= 1 << (bit % 8)
}

func (p *ackPart) append(dst []byte, group string) []byte {
	dst = append(dst, `{"c":`...)
	dst = appendJSONString(dst, group)
	dst = append(dst, `,"t":`...)
	dst = appendJSONString(dst, p.topic)
	dst = append(dst, `,"r":"`...)
	dst = strconv.AppendInt(dst, int64(p.kind), 10)
	for _, n := range [...]struct {
		name  string
		value int64
	}{
		{`","so":`, p.start},
		{`,"q":`, int64(p.queue)},
		{`,"rq":`, int64(p.revive)},
		{`,"pt":`, p.popTime},
		{`,"it":`, p.invisible},
	} {
		dst = strconv.AppendInt(append(dst, n.name...), n.value, 10)
	}
	dst = append(dst, `,"b":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, p.bits)
	return append(dst, `"}`...)
}

// InvisibleChange gives a lent message a new time, counted from the broker's now.
type InvisibleChange struct {
	// Group and Topic (the topic that was popped) have their namespace.
	Group, Topic string
	Handle       PopHandle
	// Invisible of 0 gives the message back; brokers need about 2 s for it.
	Invisible time.Duration
	// Suspend gives it back without counting the delivery. Ordered pops ignore it.
	Suspend bool
}

// ChangeCommand is the request. Never send it for a message that was acknowledged: the broker would deliver the message again.
func ChangeCommand(c InvisibleChange) *Command {
	fields := leaseFields(c.Group, c.Topic, c.Handle)
	fields["invisibleTime"] = strconv.FormatInt(c.Invisible.Milliseconds(), 10)
	if c.Suspend {
		fields["suspend"] = "true"
	}
	return &Command{Code: reqChangeInvisible, Fields: fields}
}

// DecodeChange reads an answer to ChangeCommand with CodeSuccess. From now on only the handle that it returns has an effect: the message has a
// check point of its own. An ordered pop has none, and its handle stays but for the time.
func DecodeChange(answer *Command, old PopHandle) (PopHandle, error) {
	fields := fieldReader{fields: answer.Fields}
	h := old
	h.PopTime, h.Invisible, h.ReviveQueue = fields.number("popTime"), fields.number("invisibleTime"), int(fields.number("reviveQid"))
	if !h.Ordered() {
		h.Start = h.Offset
	}
	if fields.err != nil {
		return PopHandle{}, frameErrorf("change of the invisible time: %v", fields.err)
	}
	if err := h.check(); err != nil {
		return PopHandle{}, err
	}
	return h, nil
}
