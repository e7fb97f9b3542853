// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"sync"
	"time"
)

// idMaker makes message ids in the form of RocketMQ's own: 32 upper-case hexadecimal digits. Where RocketMQ puts address, process and class
// loader there are 10 random bytes; then, as in RocketMQ, 4 bytes of milliseconds since the month began and 2 bytes of a counter. RocketMQ's admin
// tools read the time from there when they look a message up by its id.
type idMaker struct {
	now func() time.Time

	mu      sync.Mutex
	prefix  [10]byte
	month   time.Time // when the current month began
	next    time.Time // when the next one begins
	counter uint16
}

func newIDMaker(now func() time.Time) *idMaker { return &idMaker{now: now} }

// id makes one. Two ids are different: in one month by time and counter (65,536 in a millisecond), across months and processes by the
// random bytes, which are drawn anew each month.
func (m *idMaker) id() string {
	var raw [16]byte
	m.mu.Lock()
	now := m.now().UTC()
	if !now.Before(m.next) || now.Before(m.month) {
		m.startMonth(now)
	}
	m.counter++
	copy(raw[:10], m.prefix[:])
	binary.BigEndian.PutUint32(raw[10:14], uint32(now.Sub(m.month).Milliseconds()))
	binary.BigEndian.PutUint16(raw[14:], m.counter)
	m.mu.Unlock()
	return upperHex(raw)
}

func (m *idMaker) startMonth(now time.Time) {
	m.month = time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	m.next = m.month.AddDate(0, 1, 0)
	_, _ = rand.Read(m.prefix[:]) // It never fails: the process ends when the kernel has no randomness.
}

func upperHex(raw [16]byte) string {
	var text [32]byte
	hex.Encode(text[:], raw[:])
	for i, c := range text {
		if c >= 'a' {
			text[i] = c - ('a' - 'A')
		}
	}
	return string(text[:])
}
