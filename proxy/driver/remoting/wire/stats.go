// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"encoding/json"
	"time"
)

// QueueStats is a group's progress in one queue.
type QueueStats struct {
	Topic  string
	Broker string
	Queue  int
	// Max is the queue's next offset, Committed the group's position.
	Max, Committed int64
	// LastTime is when the newest consumed message was stored.
	LastTime time.Time
}

// ConsumeStats asks a broker for group's progress in all its queues there, those of its retry topic included. It needs an administrator's
// rights where there is ACL.
func (c *Client) ConsumeStats(ctx context.Context, address, group string) ([]QueueStats, error) {
	answer, err := c.Invoke(ctx, address, &Command{Code: reqConsumeStats, Fields: map[string]string{"consumerGroup": group}})
	if err != nil {
		return nil, err
	}
	return decodeConsumeStats(answer.Body)
}

func decodeConsumeStats(body []byte) ([]QueueStats, error) {
	var table struct {
		Offsets map[string]struct {
			Broker   int64 `json:"brokerOffset"`
			Consumer int64 `json:"consumerOffset"`
			Last     int64 `json:"lastTimestamp"`
		} `json:"offsetTable"`
	}
	if err := unmarshalLoose(body, &table); err != nil {
		return nil, frameErrorf("consume stats: %v", err)
	}
	all := make([]QueueStats, 0, len(table.Offsets))
	for key, o := range table.Offsets {
		var q struct {
			Topic  string `json:"topic"`
			Broker string `json:"brokerName"`
			Queue  int    `json:"queueId"`
		}
		if err := json.Unmarshal([]byte(key), &q); err != nil {
			return nil, frameErrorf("consume stats: queue %.100q: %v", key, err)
		}
		all = append(all, QueueStats{Topic: q.Topic, Broker: q.Broker, Queue: q.Queue, Max: o.Broker, Committed: o.Consumer, LastTime: time.UnixMilli(o.Last)})
	}
	return all, nil
}
