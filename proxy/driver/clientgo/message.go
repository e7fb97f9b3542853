// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"math"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// never is a consume start time, in milliseconds as text, that the library's clean-up of old messages takes for young. That clean-up would send
// back, and count as an attempt, also what no application has seen; the lease table does the same work with better knowledge.
const never = "9223372036854"

// newArrival reads a message of the library. It keeps no pointer into it but for the body, which the library does not write to. topic is the one it
// was sent to; see sentTo.
func newArrival(m *primitive.MessageExt, l loop, topic, namespace string) *arrival {
	properties := m.GetProperties()
	a := &arrival{
		content: driver.Received{
			Message: driver.Message{
				ID: m.MsgId, Topic: wire.WithoutNamespace(namespace, topic), Tag: properties[driver.PropertyTag], Body: m.Body,
				Keys: driver.SplitKeys(properties[driver.PropertyKeys]), Properties: driver.OrdinaryProperties(properties),
				ShardingKey: properties[driver.PropertyShardingKey],
			},
			BornTime: time.UnixMilli(m.BornTimestamp), StoreTime: time.UnixMilli(m.StoreTimestamp),
			Broker: l.BrokerName, Queue: l.QueueId, Offset: m.QueueOffset,
		},
		broker: brokerCopy{
			topic: topic, commitLogOffset: m.CommitLogOffset, offsetID: m.OffsetMsgId, properties: properties, reconsumed: int(m.ReconsumeTimes),
		},
		attempt: attemptOf(m.ReconsumeTimes), inHeap: -1,
	}
	a.size = a.content.Bytes()
	return a
}

// sentTo is the topic that a message was sent to, with its namespace: for one from the group's retry topic, the one that the broker wrote down.
func sentTo(m *primitive.MessageExt, group string) string {
	if m.Topic == wire.RetryTopic(group) {
		if original := m.GetProperty(primitive.PropertyRetryTopic); original != "" {
			return original
		}
	}
	return m.Topic
}

func attemptOf(reconsumed int32) int {
	if reconsumed < 0 || reconsumed == math.MaxInt32 {
		return 1
	}
	return int(reconsumed) + 1
}
