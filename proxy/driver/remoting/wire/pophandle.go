// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"strconv"
	"strings"
	"time"
)

// RetryKind says which topic of a group a message was popped from; the numbers are the wire's.
type RetryKind int

// The topics that a pop looks into: the one that was asked for, and the group's retry topics.
const (
	Normal RetryKind = iota
	RetryV1
	// RetryV2 is used by brokers with enableRetryTopicV2, which is off unless somebody switches it on.
	RetryV2
)

// Topic is the real topic of a message of topic that group popped: what single acks and changes want.
func (k RetryKind) Topic(group, topic string) string {
	switch k {
	case RetryV1:
		return retryPrefix + group + "_" + topic
	case RetryV2:
		return retryPrefix + group + "+" + topic
	case Normal:
	}
	return topic
}

// kindOfTopic tells it by a topic's name, as brokers do (KeyBuilder, 5.5.0). Neither topics nor groups may have a plus sign.
func kindOfTopic(topic string) RetryKind {
	switch {
	case !strings.HasPrefix(topic, retryPrefix):
		return Normal
	case strings.Contains(topic, "+"):
		return RetryV2
	default:
		return RetryV1
	}
}

// orderedRevive is the revive queue of ordered pops: there is no check point, the broker keeps the order's state by itself.
const orderedRevive = 999

// maxAckDistance bounds how far a message may be from the start of its pop: a batch ack has a bit for each place in between. Pops scan
// some thousand messages at most when a filter skips them.
const maxAckDistance = 1 << 20

// PopHandle says what a pop lent: RocketMQ calls it extraInfo, or POP_CK. Values come from DecodePop, DecodeChange and ParsePopHandle, which check them.
type PopHandle struct {
	// Start is the first offset of the pop in this queue; the broker finds its check point by it.
	Start int64
	// PopTime (ms since 1970, the broker's clock) and Invisible (ms) say until when the message is lent.
	PopTime, Invisible int64
	ReviveQueue        int
	Kind               RetryKind
	Broker             string
	Queue              int
	Offset             int64
}

// Expires is when the broker gives the message to somebody else, by the broker's clock. Acks after it have no effect, and the broker does not say so.
func (h PopHandle) Expires() time.Time { return time.UnixMilli(h.PopTime + h.Invisible) }

// Ordered reports whether it comes from an ordered pop.
func (h PopHandle) Ordered() bool { return h.ReviveQueue == orderedRevive }

// String is the broker's form: "start popTime invisible revive kind broker queue offset".
func (h PopHandle) String() string {
	b := make([]byte, 0, 96)
	b = append(strconv.AppendInt(b, h.Start, 10), ' ')
	b = append(strconv.AppendInt(b, h.PopTime, 10), ' ')
	b = append(strconv.AppendInt(b, h.Invisible, 10), ' ')
	b = append(strconv.AppendInt(b, int64(h.ReviveQueue), 10), ' ')
	b = append(strconv.AppendInt(b, int64(h.Kind), 10), ' ')
	b = append(append(b, h.Broker...), ' ')
	b = append(strconv.AppendInt(b, int64(h.Queue), 10), ' ')
	return string(strconv.AppendInt(b, h.Offset, 10))
}

// ParsePopHandle reads the broker's form. The error is ErrFrame; it does not repeat the text.
func ParsePopHandle(text string) (PopHandle, error) {
	fields := strings.Split(text, " ")
	if len(fields) != 8 {
		return PopHandle{}, frameErrorf("a pop handle has 8 fields, not %d", len(fields))
	}
	var n [8]int64
	for i, f := range fields {
		if i == 5 {
			continue // the broker's name
		}
		v, err := strconv.ParseInt(f, 10, 64)
		if err != nil || v < 0 {
			return PopHandle{}, frameErrorf("field %d of a pop handle is not a number from 0 up", i)
		}
		n[i] = v
	}
	h := PopHandle{Start: n[0], PopTime: n[1], Invisible: n[2], ReviveQueue: int(n[3]), Kind: RetryKind(n[4]), Broker: fields[5], Queue: int(n[6]), Offset: n[7]}
	if err := h.check(); err != nil {
		return PopHandle{}, err
	}
	return h, nil
}

// check refuses numbers that no broker gives and that would be expensive or overflow later.
func (h PopHandle) check() error {
	const centuries = 1 << 50 // ms
	switch {
	case h.Kind < Normal || h.Kind > RetryV2:
		return frameErrorf("kind %d of a pop handle is not known", h.Kind)
	case h.Broker == "":
		return frameErrorf("a pop handle names no broker")
	case h.Start < 0 || h.Offset < h.Start || h.Offset-h.Start > maxAckDistance:
		return frameErrorf("offset %d of a pop handle is not within %d after its start %d", h.Offset, maxAckDistance, h.Start)
	case h.PopTime < 0 || h.PopTime > centuries || h.Invisible < 0 || h.Invisible > centuries:
		return frameErrorf("pop time %d and invisible time %d of a pop handle are not times", h.PopTime, h.Invisible)
	case h.Queue < 0 || h.Queue > maxQueuesPerBroker || h.ReviveQueue < 0 || h.ReviveQueue > maxQueuesPerBroker:
		return frameErrorf("queue %d and revive queue %d of a pop handle are not queues", h.Queue, h.ReviveQueue)
	}
	return nil
}
