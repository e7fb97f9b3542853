// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"hash/maphash"
	"strconv"
	"strings"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// ticket is what a handle says: which lease of which message, and until when. The end is in it so that a repeated acknowledgement can be told
// from a late one without keeping a record of everything that was acknowledged.
type ticket struct {
	group, topic uint64
	place        place
	generation   uint64
	deadline     time.Duration
}

// place is where a message is stored in its topic.
type place struct {
	queue  int
	offset int64
}

const (
	handlePrefix = "mem1"
	handleFields = 6
)

// seal writes a ticket as text. A checksum with the broker's seed follows: handles of another broker, or of this process before a restart,
// are refused instead of meaning another message.
func (b *Broker) seal(t ticket) driver.Handle {
	text := make([]byte, 0, 72)
	text = append(text, handlePrefix...)
	for _, n := range [handleFields]uint64{t.group, t.topic, uint64(t.place.queue), uint64(t.place.offset), t.generation, uint64(t.deadline)} {
		text = append(text, '.')
		text = strconv.AppendUint(text, n, 36)
	}
	sum := maphash.Bytes(b.seed, text)
	text = append(text, '.')
	return driver.Handle(strconv.AppendUint(text, sum, 36))
}

// unseal reads a handle. It never panics and never allocates by what the text says.
func (b *Broker) unseal(h driver.Handle) (ticket, error) {
	text := string(h)
	cut := strings.LastIndexByte(text, '.')
	if len(text) > 256 || cut < 0 || !strings.HasPrefix(text, handlePrefix+".") {
		return ticket{}, badHandle()
	}
	sum, err := strconv.ParseUint(text[cut+1:], 36, 64)
	if err != nil || sum != maphash.String(b.seed, text[:cut]) {
		return ticket{}, badHandle()
	}
	var n [handleFields]uint64
	rest := text[len(handlePrefix)+1 : cut]
	for i := range n {
		field, after, _ := strings.Cut(rest, ".")
		if n[i], err = strconv.ParseUint(field, 36, 63); err != nil {
			return ticket{}, badHandle()
		}
		rest = after
	}
	return ticket{n[0], n[1], place{int(n[2]), int64(n[3])}, n[4], time.Duration(n[5])}, nil
}

func badHandle() error {
	return driver.Errorf(driver.InvalidHandle, "", "this is not a handle of this broker and group; it may be from before a restart of the process")
}
