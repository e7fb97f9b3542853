// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"strconv"
	"time"
)

// Pulled is what a queue has from an offset on.
type Pulled struct {
	Messages []StoredMessage
	// Next is where to go on; it can be past the last message, because what a queue once had may be deleted.
	Next int64
	// Oldest and End are the queue's bounds: the first message that is still stored, and the offset that the next one will get.
	Oldest, End int64
}

// Pull reads up to n messages of q from offset on in group's name, and changes nothing: no position, no lease. It does not wait for messages. The broker
// sends 32 at most, and 256 KiB unless the first alone is larger (5.5.0: maxTransferCountOnMessageInMemory and its siblings). group must exist; the
// credentials need the right to subscribe to the topic.
func (c *Client) Pull(ctx context.Context, q Queue, group string, offset int64, n int) (Pulled, error) {
	answer, err := c.pull(ctx, q, group, offset, n, filterAll)
	if answer == nil {
		return Pulled{}, err
	}
	fields := fieldReader{fields: answer.Fields}
	p := Pulled{Next: fields.number("nextBeginOffset"), Oldest: fields.number("minOffset"), End: fields.number("maxOffset")}
	if fields.err != nil {
		return Pulled{}, frameErrorf("pull: %v", fields.err)
	}
	if answer.Code == CodeSuccess {
		if p.Messages, err = DecodeMessages(answer.Body); err != nil {
			return Pulled{}, frameErrorf("pull: %v", err)
		}
	}
	return p, nil
}

// FindMost is how many messages FindByID answers at most (5.5.0: maxMsgsNumBatch).
const FindMost = 64

// FindByID asks a broker's index for messages of topic that carry id as their UNIQ_KEY and were stored from since until until, the newest FindMost of them. The
// index is written a moment after the message (the broker's dispatch), knows times to the second and ids by their hash, and is kept as long as the messages.
// A broker with messageIndexEnable=false finds nothing.
func (c *Client) FindByID(ctx context.Context, address, topic, id string, since, until time.Time) ([]StoredMessage, error) {
	end := int64(endOfTime)
	if !until.IsZero() {
		end = until.UnixMilli()
	}
	answer, err := c.Invoke(ctx, address, &Command{Code: reqQueryMessage, Fields: map[string]string{
		"topic": topic, "key": id, "maxNum": strconv.Itoa(FindMost), "beginTimestamp": strconv.FormatInt(since.UnixMilli(), 10),
		"endTimestamp": strconv.FormatInt(end, 10), "_UNIQUE_KEY_QUERY": "true",
	}})
	if code, ok := CodeOf(err); ok && code == CodeQueryNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found, err := DecodeMessages(answer.Body)
	if err != nil {
		return nil, frameErrorf("query: %v", err)
	}
	return found, nil
}

// endOfTime is Java's Long.MAX_VALUE, in milliseconds.
const endOfTime = 1<<63 - 1
