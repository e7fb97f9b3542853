// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"slices"
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
	// frameBytes is what a message of a batch has around what Bytes counts: 22 bytes of lengths and flags, 37 for the names and ends of id, tag, keys and
	// sharding key, and a blank between keys.
	frameBytes = 64
)

// entry is one message of a Send and the place of its answer.
type entry struct {
	message *driver.Message
	result  *driver.SendResult
	// shard is where it must go, nil = anywhere. Messages of one queue share one value.
	shard *wire.Queue
}

// request is what one request to a broker carries: messages of one topic, encoded once for all tries.
type request struct {
	entries  []entry
	messages []wire.BatchMessage
	// sysFlag says how the bodies are compressed. It is the request's: brokers write it on every message of a batch.
	sysFlag int
	born    time.Time
	// shard is the entries'.
	shard *wire.Queue
}

// part is some of r's messages.
func (r request) part(from, to int) request {
	r.entries, r.messages = r.entries[from:to], r.messages[from:to]
	return r
}

// pack gathers messages into requests within the limits; one above them goes alone. Bodies of more than compressAbove bytes (0 = none) are compressed
// where that makes them smaller, and go in requests of their own: the flag that says so is one for all messages of a request. Those of one shard keep
// their order; others keep it among those that are compressed and among those that are not. One that is delivered later goes alone.
func pack(entries []entry, compressAbove int) []request {
	p := packer{room: len(entries)}
	for _, e := range entries {
		m := wire.BatchMessage{Text: wire.MessageProperties(e.message), Body: e.message.Body}
		sysFlag := 0
		if compressAbove > 0 && len(m.Body) > compressAbove {
			m.Body, sysFlag = wire.Compress(m.Body)
		}
		if e.message.When.Later() {
			// Alone: in a batch brokers ignore the time and deliver at once (5.5.0).
			p.done = append(p.done, request{entries: []entry{e}, messages: []wire.BatchMessage{m}, sysFlag: sysFlag, born: time.Now()})
		} else {
			p.add(e, m, sysFlag)
		}
		p.room--
	}
	slices.SortStableFunc(p.open, func(a, b *packing) int { return a.sysFlag - b.sysFlag })
	for _, open := range p.open {
		p.done = append(p.done, open.request)
	}
	return p.done
}

// packer is pack's state: room is how many messages are still to come.
type packer struct {
	done []request
	open []*packing
	room int
}

type packing struct {
	request
	size int
}

// add puts m into an open request, or opens one.
func (p *packer) add(e entry, m wire.BatchMessage, sysFlag int) {
	size := m.Bytes()
	at := p.find(e.shard, sysFlag)
	if at >= 0 {
		if o := p.open[at]; o.sysFlag != sysFlag || len(o.entries) >= batchMessages || o.size+size > batchBytes {
			p.done = append(p.done, o.request)
			p.open = slices.Delete(p.open, at, at+1)
			at = -1
		}
	}
	if at < 0 {
		room := min(p.room, batchMessages)
		if e.shard != nil {
			room = min(room, 16) // many shards share what is to come
		}
		p.open = append(p.open, &packing{request: request{
			sysFlag: sysFlag, born: time.Now(), shard: e.shard, entries: make([]entry, 0, room), messages: make([]wire.BatchMessage, 0, room),
		}})
		at = len(p.open) - 1
	}
	o := p.open[at]
	o.entries, o.messages = append(o.entries, e), append(o.messages, m)
	o.size += size
}

// find is the place of the open request that e may join, -1 = there is none. Without a shard one of compressed and one of other messages may be open; a
// shard has one at a time, whose end keeps the order.
func (p *packer) find(shard *wire.Queue, sysFlag int) int {
	return slices.IndexFunc(p.open, func(o *packing) bool { return o.shard == shard && (shard != nil || o.sysFlag == sysFlag) })
}
