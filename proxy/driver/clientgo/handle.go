// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"encoding/base64"
	"encoding/binary"
	"hash/fnv"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// ticket is what a handle says: which lease of which arrival in which client. The deadline is in it so that a repeated acknowledgement can be told
// from a late one without a record of everything that was ever acknowledged.
type ticket struct {
	group    uint32 // hash of the group's name with its namespace
	client   uint64 // random per started consumer
	arrival  uint64
	lease    uint32
	deadline time.Time // to the millisecond
}

const (
	handlePrefix = "cg1."
	ticketBytes  = 4 + 8 + 8 + 4 + 8 + 4 // the last four are a checksum: a cut handle must not mean another message
)

var handleEncoding = base64.RawURLEncoding.Strict()

func (t ticket) handle() driver.Handle {
	b := make([]byte, 0, ticketBytes)
	b = binary.BigEndian.AppendUint32(b, t.group)
	b = binary.BigEndian.AppendUint64(b, t.client)
	b = binary.BigEndian.AppendUint64(b, t.arrival)
	b = binary.BigEndian.AppendUint32(b, t.lease)
	b = binary.BigEndian.AppendUint64(b, uint64(t.deadline.UnixMilli()))
	b = binary.BigEndian.AppendUint32(b, hash(b))
	return driver.Handle(handlePrefix + handleEncoding.EncodeToString(b))
}

// parseHandle refuses everything that handle did not make.
func parseHandle(h driver.Handle) (ticket, bool) {
	if len(h) != len(handlePrefix)+handleEncoding.EncodedLen(ticketBytes) || h[:len(handlePrefix)] != handlePrefix {
		return ticket{}, false
	}
	b, err := handleEncoding.DecodeString(string(h[len(handlePrefix):])) // skips line ends: b may be short
	if err != nil || len(b) != ticketBytes || hash(b[:ticketBytes-4]) != binary.BigEndian.Uint32(b[ticketBytes-4:]) {
		return ticket{}, false
	}
	return ticket{
		group: binary.BigEndian.Uint32(b), client: binary.BigEndian.Uint64(b[4:]), arrival: binary.BigEndian.Uint64(b[12:]),
		lease: binary.BigEndian.Uint32(b[20:]), deadline: time.UnixMilli(int64(binary.BigEndian.Uint64(b[24:]))),
	}, true
}

func hash(b []byte) uint32 {
	h := fnv.New32a()
	_, _ = h.Write(b) // a hash cannot fail to take bytes
	return h.Sum32()
}
