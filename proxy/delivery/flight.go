// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// flightState is where a leased message is.
type flightState uint8

const (
	// held: it fits no receiver's byte credit at present and waits in its class.
	held flightState = iota
	// queued: placed with a receiver that has not taken it.
	queued
	// taken: the receiver's transport is writing it; a token exists.
	taken
	// written: the transport took it. Only an answer or the deadline ends it.
	written
	// burying: it goes to the dead-letter topic.
	burying
	// ended: no longer leased to this window.
	ended
)

// flight is one leased message. id, msg and bytes never change; the rest is guarded by the window's mu.
type flight struct {
	id    uint64
	msg   *driver.Received
	bytes int64

	state flightState
	// class is whose held list it may be in.
	class *class
	// recv is the receiver whose credit it uses, nil when none (held, burying). It may be closed already.
	recv       *Receiver
	handle     driver.Handle
	generation uint32
	// deadline is what the driver said; until is the same on the window's steady clock.
	deadline time.Time
	until    int64
	// stale is half-way from the arrival to the deadline: nothing is handed out after it.
	stale int64
	// crowded is until when fetching stops for this one while it is held.
	crowded int64
	// tokenUntil is the latest deadline that any token of it shows; 0 = no token was made.
	tokenUntil int64

	// wake is the key in the window's heap, never later than the true time at which something is due; slot its place there, -1 = none.
	wake int64
	slot int

	// prev and next link it in exactly one flightList.
	prev, next *flight

	// lane is its queue's, of an ordered Consumer, else nil. ahead: the application has acknowledged it, and the broker does not know. asked: a call that
	// acknowledges it waits for those in front of it.
	lane         *lane
	ahead, asked bool

	// op is the driver call under way for it; answer is what the last one said that somebody else waited for.
	op     *operation
	answer *Result
	// lapsed: the deadline passed while a Modify or a dead-letter write was under way, whose end decides.
	lapsed bool

	// Of dead letters: digging while the write is under way, tries so far, nextTry of the next one.
	digging bool
	tries   int
	nextTry int64

	// void is why its tokens are no good, once it has ended without an acknowledgement; delay is the effective one of a nack.
	void  voidReason
	delay time.Duration
}

// flightList is a FIFO of flights, linked through them so that any one can leave at once.
type flightList struct {
	head, tail *flight
	n          int
}

func (l *flightList) push(f *flight) {
	f.prev, f.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = f
	} else {
		l.head = f
	}
	l.tail = f
	l.n++
}

func (l *flightList) remove(f *flight) {
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		l.head = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	} else {
		l.tail = f.prev
	}
	f.prev, f.next = nil, nil
	l.n--
}

// all copies the list, for loops that change it.
func (l *flightList) all() []*flight {
	out := make([]*flight, 0, l.n)
	for f := l.head; f != nil; f = f.next {
		out = append(out, f)
	}
	return out
}

// wakeHeap is a min-heap of flights by wake: one timer for all deadlines. It knows each flight's slot, so that an acknowledged one leaves
// at once and memory follows what is in flight, not the rate.
type wakeHeap []*flight

func (h *wakeHeap) push(f *flight, at int64) {
	f.wake, f.slot = at, len(*h)
	*h = append(*h, f)
	h.up(f.slot)
}

func (h *wakeHeap) remove(f *flight) {
	if f.slot < 0 {
		return
	}
	i, last := f.slot, len(*h)-1
	moved := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	f.slot = -1
	if i == last {
		return
	}
	(*h)[i], moved.slot = moved, i
	h.down(i)
	h.up(moved.slot)
}

func (h *wakeHeap) reschedule(f *flight, at int64) {
	if f.slot < 0 {
		h.push(f, at)
		return
	}
	f.wake = at
	h.down(f.slot)
	h.up(f.slot)
}

func (h *wakeHeap) up(i int) {
	s := *h
	f := s[i]
	for i > 0 {
		p := (i - 1) / 2
		if s[p].wake <= f.wake {
			break
		}
		s[i] = s[p]
		s[i].slot = i
		i = p
	}
	s[i], f.slot = f, i
}

func (h *wakeHeap) down(i int) {
	s := *h
	f := s[i]
	for {
		c := 2*i + 1
		if c >= len(s) {
			break
		}
		if c+1 < len(s) && s[c+1].wake < s[c].wake {
			c++
		}
		if s[c].wake >= f.wake {
			break
		}
		s[i] = s[c]
		s[i].slot = i
		i = c
	}
	s[i], f.slot = f, i
}
