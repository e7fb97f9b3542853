// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"math"
	"strings"
	"unicode/utf8"
)

// PropertyShardingKey is where RocketMQ keeps a message's sharding key. Brokers do not look at it: whoever sends picks the queue by it.
const PropertyShardingKey = "__SHARDINGKEY"

// MaxShardingKeyBytes bounds a sharding key. RocketMQ's Java proxy takes 64 bytes unless it is told otherwise (maxMessageGroupSize).
const MaxShardingKeyBytes = 255

// Shard is the place, from 0, in a list of queues where messages with this sharding key go. It is the choice of RocketMQ's Java proxy
// (SendMessageActivity, 5.5.0), so that both can send to one topic: Java's String.hashCode of the key, and Guava's consistentHash of that over the number
// of queues. The list has the topic's writable queues by broker name and queue id (wire.Route.Sharded). queues must be at least 1.
func Shard(key string, queues int) int { return consistentHash(javaHash(key), queues) }

// javaHash is String.hashCode: it goes over the UTF-16 form.
func javaHash(text string) int32 {
	var h int32
	for _, c := range text {
		if c >= 0x10000 {
			c -= 0x10000
			h = 31*h + 0xd800 + c>>10
			c = 0xdc00 + c&0x3ff
		}
		h = 31*h + c
	}
	return h
}

// consistentHash is Guava's Hashing.consistentHash (Lamping and Veach's jump hash with its own generator). The input is widened with its sign, as Java does.
func consistentHash(input int32, buckets int) int {
	state, candidate := uint64(int64(input)), 0
	for {
		state = 2862933555777941757*state + 1
		random := float64(int32(state>>33)+1) / (1 << 31)
		next := float64(candidate+1) / random
		// Java's conversion stops at the largest int, where Go's is not defined.
		if next >= math.MaxInt32 || int(next) >= buckets {
			return candidate
		}
		candidate = int(next)
	}
}

// Behind is the error of a message that was not stored because an earlier one with its sharding key was not: stored now it would overtake. Sent again after
// the earlier one it keeps the order.
func Behind(key string) error {
	return Errorf(EarlierFailed, "sharding_key",
		"not stored, because an earlier message with the sharding key %q was not: send both again, in their order", key)
}

// FailedKeys are the sharding keys of which a message of one call was not stored. The zero value is ready.
type FailedKeys struct{ keys map[string]struct{} }

// Note takes the outcome of m.
func (f *FailedKeys) Note(m *Message, err error) {
	if err != nil && m != nil {
		f.Add(m.ShardingKey)
	}
}

// Add says that a message with this key failed; the empty one does not matter.
func (f *FailedKeys) Add(key string) {
	if key == "" {
		return
	}
	if f.keys == nil {
		f.keys = make(map[string]struct{})
	}
	f.keys[key] = struct{}{}
}

// Behind is the error for a message that would overtake, nil for others.
func (f *FailedKeys) Behind(m *Message) error {
	if len(f.keys) == 0 || m == nil || m.ShardingKey == "" {
		return nil
	}
	if _, failed := f.keys[m.ShardingKey]; !failed {
		return nil
	}
	return Behind(m.ShardingKey)
}

func validateShardingKey(m *Message) error {
	const field = "sharding_key"
	switch key := m.ShardingKey; {
	case key == "":
		return nil
	case len(key) > MaxShardingKeyBytes:
		return Errorf(InvalidMessage, field, "the key has %d bytes, the limit is %d", len(key), MaxShardingKeyBytes)
	case m.When.Later():
		return Errorf(InvalidMessage, field, "the message has a sharding key and is to be delivered later: RocketMQ puts it into its queue only when it is due, "+
			"behind what was sent meanwhile; leave one of both out")
	case strings.TrimSpace(key) == "" && utf8.ValidString(key):
		return Errorf(InvalidMessage, field, "the key is blank, which RocketMQ's own proxy refuses")
	default:
		return validateText(field, key)
	}
}
