// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Limits of what is read and written. They are checked before memory is taken.
const (
	// MaxFrameBytes is the broker's own limit of a frame (com.rocketmq.remoting.frameMaxLength, 16 MiB).
	MaxFrameBytes = 16 << 20
	// MaxHeaderBytes bounds the header, which has 24 bits for its length on the wire. Ours and the broker's stay far below.
	MaxHeaderBytes = 1 << 20
)

// Serialisation types, the first byte of the second word.
const (
	serialJSON    = 0
	serialCompact = 1
)

// ErrFrame says that a peer does not speak the protocol; its connection cannot go on.
var ErrFrame = errors.New("not a frame of the remoting protocol")

func frameErrorf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFrame, fmt.Sprintf(format, args...))
}

// Command is one request or answer.
type Command struct {
	Code    int
	Version int
	Opaque  int32
	Flag    int
	Remark  string
	Fields  map[string]string
	Body    []byte

	// pairs are more fields of a request; where there are many, a list costs much less than a map.
	pairs []field
}

type field struct{ name, value string }

// IsResponse tells an answer from a request of the peer.
func (c *Command) IsResponse() bool { return c.Flag&flagResponse != 0 }

// AppendFrame writes c as one frame, with a JSON header, to the end of dst.
//
//	4 bytes  length of all that follows
//	1 byte   serialisation type, 3 bytes header length
//	header, body
func AppendFrame(dst []byte, c *Command) ([]byte, error) {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	dst = appendJSONHeader(dst, c)
	header := len(dst) - start - 8
	length := 4 + header + len(c.Body)
	switch {
	case header > MaxHeaderBytes:
		return dst[:start], frameErrorf("the header of request %d has %d bytes, the limit is %d", c.Code, header, MaxHeaderBytes)
	case length > MaxFrameBytes:
		return dst[:start], frameErrorf("request %d has %d bytes, the limit is %d", c.Code, length, MaxFrameBytes)
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(length))
	binary.BigEndian.PutUint32(dst[start+4:], uint32(serialJSON<<24|header))
	return append(dst, c.Body...), nil
}

// frames keeps buffers of encoded requests. Large ones, up to a full batch, are the ones worth keeping.
var frames = sync.Pool{New: func() any { b := make([]byte, 0, 2<<10); return &b }}

const keptFrameBytes = 2 << 20

func newFrame() *[]byte { return frames.Get().(*[]byte) }

// freeFrame gives a buffer back that nobody uses any more.
func freeFrame(frame *[]byte) {
	if cap(*frame) <= keptFrameBytes {
		*frame = (*frame)[:0]
		frames.Put(frame)
	}
}

// bodies keeps the bodies of answers that were freed: an answer to a pop has some 40 to 256 KiB, which would be half of all that a receiver allocates.
var bodies sync.Pool

// Bodies of at least pooledBytes come from the pool, in steps of that size, so that one serves for another.
const pooledBytes = 16 << 10

func newBody(n int) []byte {
	if n < pooledBytes {
		return make([]byte, n)
	}
	if kept, ok := bodies.Get().(*[]byte); ok && cap(*kept) >= n {
		return (*kept)[:n]
	}
	return make([]byte, n, (n+pooledBytes-1)/pooledBytes*pooledBytes)
}

// Free gives the body's memory back. It may be called once, when nobody uses the body any more; what DecodePop made of it is a copy.
func (c *Command) Free() {
	body := c.Body
	c.Body = nil
	if cap(body) >= pooledBytes && cap(body) <= keptFrameBytes {
		bodies.Put(&body)
	}
}

// ReadFrame reads one command. An error that is ErrFrame means that the peer sent something else; others come from r.
func ReadFrame(r *bufio.Reader) (*Command, error) {
	var prefix [8]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return nil, err
	}
	length := int64(binary.BigEndian.Uint32(prefix[:4]))
	word := binary.BigEndian.Uint32(prefix[4:])
	serial, headerLength := word>>24, int64(word&0xffffff)
	switch {
	case length < 4 || length > MaxFrameBytes:
		return nil, frameErrorf("length %d is not between 4 and %d", length, MaxFrameBytes)
	case headerLength > MaxHeaderBytes || headerLength > length-4:
		return nil, frameErrorf("header length %d does not fit into a frame of %d bytes (limit %d)", headerLength, length, MaxHeaderBytes)
	case serial != serialJSON && serial != serialCompact:
		return nil, frameErrorf("serialisation type %d is not known", serial)
	}
	c, err := readHeader(r, serial, int(headerLength))
	if err != nil {
		return nil, err
	}
	if body := length - 4 - headerLength; body > 0 {
		c.Body = newBody(int(body))
		if _, err := io.ReadFull(r, c.Body); err != nil {
			return nil, noEOF(err)
		}
	}
	return c, nil
}

// readHeader decodes the header where the reader has it, if it fits there. Nothing of a Command shares memory with it.
func readHeader(r *bufio.Reader, serial uint32, length int) (*Command, error) {
	if length > r.Size() {
		data := make([]byte, length)
		if _, err := io.ReadFull(r, data); err != nil {
			return nil, noEOF(err)
		}
		return decodeHeader(serial, data)
	}
	data, err := r.Peek(length)
	if err != nil {
		return nil, noEOF(err)
	}
	c, err := decodeHeader(serial, data)
	if err != nil {
		return nil, err
	}
	_, err = r.Discard(length) // it is there: Peek has seen it
	return c, err
}

// noEOF keeps a frame that was cut in the middle from looking like a connection that was closed in order.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
