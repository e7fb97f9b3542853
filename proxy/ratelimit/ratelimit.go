// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ratelimit bounds how many messages and bytes pass in a second.
//
// A [Bucket] holds one second's worth. What passes is taken out, and a call passes while there is something in it, however large the call: what it
// takes too much is owed, and nothing passes until it is paid back. So no batch is too large to pass, a large one waits no longer than a small one
// (golang.org/x/time/rate refuses for ever what is larger than its burst, and has one dimension), and on average the rate is kept exactly. A bucket
// is a few numbers; it has no timer and no goroutine.
package ratelimit

import (
	"math"
	"time"
)

// Rate is what may pass in a second; 0 = no limit.
type Rate struct {
	Messages int
	Bytes    int64
}

// IsZero reports whether r limits nothing.
func (r Rate) IsZero() bool { return r == Rate{} }

// Bucket bounds what passes to a Rate. The zero value lets everything pass. It is not safe for concurrent use: its owner's lock guards it. Each method
// takes the time since a moment of the owner's choice, by a clock that never goes back.
type Bucket struct {
	messages, bytes level
}

// level is one of the two; perSecond 0 = no limit.
type level struct {
	perSecond, has float64
	at             time.Duration
}

// SetRate changes the rate. A limit that is new begins with a full second's worth; what is owed stays owed.
func (b *Bucket) SetRate(now time.Duration, r Rate) {
	b.messages.set(now, float64(r.Messages))
	b.bytes.set(now, float64(r.Bytes))
}

// Wait is how long nothing may pass; 0 = something may now.
func (b *Bucket) Wait(now time.Duration) time.Duration {
	return max(b.messages.wait(now, 0), b.bytes.wait(now, 0))
}

// Take lets messages of so many bytes pass, which may be more than there is; see Wait.
func (b *Bucket) Take(now time.Duration, messages int, bytes int64) {
	b.messages.take(now, float64(messages))
	b.bytes.take(now, float64(bytes))
}

// portion is how much is gathered before Offer offers it: a fiftieth of a second's worth, or many small requests would be made in place of few.
const portion = 50

// Offer is how much may pass now, at least one message and one byte; or how long to wait until there is something worth asking for.
func (b *Bucket) Offer(now time.Duration) (messages int, bytes int64, wait time.Duration) {
	if wait = max(b.messages.wait(now, b.messages.portion()), b.bytes.wait(now, b.bytes.portion())); wait > 0 {
		return 0, 0, wait
	}
	return int(b.messages.room()), int64(b.bytes.room()), 0
}

func (l *level) set(now time.Duration, perSecond float64) {
	l.fill(now)
	if l.perSecond == 0 {
		l.has, l.at = perSecond, now
	}
	l.perSecond = perSecond
	l.has = min(l.has, perSecond)
}

// fill adds what has come since the last look.
func (l *level) fill(now time.Duration) {
	if now > l.at {
		l.has = min(l.perSecond, l.has+l.perSecond*(now-l.at).Seconds())
		l.at = now
	}
}

// wait is the time until there is more than nothing and at least so much.
func (l *level) wait(now time.Duration, least float64) time.Duration {
	if l.perSecond == 0 {
		return 0
	}
	if l.fill(now); l.has > 0 && l.has >= least {
		return 0
	}
	seconds := (least - l.has) / l.perSecond
	return time.Duration(math.Ceil(seconds*1e9)) + time.Nanosecond
}

func (l *level) take(now time.Duration, n float64) {
	if l.perSecond > 0 {
		l.fill(now)
		l.has -= n
	}
}

func (l *level) portion() float64 { return max(1, l.perSecond/portion) }

func (l *level) room() float64 {
	if l.perSecond == 0 {
		return math.MaxInt32
	}
	return max(1, math.Floor(l.has))
}
