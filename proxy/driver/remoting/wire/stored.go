// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"time"
)

// Bits of a message's sysFlag (org.apache.rocketmq.common.sysflag.MessageSysFlag, 5.5.0).
const (
	sysCompressed     = 1 << 0
	sysPrepared       = 1 << 2
	sysBornHostV6     = 1 << 4
	sysStoreHostV6    = 1 << 5
	sysCompressionLZ4 = 1 << 8
	sysCompressionZst = 2 << 8
	sysCompressionZlb = 3 << 8
	sysCompression    = 7 << 8
)

// Magic numbers of a stored message; the second one has two bytes for the topic's length.
const (
	messageMagic   = -626843481
	messageMagicV2 = -626843477
)

// StoredMessage is one message as brokers store and send it, in pops and pulls.
type StoredMessage struct {
	// Topic has its namespace. A message of a retry topic carries the name of the topic it was sent to.
	Topic string
	Queue int
	// Offset is the place in the queue, CommitLogOffset the one in the broker's log.
	Offset, CommitLogOffset int64
	SysFlag                 int
	Born, Stored            time.Time
	// Reconsumed is the number of deliveries before this one.
	Reconsumed int
	Properties map[string]string
	// Body is decompressed, and a copy: it does not keep the answer it came in. See Undecoded.
	Body []byte
	// OffsetID is the broker's own id of the message, not its UNIQ_KEY.
	OffsetID string
}

// Undecoded reports that the body is still compressed, because it could not be decompressed or would have become too big. The message can
// be acknowledged or moved like any other: one that a producer spoiled must not hold up those around it.
func (m *StoredMessage) Undecoded() bool { return m.SysFlag&sysCompressed != 0 }

// DecodeMessages reads messages one after the other, as MessageDecoder of RocketMQ 5.5.0 does:
//
//	4 total size, 4 magic, 4 body CRC, 4 queue, 4 flag, 8 offset, 8 commit-log offset, 4 sysFlag, 8 born, 4|16+4 born host,
//	8 stored, 4|16+4 store host, 4 reconsumed, 8 prepared-transaction offset, 4 body length, body, 1|2 topic length, topic,
//	2 properties length, properties
//
// Every length is checked against what is there before anything is made of it. What does not parse is ErrFrame.
func DecodeMessages(body []byte) ([]StoredMessage, error) {
	n, err := countMessages(body)
	if err != nil || n == 0 {
		return nil, err
	}
	all := make([]StoredMessage, 0, n)
	budget := maxInflatedAnswer
	for len(body) > 0 {
		size := binary.BigEndian.Uint32(body)
		d := messageReader{compactReader: compactReader{rest: body[4:size]}, budget: &budget}
		if len(all) > 0 {
			d.topic = all[len(all)-1].Topic
		}
		m, err := d.message()
		if err != nil {
			return nil, frameErrorf("message %d: %v", len(all), err)
		}
		all = append(all, m)
		body = body[size:]
	}
	return all, nil
}

// leastMessage is the size of a message with nothing in it.
const leastMessage = 91

// countMessages walks from size to size and checks that they fill body.
func countMessages(body []byte) (int, error) {
	for n := 0; ; n++ {
		if len(body) == 0 {
			return n, nil
		}
		if len(body) < leastMessage {
			return 0, frameErrorf("message %d: %d bytes are too few", n, len(body))
		}
		size := int64(binary.BigEndian.Uint32(body))
		if size < leastMessage || size > int64(len(body)) {
			return 0, frameErrorf("message %d: size %d of %d bytes", n, size, len(body))
		}
		body = body[size:]
	}
}

// messageReader reads one message.
type messageReader struct {
	compactReader
	// topic is that of the message before; the same name is not allocated again.
	topic string
	// budget is how many bytes of the answer may still come out of decompression.
	budget *int
}

func (r *messageReader) message() (StoredMessage, error) {
	var m StoredMessage
	magic := int32(r.u32())
	if magic != messageMagic && magic != messageMagicV2 {
		return m, frameErrorf("magic number %d", magic)
	}
	r.take(4) // the CRC of the body; TCP and the broker have checked it
	m.Queue = int(int32(r.u32()))
	r.take(4) // the application's flag
	m.Offset, m.CommitLogOffset = int64(r.u64()), int64(r.u64())
	m.SysFlag = int(int32(r.u32()))
	m.Born = time.UnixMilli(int64(r.u64()))
	r.take(hostLength(m.SysFlag & sysBornHostV6))
	m.Stored = time.UnixMilli(int64(r.u64()))
	m.OffsetID = offsetID(r.take(hostLength(m.SysFlag&sysStoreHostV6)), m.CommitLogOffset)
	m.Reconsumed = int(int32(r.u32()))
	r.take(8) // the offset of the half message
	raw := r.take(int64(r.u32()))
	m.Topic = r.name(magic)
	m.Properties = DecodeProperties(r.text(int64(r.uint(2))))
	if r.short {
		return m, frameErrorf("it ends too early")
	}
	m.Body, m.SysFlag = r.body(raw, m.SysFlag)
	return m, nil
}

// name reads the topic.
func (r *messageReader) name(magic int32) string {
	width := 1
	if magic == messageMagicV2 {
		width = 2
	}
	name := r.take(int64(r.uint(width)))
	if string(name) == r.topic { // does not allocate
		return r.topic
	}
	return string(name)
}

// body decompresses raw, or copies it: a body of 1 KiB that somebody keeps must not keep the 256 KiB that it came in.
func (r *messageReader) body(raw []byte, sysFlag int) ([]byte, int) {
	if sysFlag&sysCompressed == 0 {
		return bytes.Clone(raw), sysFlag
	}
	body, err := decompress(raw, sysFlag, min(*r.budget, MaxFrameBytes))
	if err != nil {
		return bytes.Clone(raw), sysFlag // told by Undecoded
	}
	*r.budget -= len(body)
	return body, sysFlag &^ sysCompressed
}

// hostLength is the length of an address and its port.
func hostLength(v6 int) int64 {
	if v6 != 0 {
		return 16 + 4
	}
	return 4 + 4
}

// offsetID is the store host and the commit-log offset in upper-case hex, as brokers answer it to a send.
func offsetID(host []byte, commitLogOffset int64) string {
	var id [28]byte
	n := copy(id[:], host)
	binary.BigEndian.PutUint64(id[n:], uint64(commitLogOffset))
	var text [56]byte
	end := hex.Encode(text[:], id[:n+8])
	for i, c := range text[:end] {
		if c >= 'a' {
			text[i] = c - 'a' + 'A'
		}
	}
	return string(text[:end])
}

// DecodeProperties reads the text of properties. Like RocketMQ's own decoder it skips pairs without a name, without a value and without a separator.
func DecodeProperties(text string) map[string]string {
	properties := make(map[string]string, strings.Count(text, valueEnd)+1)
	for pair := range strings.SplitSeq(text, valueEnd) {
		name, value, ok := strings.Cut(pair, nameEnd)
		if ok && name != "" && value != "" {
			properties[name] = value
		}
	}
	return properties
}
