// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"bytes"
	"encoding/binary"
	"math"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// content is what a token says. It is enough to acknowledge the message without any memory of it, where the driver can.
type content struct {
	// foreign is who made the token, nil when that is the window that opens it.
	foreign *foreignOrigin
	// id counts the deliveries of a window from 1; 0 = the window keeps no record of it (a foreign delivery whose deadline it moved).
	id uint64
	// generation counts the deadlines that this delivery has had; only the newest one's token is good.
	generation uint32
	// attempt is which delivery of the message it is, for a nack by back-off where the maker cannot be asked; 0 = the first, or not known.
	attempt int
	// deadline in nanoseconds of the maker's steady clock (see Window.now), which is the Unix time unless its wall clock was set. Another window
	// takes it for no more than that: see clockTolerance.
	deadline int64
	handle   driver.Handle
}

// foreignOrigin is the origin of another window's token.
type foreignOrigin struct {
	Origin
	window uint64
}

// origin is the part of a token that is the same for all deliveries of one window.
type origin struct {
	Origin
	// window tells the windows of one Consumer in one process apart: a replaced client's window counts its deliveries from 1 again, and
	// its tokens must not be taken for those of the new one.
	window uint64
	prefix []byte
}

func newOrigin(o Origin, window uint64) *origin {
	p := appendText(nil, o.ConsumerUID)
	p = appendText(p, o.Host)
	p = appendText(p, o.Incarnation)
	return &origin{Origin: o, window: window, prefix: binary.AppendUvarint(p, window)}
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendRest adds what follows the origin's prefix.
func (c *content) appendRest(b []byte) []byte {
	b = binary.AppendUvarint(b, c.id)
	b = binary.AppendUvarint(b, uint64(c.generation))
	b = binary.AppendVarint(b, c.deadline)
	if c.attempt > 1 {
		b = binary.AppendUvarint(append(b, attemptMark), uint64(c.attempt))
	}
	return append(b, c.handle...)
}

// attemptMark stands before the attempt, which is there above 1 only: most tokens look as they did before there was one, so that hosts of both
// releases understand them. No handle begins with it; handles are text.
const attemptMark = 0

// parseContent reads what appendRest and newOrigin wrote. It was authenticated already, so that a failure means another version's content.
func parseContent(b []byte, ours *origin) (c content, err error) {
	r := reader{b: b}
	if ours != nil && bytes.HasPrefix(b, ours.prefix) {
		r.b = b[len(ours.prefix):]
	} else {
		c.foreign = &foreignOrigin{}
		c.foreign.ConsumerUID, c.foreign.Host, c.foreign.Incarnation = r.text(), r.text(), r.text()
		c.foreign.window = r.uvarint()
	}
	c.id = r.uvarint()
	generation := r.uvarint()
	c.generation = uint32(generation)
	c.deadline = r.varint()
	if len(r.b) > 0 && r.b[0] == attemptMark {
		r.b = r.b[1:]
		c.attempt = int(min(r.uvarint(), math.MaxInt32))
		r.bad = r.bad || c.attempt <= 1 // nobody writes that: one content has one form
	}
	c.handle = driver.Handle(r.b)
	if r.bad || uint64(c.generation) != generation {
		return content{}, errNotAToken
	}
	return c, nil
}

// reader takes fields from the front of b; after the first that is not there it is bad and answers zero values.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) text() string {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}
