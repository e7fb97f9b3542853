// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"strings"
)

// appendStored writes m as a broker does; raw is the body as stored.
func appendStored(dst []byte, m StoredMessage, raw []byte, v2 bool) []byte {
	start := len(dst)
	magic := int32(messageMagic)
	if v2 {
		magic = messageMagicV2
	}
	u32 := func(n int) { dst = binary.BigEndian.AppendUint32(dst, uint32(n)) }
	u64 := func(n int64) { dst = binary.BigEndian.AppendUint64(dst, uint64(n)) }
	host := func(v6 int) {
		if v6 != 0 {
			dst = append(dst, "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"...)
		} else {
			dst = append(dst, 127, 0, 0, 1)
		}
		u32(10911)
	}
	u32(0)
	u32(int(magic))
	u32(0)
	u32(m.Queue)
	u32(0)
	u64(m.Offset)
	u64(m.CommitLogOffset)
	u32(m.SysFlag)
	u64(m.Born.UnixMilli())
	host(m.SysFlag & sysBornHostV6)
	u64(m.Stored.UnixMilli())
	host(m.SysFlag & sysStoreHostV6)
	u32(m.Reconsumed)
	u64(0)
	u32(len(raw))
	dst = append(dst, raw...)
	if v2 {
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(m.Topic)))
	} else {
		dst = append(dst, byte(len(m.Topic)))
	}
	dst = append(dst, m.Topic...)
	properties := EncodeProperties(m.Properties)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(properties)))
	dst = append(dst, properties...)
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start))
	return dst
}

// decodeBatchBody reads what appendBatch writes.
func decodeBatchBody(body []byte) []BatchMessage {
	var all []BatchMessage
	r := compactReader{rest: body}
	for len(r.rest) > 0 && !r.short {
		r.take(16)
		m := BatchMessage{Body: r.take(int64(r.uint(4)))}
		m.Properties = DecodeProperties(strings.Clone(r.text(int64(r.uint(2)))))
		all = append(all, m)
	}
	return all
}
