// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"strconv"
	"strings"
	"time"
)

// PopRequest asks for messages that are lent for a while and acknowledged one by one. Brokers know it from 5.0 on.
type PopRequest struct {
	// Group and Topic have their namespace. The broker looks into the group's retry topics of Topic as well.
	Group, Topic string
	// Queue -1 is any.
	Queue int
	// Max is 1 to 32; brokers refuse more.
	Max int
	// Invisible is how long the messages are lent.
	Invisible time.Duration
	// Poll is how long the broker may wait for a message; 0 = it answers at once.
	Poll time.Duration
	// Earliest: in a queue that the group never read, begin with the oldest message rather than with about the newest.
	Earliest bool
	// Filter comes from NewSubscription; its topic is not used.
	Filter Subscription
	// Order lends a queue's messages to one at a time: nobody gets more of the queue before all of them are acknowledged or expired.
	Order bool
	// AttemptID matters with Order: a pop repeated with the same one gets the same messages again.
	AttemptID string
	// Broker is the broker's name.
	Broker string
}

// Command is the request. bornTime is 0: the broker then takes its own clock. With ours, one that is behind would have every long poll answered as "too
// old" at once.
func (r PopRequest) Command() *Command {
	fields := r.fields(12)
	fields["maxMsgNums"] = strconv.Itoa(r.Max)
	fields["invisibleTime"] = strconv.FormatInt(r.Invisible.Milliseconds(), 10)
	fields["initMode"] = "1"
	if r.Earliest {
		fields["initMode"] = "0"
	}
	return &Command{Code: reqPop, Fields: fields}
}

// NotificationCommand asks whether r would find a message, without taking any. Max, Invisible and Earliest do not matter.
func NotificationCommand(r PopRequest) *Command {
	return &Command{Code: reqNotification, Fields: r.fields(10)}
}

// DecodeNotification reads the answer to NotificationCommand with CodeSuccess.
func DecodeNotification(answer *Command) (hasMessage bool, err error) {
	text := answer.Fields["hasMsg"]
	hasMessage, err = strconv.ParseBool(text)
	if err != nil {
		return false, frameErrorf("notification: hasMsg is %.20q", text)
	}
	return hasMessage, nil
}

// fields are those that pops and notifications have in common.
func (r PopRequest) fields(size int) map[string]string {
	fields := make(map[string]string, size)
	fields["consumerGroup"] = r.Group
	fields["topic"] = r.Topic
	fields["queueId"] = strconv.Itoa(r.Queue)
	fields["pollTime"] = strconv.FormatInt(r.Poll.Milliseconds(), 10)
	fields["bornTime"] = "0"
	if r.Filter.Expression != "" && r.Filter.Expression != filterAll {
		fields["expType"], fields["exp"] = r.Filter.Type, r.Filter.Expression
	}
	if r.Order {
		fields["order"] = "true"
	}
	if r.AttemptID != "" {
		fields["attemptId"] = r.AttemptID
	}
	if r.Broker != "" {
		fields["bname"] = r.Broker
	}
	return fields
}

// Popped is what a pop brought.
type Popped struct {
	// At is when the messages were lent, by the broker's clock, and Invisible for how long.
	At        time.Time
	Invisible time.Duration
	// Rest is how many more messages the broker has for the group, roughly.
	Rest     int64
	Messages []PoppedMessage
}

// PoppedMessage is a message and what acknowledges it.
type PoppedMessage struct {
	StoredMessage
	Handle PopHandle
}

// propertyPopCheck is where brokers put the handle of a message of a retry topic.
const propertyPopCheck = "POP_CK"

// DecodePop reads an answer to a pop with CodeSuccess; broker is the name of the broker that gave it. An ordered pop does not raise the
// messages' own count of deliveries; the one in the answer (orderCountInfo) is added to it.
func DecodePop(answer *Command, broker string) (*Popped, error) {
	fields := fieldReader{fields: answer.Fields}
	base := PopHandle{PopTime: fields.number("popTime"), Invisible: fields.number("invisibleTime"), ReviveQueue: int(fields.number("reviveQid")), Broker: broker}
	popped := &Popped{At: time.UnixMilli(base.PopTime), Invisible: time.Duration(base.Invisible) * time.Millisecond, Rest: fields.number("restNum")}
	if fields.err != nil {
		return nil, frameErrorf("pop: %v", fields.err)
	}
	starts, err := parseStarts(answer.Fields["startOffsetInfo"])
	if err != nil {
		return nil, err
	}
	messages, err := DecodeMessages(answer.Body)
	if err != nil {
		return nil, frameErrorf("pop: %v", err)
	}
	counts := parseOrderCounts(answer.Fields["orderCountInfo"])
	popped.Messages = make([]PoppedMessage, len(messages))
	for i, m := range messages {
		handle, err := handleOf(&m, base, starts)
		if err != nil {
			return nil, frameErrorf("pop: message %d: %v", i, err)
		}
		if counts != nil {
			m.Reconsumed += counts.of(handle)
		}
		popped.Messages[i] = PoppedMessage{StoredMessage: m, Handle: handle}
	}
	return popped, nil
}

