// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Separators in the text of properties.
const (
	nameEnd  = "\x01"
	valueEnd = "\x02"
)

// neverDeadLetter is a limit of attempts that no message reaches: whoever counts attempts here is the window and not the broker.
const neverDeadLetter = 1 << 30

// EncodeProperties writes properties as brokers store them, in the order of their names.
func EncodeProperties(properties map[string]string) string {
	return string(appendProperties(make([]byte, 0, propertiesBytes(properties)), properties))
}

// MessageProperties is the text of the properties under which m is stored: its own, and those that hold id, tag, keys, sharding key and time. It is on the way of every
// message out, and a map of them costs more than everything else that is done with the message there.
func MessageProperties(m *driver.Message) string {
	size := propertiesBytes(m.Properties) + len(driver.PropertyID) + len(m.ID) + len(driver.PropertyTag) + len(m.Tag) + len(driver.PropertyKeys) + 6
	if m.ShardingKey != "" {
		size += len(driver.PropertyShardingKey) + len(m.ShardingKey) + 2
	}
	for _, key := range m.Keys {
		size += len(key) + 1
	}
	text := make([]byte, 0, size)
	add := func(name, value string) {
		text = append(append(text, name...), nameEnd...)
		text = append(append(text, value...), valueEnd...)
	}
	add(driver.PropertyID, m.ID)
	if m.Tag != "" {
		add(driver.PropertyTag, m.Tag)
	}
	if len(m.Keys) > 0 {
		add(driver.PropertyKeys, strings.Join(m.Keys, " "))
	}
	if m.ShardingKey != "" {
		add(driver.PropertyShardingKey, m.ShardingKey)
	}
	if m.When.Later() {
		add(m.When.TimerProperty())
	}
	return string(appendProperties(text, m.Properties))
}

// propertiesBytes is the length of what EncodeProperties writes.
func propertiesBytes(properties map[string]string) int {
	n := 0
	for name, value := range properties {
		n += len(name) + len(nameEnd) + len(value) + len(valueEnd)
	}
	return n
}

func appendProperties(dst []byte, properties map[string]string) []byte {
	var few [16]string // most messages have no more, and it stays on the stack
	names := few[:0]
	for name := range properties {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		dst = append(append(dst, name...), nameEnd...)
		dst = append(append(dst, properties[name]...), valueEnd...)
	}
	return dst
}

// Outgoing is a message for Send.
type Outgoing struct {
	ProducerGroup string
	Topic         string
	// Queue -1 lets the broker choose; Broker may be empty.
	Queue      int
	Broker     string
	Properties map[string]string
	// Text are more properties, as MessageProperties writes them.
	Text string
	Body []byte
	// SysFlag says how the body is compressed; see Compress.
	SysFlag  int
	BornTime time.Time
	// Reconsumed and MaxReconsume matter for a retry topic: with Reconsumed > MaxReconsume the broker stores the message in the
	// group's dead-letter topic, which it creates if need be.
	Reconsumed, MaxReconsume int
}

// Stored says where a message is.
type Stored struct {
	Queue  int
	Offset int64
	// OffsetID is the broker's own id of the message, not its UNIQ_KEY.
	OffsetID string
	// RecallHandle is there for a timer message; see Recall.
	RecallHandle string
}

// Send stores one message and waits for the answer, until ctx ends, or for RequestTimeout when it has no end. Codes 10 to 12 are errors here: stored,
// but not as safely as configured.
func (c *Client) Send(ctx context.Context, address string, m Outgoing) (Stored, error) {
	answer, err := c.invokeSend(ctx, address, m.command())
	if err != nil {
		return Stored{}, err
	}
	return decodeStored(answer)
}

// invokeSend is Invoke with ctx's end as the only bound: how long a send may take is the user's choice, and may be longer than RequestTimeout.
func (c *Client) invokeSend(ctx context.Context, address string, cmd *Command) (*Command, error) {
	deadline, bounded := ctx.Deadline()
	if !bounded {
		deadline = time.Now().Add(RequestTimeout)
	}
	return c.invokeUntil(ctx, deadline, address, cmd)
}

func (m *Outgoing) command() *Command {
	return &Command{Code: reqSendMessageV2, pairs: sendFields(m, "false"), Body: m.Body}
}

// sendFields is the header of a send in its short form (SendMessageRequestHeaderV2, 5.5.0), for one message or a batch.
func sendFields(m *Outgoing, batch string) []field {
	fields := append(make([]field, 0, 14+signatureFields),
		field{"a", m.ProducerGroup}, field{"b", m.Topic}, field{"c", DefaultTopic}, field{"d", "4"}, field{"e", strconv.Itoa(m.Queue)},
		field{"f", strconv.Itoa(m.SysFlag)}, field{"g", strconv.FormatInt(m.BornTime.UnixMilli(), 10)}, field{"h", "0"},
		field{"i", m.properties()}, field{"j", strconv.Itoa(m.Reconsumed)}, field{"k", "false"}, field{"l", strconv.Itoa(m.MaxReconsume)},
		field{"m", batch})
	if m.Broker != "" {
		fields = append(fields, field{"n", m.Broker})
	}
	return fields
}

func (m *Outgoing) properties() string {
	if len(m.Properties) == 0 {
		return m.Text
	}
	return EncodeProperties(m.Properties) + m.Text
}

// noSuchQueue is a queue id that no topic has.
const noSuchQueue = 1 << 30

// MaySend proves that topic exists at the broker and that the credentials may write to it, without storing anything: it sends to a queue that
// does not exist, which brokers refuse after they have checked everything else (code 29; 1 before 5.0). A broker that creates topics by
// itself makes topic; for a retry topic every broker does.
func (c *Client) MaySend(ctx context.Context, address, producerGroup, topic string) error {
	_, err := c.Send(ctx, address, Outgoing{ProducerGroup: producerGroup, Topic: topic, Queue: noSuchQueue, Body: []byte{'?'}, BornTime: time.Now()})
	code, answered := CodeOf(err)
	if answered && (code == CodeInvalidParameter || code == CodeSystemError) {
		return nil
	}
	if err == nil {
		return frameErrorf("%s stored a message of %q in queue %d, which cannot be", address, topic, noSuchQueue)
	}
	return err
}

// SendBack asks the broker at address to deliver a message again to group, after the delay of that level (1 to 18). The broker stores a copy
// in the group's retry topic with its count of attempts raised; the caller acknowledges the original.
func (c *Client) SendBack(ctx context.Context, address string, b Back) error {
	_, err := c.Invoke(ctx, address, &Command{Code: reqSendMessageBack, Fields: map[string]string{
		"group": b.Group, "offset": strconv.FormatInt(b.CommitLogOffset, 10), "delayLevel": strconv.Itoa(b.DelayLevel),
		"originMsgId": b.MessageID, "originTopic": b.Topic, "unitMode": "false", "maxReconsumeTimes": strconv.Itoa(neverDeadLetter),
		"bname": b.Broker,
	}})
	return err
}

// Back is a delivery that is sent back.
type Back struct {
	Group      string
	Topic      string
	Broker     string
	MessageID  string
	DelayLevel int
	// CommitLogOffset is where this delivery is in the broker's log.
	CommitLogOffset int64
}
