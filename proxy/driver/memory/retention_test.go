// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// throttled demands that a Send is refused and that the error names the limit.
func throttled(t *testing.T, p driver.Producer, m *driver.Message, limit string) {
	t.Helper()
	r := p.Send(t.Context(), m.Topic, []*driver.Message{m})[0]
	if driver.ReasonOf(r.Err) != driver.Throttled || !strings.Contains(r.Err.Error(), limit) {
		t.Fatalf("want Throttled for %s, got %v", limit, r.Err)
	}
}

func TestAtTheLimitOfMessagesSendIsRefusedUntilSomeAreAcknowledged(t *testing.T) {
	broker := NewBroker(Options{MaxTopicMessages: 8})
	p, c := open(t, New(broker), "group", "topic")
	mustSend(t, p, numbered("topic", 8)...)
	extra := &driver.Message{ID: "extra", Topic: "topic", Body: []byte("x")}
	throttled(t, p, extra, "MaxTopicMessages")
	got := mustFetch(t, c, 8, time.Hour)
	throttled(t, p, extra, "MaxTopicMessages")
	mustAck(t, c, got[3])
	mustSend(t, p, extra)
	throttled(t, p, extra, "MaxTopicMessages")
	for i, r := range got {
		if i != 3 {
			if _, err := c.Nack(t.Context(), r.Handle, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if again := ids(mustFetch(t, c, 8, time.Hour)); again != "0 1 2 4 5 6 7 extra " {
		t.Errorf("came again: %s", again)
	}
}

func TestAtTheLimitOfBytesSendIsRefusedUntilSomeAreAcknowledged(t *testing.T) {
	broker := NewBroker(Options{MaxTopicBytes: 10_000})
	p, c := open(t, New(broker), "group", "topic")
	large := func(id string) *driver.Message {
		return &driver.Message{ID: id, Topic: "topic", Body: make([]byte, 4000)}
	}
	mustSend(t, p, large("1"))
	mustSend(t, p, large("2"))
	throttled(t, p, large("3"), "MaxTopicBytes")
	mustAck(t, c, mustFetch(t, c, 1, time.Hour)...)
	mustSend(t, p, large("3"))
	if stats := broker.Stats(); stats.Messages != 2 || stats.Bytes > 10_000 {
		t.Errorf("kept: %+v", stats)
	}
}

func TestWhatNoGroupHasReadIsNotDropped(t *testing.T) {
	d := New(NewBroker(Options{MaxTopicMessages: 3}))
	p, err := d.OpenProducer(t.Context(), producerConfig("topic"))
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, p)
	mustSend(t, p, numbered("topic", 3)...)
	throttled(t, p, &driver.Message{ID: "x", Topic: "topic", Body: []byte("x")}, "MaxTopicMessages")
	if got := mustFetch(t, join(t, d, "group", "topic"), 3, time.Hour); len(got) != 3 {
		t.Errorf("a group from Earliest got %d of 3", len(got))
	}
}

func TestEveryGroupHoldsWhatItHasNotAcknowledgedAndADeletedOneHoldsNothing(t *testing.T) {
	broker := NewBroker(Options{MaxTopicMessages: 4})
	d := New(broker)
	p, fast := open(t, d, "fast", "topic")
	slow := join(t, d, "slow", "topic")
	mustSend(t, p, numbered("topic", 4)...)
	mustAck(t, fast, mustFetch(t, fast, 4, time.Hour)...)
	leased := mustFetch(t, slow, 2, time.Hour)
	mustAck(t, slow, leased[0])
	mustSend(t, p, numbered("topic", 1)...)
	throttled(t, p, numbered("topic", 1)[0], "MaxTopicMessages")
	if broker.DeleteGroup("", "slow") {
		t.Fatal("a group with an open consumer was deleted")
	}
	mustClose(t, slow)
	if !broker.DeleteGroup("", "slow") || broker.DeleteGroup("", "slow") {
		t.Fatal("a group without consumers is deleted once")
	}
	mustSend(t, p, numbered("topic", 3)...)
}

func TestAcknowledgedMessagesOfOtherTopicsGoWhenTheBrokerIsFull(t *testing.T) {
	broker := NewBroker(Options{MaxBytes: 10_000})
	d := New(broker)
	p, c := open(t, d, "group", "old")
	body := make([]byte, 4000)
	mustSend(t, p, &driver.Message{ID: "1", Topic: "old", Body: body}, &driver.Message{ID: "2", Topic: "old", Body: body})
	throttled(t, p, &driver.Message{ID: "3", Topic: "new", Body: body}, "MaxBytes")
	mustAck(t, c, mustFetch(t, c, 2, time.Hour)...)
	mustSend(t, p, &driver.Message{ID: "3", Topic: "new", Body: body})
	if stats := broker.Stats(); stats.Bytes > 10_000 || stats.Held != 0 {
		t.Errorf("kept: %+v", stats)
	}
}

// One message is never acknowledged while many pass it: memory must not grow with those that passed.
func TestAStuckMessageDoesNotHoldThoseAfterIt(t *testing.T) {
	broker := NewBroker(Options{Queues: 1, MaxTopicMessages: 100})
	p, c := open(t, New(broker), "group", "topic")
	mustSend(t, p, &driver.Message{ID: "stuck", Topic: "topic", Body: []byte("x")})
	stuck := mustFetch(t, c, 1, time.Hour)[0]
	for i := range 5000 {
		mustSend(t, p, &driver.Message{ID: strconv.Itoa(i), Topic: "topic", Body: []byte("x")})
		mustAck(t, c, mustFetch(t, c, 1, time.Hour)...)
	}
	if stats := broker.Stats(); stats.Messages > 100 || stats.Held != 1 {
		t.Errorf("kept: %+v", stats)
	}
	if _, err := c.Nack(t.Context(), stuck.Handle, 0); err != nil {
		t.Fatal(err)
	}
	if again := ids(mustFetch(t, c, 1, time.Hour)); again != "stuck " {
		t.Errorf("came: %s", again)
	}
}

func TestALateGroupReadsWhatIsLeftInOrder(t *testing.T) {
	d := New(NewBroker(Options{Queues: 1, MaxTopicMessages: 8}))
	p, c := open(t, d, "group", "topic")
	mustSend(t, p, numbered("topic", 8)...)
	got := mustFetch(t, c, 8, time.Hour)
	mustAck(t, c, got[1:6]...)
	mustSend(t, p, &driver.Message{ID: "8", Topic: "topic", Body: []byte("x")})
	late := join(t, d, "late", "topic")
	rest := mustFetch(t, late, 4, time.Hour)
	if order := ids(rest); !strings.HasPrefix(order, "0 ") || strings.Contains(order, "1 ") {
		t.Errorf("a late group got %s", order)
	}
}

func TestDeadLettersThatFindNoRoomKeepTheOriginal(t *testing.T) {
	broker := NewBroker(Options{MaxTopicMessages: 1})
	d := New(broker)
	p, c := open(t, d, "group", "topic")
	mustSend(t, p, numbered("topic", 1)...)
	first := mustFetch(t, c, 1, time.Hour)[0]
	if err := c.DeadLetter(t.Context(), first, "first"); err != nil {
		t.Fatal(err)
	}
	mustSend(t, p, &driver.Message{ID: "second", Topic: "topic", Body: []byte("x")})
	second := mustFetch(t, c, 1, time.Hour)[0]
	if err := c.DeadLetter(t.Context(), second, "second"); driver.ReasonOf(err) != driver.Throttled {
		t.Fatalf("want Throttled, got %v", err)
	}
	mustAck(t, c, second)
}

func TestTopicsAndGroupsAreBounded(t *testing.T) {
	broker := NewBroker(Options{MaxTopics: 1, MaxGroups: 1})
	d := New(broker)
	p, c := open(t, d, "group", "topic")
	throttled(t, p, &driver.Message{ID: "x", Topic: "other", Body: []byte("x")}, "MaxTopics")
	if _, err := d.OpenConsumer(t.Context(), consumerConfig("other", "topic")); driver.ReasonOf(err) != driver.Throttled {
		t.Errorf("a second group: %v", err)
	}
	if broker.DeleteTopic("", "topic") {
		t.Error("a topic with a reader was deleted")
	}
	mustClose(t, c)
	if !broker.DeleteTopic("", "topic") {
		t.Error("a topic without readers was not deleted")
	}
	mustSend(t, p, &driver.Message{ID: "x", Topic: "other", Body: []byte("x")})
	if stats := broker.Stats(); stats.Topics != 1 || stats.Messages != 1 {
		t.Errorf("kept: %+v", stats)
	}
}
