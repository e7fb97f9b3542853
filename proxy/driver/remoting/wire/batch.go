// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"encoding/binary"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Batch is several messages of one topic that are stored in one request, in one queue, in order. Brokers ignore delays of messages in a batch
// and take no transactions there. The whole counts against the broker's limit of a message, 4 MiB; about 1 MiB is wise.
type Batch struct {
	ProducerGroup, Topic string
	// Queue -1 lets the broker choose; Broker may be empty.
	Queue    int
	Broker   string
	BornTime time.Time
	// SysFlag says how the bodies are compressed, all of them alike or none: brokers write the request's flag on every message (MessageExtEncoder,
	// 5.5.0). See Compress.
	SysFlag  int
	Messages []BatchMessage
}

// BatchMessage is a message of a Batch. Its body is stored as it is.
type BatchMessage struct {
	Properties map[string]string
	Body       []byte
	// Text are more properties, as MessageProperties writes them.
	Text string
}

// MaxPropertiesBytes is the most that the text of a message's properties may have: its length is a Java short.
const MaxPropertiesBytes = math.MaxInt16

// SendBatch stores all messages and waits for the answer: all are stored, or none. Codes 10 to 12 are errors here as in Send. Stored[i] is
// Messages[i].
func (c *Client) SendBatch(ctx context.Context, address string, b Batch) ([]Stored, error) {
	if len(b.Messages) == 0 {
		return nil, nil
	}
	body := newFrame()
	defer freeFrame(body) // the request is encoded, and with it copied, before anything is waited for
	cmd, err := b.command(body)
	if err != nil {
		return nil, err
	}
	answer, err := c.invokeSend(ctx, address, cmd)
	if err != nil {
		return nil, err
	}
	return decodeBatchAnswer(answer, len(b.Messages))
}

// command encodes the batch into buffer, which the command uses.
func (b *Batch) command(buffer *[]byte) (*Command, error) {
	var err error
	if *buffer, err = appendBatch((*buffer)[:0], b.Messages); err != nil {
		return nil, err
	}
	fields := sendFields(&Outgoing{ProducerGroup: b.ProducerGroup, Topic: b.Topic, Queue: b.Queue, Broker: b.Broker, BornTime: b.BornTime, SysFlag: b.SysFlag}, "true")
	return &Command{Code: reqSendBatch, pairs: fields, Body: *buffer}, nil
}

// batchOverhead are the bytes of a message of a batch beside body and properties.
const batchOverhead = 4 + 4 + 4 + 4 + 4 + 2

// Bytes is the size of m in its batch.
func (m BatchMessage) Bytes() int {
	return batchOverhead + len(m.Body) + propertiesBytes(m.Properties) + len(m.Text)
}

// appendBatch writes the messages (MessageDecoder.encodeMessage, 5.5.0):
//
//	4 total size, 4 zero, 4 zero, 4 flag, 4 body length, body, 2 properties length, properties
func appendBatch(body []byte, messages []BatchMessage) ([]byte, error) {
	size := 0
	for _, m := range messages {
		size += m.Bytes()
	}
	if size > MaxFrameBytes {
		return body, frameErrorf("a batch of %d messages has %d bytes, the limit is %d", len(messages), size, MaxFrameBytes)
	}
	body = slices.Grow(body, size)
	for i, m := range messages {
		properties := propertiesBytes(m.Properties) + len(m.Text)
		if properties > MaxPropertiesBytes {
			return body, driver.Errorf(driver.InvalidMessage, "", "message %d of the batch has %d bytes of properties, the limit is %d", i, properties, MaxPropertiesBytes)
		}
		body = binary.BigEndian.AppendUint32(body, uint32(batchOverhead+len(m.Body)+properties))
		body = append(body, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		body = binary.BigEndian.AppendUint32(body, uint32(len(m.Body)))
		body = append(body, m.Body...)
		body = binary.BigEndian.AppendUint16(body, uint16(properties))
		body = append(appendProperties(body, m.Properties), m.Text...)
	}
	return body, nil
}

// decodeBatchAnswer tells each message's place: the answer has the offset of the first and all ids, joined by commas.
func decodeBatchAnswer(answer *Command, n int) ([]Stored, error) {
	first, err := decodeStored(answer)
	if err != nil {
		return nil, err
	}
	ids := strings.Split(first.OffsetID, ",")
	if len(ids) != n {
		return nil, frameErrorf("the answer to a batch of %d messages has %d ids", n, len(ids))
	}
	all := make([]Stored, n)
	for i := range all {
		all[i] = Stored{Queue: first.Queue, Offset: first.Offset + int64(i), OffsetID: ids[i]}
	}
	return all, nil
}

// decodeStored reads an answer to a send.
func decodeStored(answer *Command) (Stored, error) {
	queue, err := strconv.Atoi(answer.Fields["queueId"])
	if err != nil {
		return Stored{}, frameErrorf("queue id %.40q is not a number", answer.Fields["queueId"])
	}
	offset, err := strconv.ParseInt(answer.Fields["queueOffset"], 10, 64)
	if err != nil {
		return Stored{}, frameErrorf("queue offset %.40q is not a number", answer.Fields["queueOffset"])
	}
	return Stored{Queue: queue, Offset: offset, OffsetID: answer.Fields["msgId"], RecallHandle: answer.Fields["recallHandle"]}, nil
}
