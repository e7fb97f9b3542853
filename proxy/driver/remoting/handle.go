// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"encoding/base64"
	"encoding/binary"
	"hash/fnv"
	"math"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// lease is one message lent to the group, and all that any host needs to acknowledge it. It is what a handle says.
type lease struct {
	// source is the place of the popped topic in the consumer's list; see sources.
	source int
	// pop names the message, its check point at the broker and the end of the lease by the broker's clock.
	pop wire.PopHandle
	// skew is the broker's clock less the wall clock of the process that fetched, in ms. A host that has not heard the broker's clock itself
	// judges by it: hosts' wall clocks agree well enough for the deadlines in ack tokens, and brokers' may not.
	skew int64
}

const (
	handlePrefix = "rm1."
	// maxHandleBytes bounds what is looked at: a broker's name has at most 255 bytes.
	maxHandleBytes = 512
	checksumBytes  = 4
	// Limits of what a handle can say; the same as wire's for what brokers send.
	maxAckDistance = 1 << 20
	maxHandleTime  = 1 << 50
)

var handleEncoding = base64.RawURLEncoding.Strict()

// marks bind the handles of a consumer to its group and topics: a handle of another group, or from before a change of the subscriptions, is invalid.
func marks(group string, topics []string) []uint32 {
	all := make([]uint32, len(topics))
	for i, topic := range topics {
		all[i] = checksum([]byte(group + "\x00" + topic))
	}
	return all
}

func checksum(b []byte) uint32 {
	h := fnv.New32a()
	_, _ = h.Write(b) // a hash cannot fail to take bytes
	return h.Sum32()
}

// handle is l as text: mark, numbers of variable length, the broker's name, checksum. It holds nothing secret.
func (l *lease) handle(marks []uint32) driver.Handle {
	var space [128]byte
	b := binary.BigEndian.AppendUint32(space[:0], marks[l.source])
	for _, n := range [...]int64{
		int64(l.source), int64(l.pop.Kind), int64(l.pop.Queue), int64(l.pop.ReviveQueue), l.pop.Start, l.pop.Offset - l.pop.Start, l.pop.PopTime, l.pop.Invisible,
	} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	b = binary.AppendVarint(b, l.skew)
	b = append(b, l.pop.Broker...)
	b = binary.BigEndian.AppendUint32(b, checksum(b))
	text := make([]byte, len(handlePrefix), len(handlePrefix)+handleEncoding.EncodedLen(len(b)))
	copy(text, handlePrefix)
	return driver.Handle(handleEncoding.AppendEncode(text, b))
}

// parseHandle refuses everything that handle did not make for the same group and topics.
func parseHandle(h driver.Handle, marks []uint32) (lease, bool) {
	if len(h) < len(handlePrefix) || len(h) > maxHandleBytes || h[:len(handlePrefix)] != handlePrefix {
		return lease{}, false
	}
	var space [maxHandleBytes]byte
	b, err := handleEncoding.AppendDecode(space[:0], []byte(h[len(handlePrefix):]))
	if err != nil || len(b) < 2*checksumBytes {
		return lease{}, false
	}
	body, sum := b[:len(b)-checksumBytes], b[len(b)-checksumBytes:]
	if checksum(body) != binary.BigEndian.Uint32(sum) {
		return lease{}, false
	}
	l, ok := readLease(body[checksumBytes:])
	if !ok || l.source >= len(marks) || marks[l.source] != binary.BigEndian.Uint32(body) {
		return lease{}, false
	}
	return l, true
}

// readLease reads the numbers and the name.
func readLease(b []byte) (l lease, ok bool) {
	var n [8]int64
	limits := [8]int64{math.MaxUint16, int64(wire.RetryV2), math.MaxUint16, math.MaxUint16, math.MaxInt64 - maxAckDistance, maxAckDistance, maxHandleTime, maxHandleTime}
	for i := range n {
		v, size := binary.Uvarint(b)
		if size <= 0 || v > uint64(limits[i]) {
			return lease{}, false
		}
		n[i], b = int64(v), b[size:]
	}
	skew, size := binary.Varint(b)
	if size <= 0 || skew > maxHandleTime || skew < -maxHandleTime || len(b) == size {
		return lease{}, false
	}
	return lease{source: int(n[0]), skew: skew, pop: wire.PopHandle{
		Kind: wire.RetryKind(n[1]), Queue: int(n[2]), ReviveQueue: int(n[3]), Start: n[4], Offset: n[4] + n[5], PopTime: n[6], Invisible: n[7],
		Broker: string(b[size:]),
	}}, true
}

// expires is the end of the lease by the broker's clock, in ms.
func (l *lease) expires() int64 { return l.pop.PopTime + l.pop.Invisible }

// until is the end of the lease as a time of this process, at being now.
func (l *lease) until(clocks *clocks, at time.Time) time.Time { return at.Add(l.left(clocks, at)) }

// left is how long the lease still runs at a moment of this process; 0 or less = it is over.
func (l *lease) left(clocks *clocks, at time.Time) time.Duration {
	now, known := clocks.broker(l.pop.Broker, at)
	if !known {
		now = at.UnixMilli() + l.skew
	}
	const century = 1 << 42 // ms, and about as much as a Duration holds
	return time.Duration(min(max(l.expires()-now, -century), century)) * time.Millisecond
}
