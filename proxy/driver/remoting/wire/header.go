// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"encoding/json"
	"strconv"
)

// jsonHeader is the header as brokers and name servers write it. Fields that we do not use (language, serializeTypeCurrentRPC) are skipped.
type jsonHeader struct {
	Code      int               `json:"code"`
	Version   int               `json:"version"`
	Opaque    int32             `json:"opaque"`
	Flag      int               `json:"flag"`
	Remark    string            `json:"remark"`
	ExtFields map[string]string `json:"extFields"`
}

// appendJSONHeader writes the header by hand: it is on the way of every request, and encoding/json costs several times as much.
func appendJSONHeader(dst []byte, c *Command) []byte {
	dst = append(dst, `{"code":`...)
	dst = strconv.AppendInt(dst, int64(c.Code), 10)
	dst = append(dst, `,"language":"GO","version":`...)
	dst = strconv.AppendInt(dst, int64(c.Version), 10)
	dst = append(dst, `,"opaque":`...)
	dst = strconv.AppendInt(dst, int64(c.Opaque), 10)
	dst = append(dst, `,"flag":`...)
	dst = strconv.AppendInt(dst, int64(c.Flag), 10)
	if c.Remark != "" {
		dst = append(dst, `,"remark":`...)
		dst = appendJSONString(dst, c.Remark)
	}
	dst = append(dst, `,"extFields":{`...)
	for _, f := range c.pairs {
		dst = appendJSONField(dst, f.name, f.value)
	}
	for name, value := range c.Fields {
		dst = appendJSONField(dst, name, value)
	}
	if dst[len(dst)-1] == ',' {
		dst = dst[:len(dst)-1]
	}
	return append(dst, `}}`...)
}

// appendJSONField writes a field and a comma.
func appendJSONField(dst []byte, name, value string) []byte {
	dst = appendJSONString(dst, name)
	dst = append(dst, ':')
	dst = appendJSONString(dst, value)
	return append(dst, ',')
}

const hexDigits = "0123456789abcdef"

// appendJSONString quotes s. Bytes from 0x80 up go as they are: callers validate UTF-8.
func appendJSONString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	plain := 0 // where the part begins that is copied as it is
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[plain:i]...)
		plain = i + 1
		if c >= 0x20 {
			dst = append(dst, '\\', c)
		} else {
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(dst, s[plain:]...), '"')
}

func decodeHeader(serial uint32, data []byte) (*Command, error) {
	if serial == serialCompact {
		return decodeCompactHeader(data)
	}
	if c := parseHeader(data); c != nil {
		return c, nil
	}
	var h jsonHeader
	if err := json.Unmarshal(data, &h); err != nil {
		return nil, frameErrorf("header: %v", err)
	}
	return &Command{Code: h.Code, Version: h.Version, Opaque: h.Opaque, Flag: h.Flag, Remark: h.Remark, Fields: h.ExtFields}, nil
}

// decodeCompactHeader reads the binary form that a broker started with rocketmq.serialize.type=ROCKETMQ answers in. We never write it: its
// code has 16 bits, too few for POP.
//
//	2 code, 1 language, 2 version, 4 opaque, 4 flag, 4 remark length, remark, 4 fields length, {2 name length, name, 4 value length, value}
func decodeCompactHeader(data []byte) (*Command, error) {
	r := compactReader{rest: data}
	c := &Command{Code: int(int16(r.uint(2)))}
	r.uint(1)
	c.Version = int(int16(r.uint(2)))
	c.Opaque = int32(r.uint(4))
	c.Flag = int(int32(r.uint(4)))
	c.Remark = r.text(int64(r.uint(4)))
	fields := compactReader{rest: []byte(r.text(int64(r.uint(4))))}
	if len(fields.rest) > 0 {
		c.Fields = make(map[string]string)
	}
	for len(fields.rest) > 0 && !fields.short {
		name := fields.text(int64(fields.uint(2)))
		c.Fields[name] = fields.text(int64(fields.uint(4)))
	}
	if r.short || fields.short {
		return nil, frameErrorf("compact header of %d bytes ends too early", len(data))
	}
	return c, nil
}

// compactReader takes values off the front of rest; short is set when there is not enough, and everything after that is zero.
type compactReader struct {
	rest  []byte
	short bool
}

func (r *compactReader) uint(n int) uint64 {
	b := r.take(int64(n))
	var wide [8]byte
	copy(wide[8-len(b):], b)
	return binary.BigEndian.Uint64(wide[:])
}

// u32 and u64 are uint(4) and uint(8), for those who read many.
func (r *compactReader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *compactReader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *compactReader) text(n int64) string { return string(r.take(n)) }

func (r *compactReader) take(n int64) []byte {
	if n > int64(len(r.rest)) {
		r.short, r.rest = true, nil
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}
