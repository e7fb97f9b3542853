// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"errors"
	"strings"
	"testing"
)

// good is a message that uses everything that is allowed.
func good() *Message {
	return &Message{
		ID: "order-1:2,3/ä", Topic: "%DLQ%ns%a_topic-|1", Tag: "größe 1", Keys: []string{"key-1", "schlüssel"}, Body: []byte{0},
		Properties: map[string]string{"a": "one\ntwo\t ", "größe": "你好 🚀", PropertyDeadLetterReason: "a message that is put back keeps its history", "keys": "x"},
	}
}

func TestValidateMessageLetsThroughWhatRocketMQKeeps(t *testing.T) {
	m := good()
	if err := ValidateMessage(m, 0); err != nil {
		t.Error(err)
	}
	if err := ValidateMessage(m, int(m.Bytes())); err != nil {
		t.Errorf("a message of exactly the limit: %v", err)
	}
}

func TestValidateMessageNamesTheField(t *testing.T) {
	property := func(name, value string) func(*Message) { return func(m *Message) { m.Properties[name] = value } }
	for _, c := range []struct {
		name, field, text string
		spoil             func(*Message)
	}{
		{"no topic", "topic", "empty", func(m *Message) { m.Topic = "" }},
		{"a topic with a blank", "topic", "character", func(m *Message) { m.Topic = "a topic" }},
		{"a topic with an umlaut", "topic", "character", func(m *Message) { m.Topic = "größe" }},
		{"a topic of 128 bytes", "topic", "127", func(m *Message) { m.Topic = strings.Repeat("t", 128) }},
		{"a retry topic", "topic", "retry", func(m *Message) { m.Topic = "%RETRY%group" }},
		{"an id with a blank", "id", "blank", func(m *Message) { m.ID = "a b" }},
		{"an id with a line end", "id", "control", func(m *Message) { m.ID = "a\n" }},
		{"a long id", "id", "255", func(m *Message) { m.ID = strings.Repeat("i", 256) }},
		{"a tag with |", "tag", "|", func(m *Message) { m.Tag = "a|b" }},
		{"a tag that ends with a blank", "tag", "blank", func(m *Message) { m.Tag = "a " }},
		{"a tag with a tabulator", "tag", "control", func(m *Message) { m.Tag = "a\tb" }},
		{"a tag that is not UTF-8", "tag", "UTF-8", func(m *Message) { m.Tag = "\xff" }},
		{"an empty key", "keys[1]", "empty", func(m *Message) { m.Keys[1] = "" }},
		{"a key with a blank", "keys[0]", "blank", func(m *Message) { m.Keys[0] = "a\u00a0b" }},
		{"a key with a separator", "keys[0]", "0x01", func(m *Message) { m.Keys[0] = "a\x01b" }},
		{"a reserved property", "properties[DELAY]", "belongs to RocketMQ", property("DELAY", "3")},
		{"a reserved prefix", "properties[__RMQ.x]", "belongs to RocketMQ", property("__RMQ.x", "3")},
		{"the tag as a property", "properties[TAGS]", "message's tag", property("TAGS", "3")},
		{"the keys as a property", "properties[KEYS]", "message's keys", property("KEYS", "3")},
		{"the id as a property", "properties[UNIQ_KEY]", "message's id", property("UNIQ_KEY", "3")},
		{"a property without a name", "properties", "empty name", property("", "3")},
		{"a property without a value", "properties[b]", "drops", property("b", "")},
		{"a separator in a value", "properties[b]", "0x02", property("b", "x\x02")},
		{"a separator in a name", "properties[b\x01]", "0x01", property("b\x01", "x")},
		{"a zero byte", "properties[b]", "0x00", property("b", "\x00")},
		{"a value that is not UTF-8", "properties[b]", "UTF-8", property("b", "\xc3\x28")},
		{"too many properties", "properties", "30720", property("b", strings.Repeat("x", MaxPropertyBytes))},
		{"no body", "body", "empty", func(m *Message) { m.Body = nil }},
		{"a large body", "body", "limit is 50000", func(m *Message) { m.Body = make([]byte, 50_001) }},
	} {
		m := good()
		c.spoil(m)
		err := ValidateMessage(m, 50_000)
		var e *Error
		if !errors.As(err, &e) || e.Reason != InvalidMessage || e.Field != c.field || !strings.Contains(e.Message, c.text) {
			t.Errorf("%s: want InvalidMessage of %s with %q, got %v", c.name, c.field, c.text, err)
		}
	}
	if err := ValidateMessage(nil, 0); ReasonOf(err) != InvalidMessage {
		t.Errorf("no message: %v", err)
	}
}

func TestOfSeveralBadPropertiesTheSameOneIsNamedEachTime(t *testing.T) {
	for range 50 {
		m := good()
		for _, name := range []string{"z", "y", "b", "x"} {
			m.Properties[name] = ""
		}
		if err := ValidateMessage(m, 0); err == nil || !strings.Contains(err.Error(), "properties[b]") {
			t.Fatalf("want properties[b], got %v", err)
		}
	}
}

func TestReservedPropertiesHoldWhatSendersMustNotSet(t *testing.T) {
	names := ReservedProperties()
	for _, name := range append(names, "KEYS", "TAGS", "UNIQ_KEY", "DELAY", "RETRY_TOPIC", "REAL_TOPIC", "REAL_QID", "TRAN_MSG", "PGROUP", "MIN_OFFSET",
		"MAX_OFFSET", "POP_CK", "TIMER_DELIVER_MS", "__RMQ.TRANSIENT.TOPIC_SYS_FLAG") {
		if !ReservedProperty(name) {
			t.Errorf("%s is not reserved", name)
		}
	}
	for _, name := range []string{"", "keys", "order", PropertyDeadLetterReason, PropertyDeadLetterAttempts, PropertyDeadLetterTopic, PropertyDeadLetterMessageID} {
		if ReservedProperty(name) {
			t.Errorf("%q is reserved", name)
		}
	}
	if len(names) < 60 || names[0] > names[1] {
		t.Errorf("%d names, the first are %q", len(names), names[:2])
	}
}

func TestTheLargestPropertiesLeaveRoomForADeadLetter(t *testing.T) {
	const stored = 32767 // the broker's limit
	names := len(PropertyDeadLetterReason) + len(PropertyDeadLetterAttempts) + len(PropertyDeadLetterTopic) + len(PropertyDeadLetterMessageID)
	if room := stored - MaxPropertyBytes - MaxReasonBytes - names - MaxTopicBytes - MaxIDBytes - 20; room < 200 {
		t.Errorf("%d bytes are left for what brokers add on a retry", room)
	}
}

func FuzzValidateMessage(f *testing.F) {
	f.Add("topic", "id", "tag", "key", "name", "value", []byte("body"))
	f.Add("%RETRY%", "a b", "||", "", "KEYS", "\x01", []byte(nil))
	f.Fuzz(func(t *testing.T, topic, id, tag, key, name, value string, body []byte) {
		m := &Message{Topic: topic, ID: id, Tag: tag, Keys: []string{key}, Properties: map[string]string{name: value}, Body: body}
		err := ValidateMessage(m, 1<<20)
		if err == nil && strings.ContainsAny(topic+id+tag+key+name+value, "\x00\x01\x02") {
			t.Errorf("a separator passed: %+v", m)
		}
		var e *Error
		if err != nil && (!errors.As(err, &e) || e.Reason != InvalidMessage) {
			t.Errorf("not an InvalidMessage: %v", err)
		}
	})
}
