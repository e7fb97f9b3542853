// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Limits of one request with several messages. Brokers bound the whole by their limit of one message, 4 MiB, and lose all of a request above
// it; beyond 1 MiB nothing is gained. limitBytes is what callers may count on in driver.Message.Bytes: the rest is for what frames each message.
const (
	batchMessages = 1024
	batchBytes    = 1 << 20
	limitBytes    = batchBytes - batchMessages*frameBytes
	// frameBytes is what a message of a batch has around what Bytes counts: 22 bytes of lengths and flags, 22 for the names and ends of id, tag and
	// keys, and a blank between keys.
	frameBytes = 64
)

// entry is one message of a Send and the place of its answer.
type entry struct {
	message *driver.Message
	result  *driver.SendResult
}

// request is what one request to a broker carries: messages of one topic, encoded once for all tries.
type request struct {
	entries  []entry
	messages []wire.BatchMessage
	// sysFlag says how the bodies are compressed. It is the request's: brokers write it on every message of a batch.
	sysFlag int
	born    time.Time
}

// part is some of r's messages.
func (r request) part(from, to int) request {
	r.entries, r.messages = r.entries[from:to], r.messages[from:to]
	return r
}

// pack gathers messages into requests within the limits; one above them goes alone. Bodies of more than compressAbove bytes (0 = none) are compressed
// where that makes them smaller, and go in requests of their own: the flag that says so is one for all messages of a request. Order is kept
// among those that are compressed and among those that are not. One that is delivered later goes alone.
func pack(entries []entry, compressAbove int) []request {
	var done []request
	var open [2]*packing // of plain and of compressed ones
	for i, e := range entries {
		m := wire.BatchMessage{Text: wire.MessageProperties(e.message), Body: e.message.Body}
		sysFlag := 0
		if compressAbove > 0 && len(m.Body) > compressAbove {
			m.Body, sysFlag = wire.Compress(m.Body)
		}
		if e.message.When.Later() {
			// Alone: in a batch brokers ignore the time and deliver at once (5.5.0).
			done = append(done, request{entries: []entry{e}, messages: []wire.BatchMessage{m}, sysFlag: sysFlag, born: time.Now()})
			continue
		}
		size := m.Bytes()
		kind := min(sysFlag, 1)
		p := open[kind]
		if p != nil && (len(p.entries) >= batchMessages || p.size+size > batchBytes) {
			done = append(done, p.request)
			p = nil
		}
		if p == nil {
			room := min(len(entries)-i, batchMessages)
			p = &packing{request: request{
				sysFlag: sysFlag, born: time.Now(), entries: make([]entry, 0, room), messages: make([]wire.BatchMessage, 0, room),
			}}
			open[kind] = p
		}
		p.entries, p.messages = append(p.entries, e), append(p.messages, m)
		p.size += size
	}
	for _, p := range open {
		if p != nil {
			done = append(done, p.request)
		}
	}
	return done
}

type packing struct {
	request
	size int
}
