// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Properties of a dead-letter message. They are ordinary properties: the application that reads the dead-letter topic sees them, and may send
// them on when it puts a message back.
const (
	// PropertyDeadLetterReason says why the message was given up, cut to MaxReasonBytes.
	PropertyDeadLetterReason = "PROXY_DEAD_LETTER_REASON"
	// PropertyDeadLetterAttempts is the number of deliveries before that, in decimal.
	PropertyDeadLetterAttempts = "PROXY_DEAD_LETTER_ATTEMPTS"
	// PropertyDeadLetterTopic and PropertyDeadLetterMessageID name the original; they are RocketMQ's own names for it.
	PropertyDeadLetterTopic     = "DLQ_ORIGIN_TOPIC"
	PropertyDeadLetterMessageID = "DLQ_ORIGIN_MESSAGE_ID"
)

// Properties of a message that has been delivered before. They are made when it is delivered and not stored in RocketMQ.
const (
	// PropertyRetryAttempt is which delivery it is, in decimal, from 2.
	PropertyRetryAttempt = "PROXY_RETRY_ATTEMPT"
	// PropertyRetryReason is why the last delivery failed, where the host that delivers knows: the reason of a nack, or that the lease expired.
	PropertyRetryReason = "PROXY_RETRY_REASON"
)

// Names that RocketMQ gives a meaning and that drivers set or read themselves.
const (
	PropertyID   = "UNIQ_KEY"
	PropertyTag  = "TAGS"
	PropertyKeys = "KEYS"
)

// MaxReasonBytes bounds the reason in a dead-letter message, so that it fits beside the largest properties that ValidateMessage lets through.
const MaxReasonBytes = 1024

// DeadLetterTopic is the topic that takes the messages that group gave up, without the namespace prefix.
func DeadLetterTopic(group string) string { return "%DLQ%" + group }

// reservedPrefix starts names that a broker keeps for itself.
const reservedPrefix = "__RMQ."

// reserved are the property names that RocketMQ 4.9 and 5.5 set or act on. An application that could set them would change the delivery (DELAY,
// TRAN_MSG), pretend another identity (UNIQ_KEY) or find its value overwritten (MIN_OFFSET).
var reserved = map[string]struct{}{
	PropertyID: {}, PropertyTag: {}, PropertyKeys: {},
	"WAIT": {}, "DELAY": {}, "RETRY_TOPIC": {}, "ORIGIN_GROUP": {}, "REAL_TOPIC": {}, "REAL_QID": {}, "TRAN_MSG": {}, "PGROUP": {},
	"MIN_OFFSET": {}, "MAX_OFFSET": {}, "BUYER_ID": {}, "ORIGIN_MESSAGE_ID": {}, "TRANSFER_FLAG": {}, "CORRECTION_FLAG": {}, "MQ2_FLAG": {},
	"RECONSUME_TIME": {}, "MSG_REGION": {}, "TRACE_ON": {}, "TRANS_OFFSET": {}, "EXTEND_UNIQ_INFO": {}, "MAX_RECONSUME_TIMES": {},
	"CONSUME_START_TIME": {}, "_SYS_MSG_PRIORITY_": {}, "INNER_NUM": {}, "INNER_BASE": {}, "DUP_INFO": {},
	"CHECK_IMMUNITY_TIME_IN_SECONDS": {}, "TRAN_PREPARED_QUEUE_OFFSET": {}, "__transactionId__": {}, "TRANSACTION_CHECK_TIMES": {},
	"INSTANCE_ID": {}, "CORRELATION_ID": {}, "REPLY_TO_CLIENT": {}, "TTL": {}, "ARRIVE_TIME": {}, "PUSH_REPLY_TIME": {}, "CLUSTER": {},
	"MSG_TYPE": {}, "POP_CK": {}, "POP_CK_OFFSET": {}, "1ST_POP_TIME": {}, PropertyShardingKey: {}, "SHARDING_KEY": {}, "__LITE_TOPIC": {},
	"PROPERTY_FORWARD_QUEUE_ID": {}, "REDIRECT": {}, "INNER_MULTI_DISPATCH": {}, "INNER_MULTI_QUEUE_OFFSET": {}, "TRACE_CONTEXT": {},
	"TIMER_DELAY_SEC": {}, "TIMER_DELIVER_MS": {}, "TIMER_DELAY_MS": {}, "TIMER_ENQUEUE_MS": {}, "TIMER_DEQUEUE_MS": {}, "TIMER_ROLL_TIMES": {},
	"TIMER_OUT_MS": {}, "TIMER_DEL_UNIQKEY": {}, "TIMER_ROLL_LABEL": {}, "TIMER_DELAY_LEVEL": {}, "__STARTDELIVERTIME": {},
	"__BORNHOST": {}, "BORN_TIMESTAMP": {}, "__CRC32#": {}, "E_T": {},
}

// ReservedProperty reports whether name belongs to RocketMQ: senders must not set it, and drivers take it off what they receive.
func ReservedProperty(name string) bool {
	_, found := reserved[name]
	return found || strings.HasPrefix(name, reservedPrefix)
}

// ReservedProperties lists the reserved names in order, for documentation and tests. Names that start with "__RMQ." are reserved as well.
func ReservedProperties() []string { return slices.Sorted(maps.Keys(reserved)) }

// keySeparator stands between keys in the KEYS property.
const keySeparator = " "

// SplitKeys reads the KEYS property.
func SplitKeys(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, keySeparator)
}

// OrdinaryProperties are those of a stored message that its sender set itself; nil when there are none.
func OrdinaryProperties(stored map[string]string) map[string]string {
	var kept map[string]string
	for name, value := range stored {
		if ReservedProperty(name) {
			continue
		}
		if kept == nil {
			kept = make(map[string]string, len(stored))
		}
		kept[name] = value
	}
	return kept
}

// StoredProperties are the properties under which RocketMQ keeps m; the map is the caller's.
func StoredProperties(m *Message) map[string]string {
	properties := make(map[string]string, len(m.Properties)+4)
	maps.Copy(properties, m.Properties)
	properties[PropertyID] = m.ID
	if m.Tag != "" {
		properties[PropertyTag] = m.Tag
	}
	if len(m.Keys) > 0 {
		properties[PropertyKeys] = strings.Join(m.Keys, keySeparator)
	}
	if m.ShardingKey != "" {
		properties[PropertyShardingKey] = m.ShardingKey
	}
	return properties
}

// CutReason shortens reason to MaxReasonBytes without breaking a character.
func CutReason(reason string) string { return CutText(reason, MaxReasonBytes) }

// CutText shortens text to that many bytes without breaking a character.
func CutText(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}