// handleOf takes the handle that the message brings, or builds it. One that it brings counts only if it belongs to this pop: brokers take the property
// off messages that are sent one by one, but not off those of a batch, so that a sender can forge it.
func handleOf(m *StoredMessage, base PopHandle, starts []popStart) (PopHandle, error) {
	if text, ok := m.Properties[propertyPopCheck]; ok {
		h, err := ParsePopHandle(text)
		if err == nil && h.PopTime == base.PopTime && h.ReviveQueue == base.ReviveQueue && h.Broker == base.Broker && h.Offset == m.Offset {
			return h, nil
		}
	}
	h := base
	h.Kind, h.Queue, h.Offset, h.Start = kindOfTopic(m.Topic), m.Queue, m.Offset, m.Offset
	if len(starts) > 0 {
		start, ok := startOf(starts, h.Kind, h.Queue)
		if !ok {
			return PopHandle{}, frameErrorf("it comes from queue %d (kind %d), which the answer does not name", h.Queue, h.Kind)
		}
		h.Start = start
	}
	return h, h.check()
}

// popStart is one part of startOffsetInfo: "kind queue start", parts joined by semicolons.
type popStart struct {
	kind  RetryKind
	queue int
	start int64
}

func parseStarts(text string) ([]popStart, error) {
	if text == "" {
		return nil, nil
	}
	all := make([]popStart, 0, strings.Count(text, ";")+1)
	for part := range strings.SplitSeq(text, ";") {
		kind, rest, _ := strings.Cut(part, " ")
		queue, start, _ := strings.Cut(rest, " ")
		k, errKind := strconv.Atoi(kind)
		q, errQueue := strconv.Atoi(queue)
		s, errStart := strconv.ParseInt(start, 10, 64)
		if errKind != nil || errQueue != nil || errStart != nil {
			return nil, frameErrorf("pop: start offset %.60q is not \"kind queue offset\"", part)
		}
		all = append(all, popStart{RetryKind(k), q, s})
	}
	return all, nil
}

func startOf(starts []popStart, kind RetryKind, queue int) (int64, bool) {
	for _, s := range starts {
		if s.kind == kind && s.queue == queue {
			return s.start, true
		}
	}
	return 0, false
}

// orderCounts maps "kind queue" and "kind qo<queue>%<offset>" to deliveries before this one.
type orderCounts map[string]int

// parseOrderCounts skips what it does not understand: a count too low is better than a message that cannot be had.
func parseOrderCounts(text string) orderCounts {
	if text == "" {
		return nil
	}
	counts := make(orderCounts)
	for part := range strings.SplitSeq(text, ";") {
		at := strings.LastIndexByte(part, ' ')
		if at < 0 {
			continue
		}
		if n, err := strconv.Atoi(part[at+1:]); err == nil && n > 0 {
			counts[part[:at]] = n
		}
	}
	return counts
}

func (c orderCounts) of(h PopHandle) int {
	kind := strconv.Itoa(int(h.Kind)) + " "
	if n, ok := c[kind+"qo"+strconv.Itoa(h.Queue)+"%"+strconv.FormatInt(h.Offset, 10)]; ok {
		return n
	}
	return c[kind+strconv.Itoa(h.Queue)]
}

// fieldReader reads numbers from an answer's fields; err is the first that was none.
type fieldReader struct {
	fields map[string]string
	err    error
}

func (r *fieldReader) number(name string) int64 {
	n, err := strconv.ParseInt(r.fields[name], 10, 64)
	if err != nil && r.err == nil {
		r.err = frameErrorf("%s is %.40q, which is not a number", name, r.fields[name])
	}
	return n
}
