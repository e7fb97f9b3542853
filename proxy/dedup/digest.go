// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package dedup

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"maps"
	"slices"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// digest stands for a message's content. Half of SHA-256 is plenty: an equal one by chance is out of reach.
type digest [sha256.Size / 2]byte

// digestOf covers everything that a receiver sees, and when; not the id.
func digestOf(m *driver.Message) digest {
	d := digester{sha256.New()}
	d.bytes(m.Body)
	d.text(m.Tag)
	d.number(len(m.Keys))
	for _, k := range m.Keys {
		d.text(k)
	}
	d.number(len(m.Properties))
	for _, name := range slices.Sorted(maps.Keys(m.Properties)) {
		d.text(name)
		d.text(m.Properties[name])
	}
	d.text(m.When.At.UTC().String())
	d.number(int(m.When.Delay))
	d.text(m.ShardingKey)
	return digest(d.Sum(nil)[:len(digest{})])
}

// digester writes lengths before contents, so that no two messages write the same.
type digester struct{ hash.Hash }

func (d digester) number(n int) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	_, _ = d.Write(b[:]) // a hash takes everything
}

func (d digester) bytes(b []byte) {
	d.number(len(b))
	_, _ = d.Write(b)
}

func (d digester) text(s string) { d.bytes([]byte(s)) }
