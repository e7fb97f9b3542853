// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import "container/list"

// slots bounds how many attempts go to one set of name servers at the same time, first come, first served. Those who wait have no
// goroutine. A broker that hangs fills only its own slots.
type slots struct {
	key     string
	running int
	waiting *list.List // of *entry
}

// place is where an entry waits.
type place = list.Element

// takeSlot takes a slot for e, or queues e for one; the queue wakes it.
func (t *turn) takeSlot(e *entry, servers string) *slots {
	s := t.slots[servers]
	if s == nil {
		s = &slots{key: servers, waiting: list.New()}
		t.slots[servers] = s
	}
	if e.queue != nil && e.queue != s {
		t.dequeue(e)
	}
	free := s.running < t.r.opts.OpensPerNameServers
	if free && (s.waiting.Len() == 0 || s.waiting.Front() == e.place) {
		s.running++
		t.dequeue(e)
		t.wakeNext(s)
		return s
	}
	e.wantsSlot = true
	if e.queue == nil {
		e.queue, e.place = s, s.waiting.PushBack(e)
	}
	return nil
}

func (t *turn) giveSlot(s *slots) {
	s.running--
	t.wakeNext(s)
	t.dropUnused(s)
}

// dequeue lets e wait no longer.
func (t *turn) dequeue(e *entry) {
	if e.queue == nil {
		return
	}
	s := e.queue
	s.waiting.Remove(e.place)
	e.queue, e.place = nil, nil
	t.wakeNext(s)
	t.dropUnused(s)
}

func (t *turn) wakeNext(s *slots) {
	if front := s.waiting.Front(); front != nil && s.running < t.r.opts.OpensPerNameServers {
		t.wake(front.Value.(*entry))
	}
}

func (t *turn) dropUnused(s *slots) {
	if s.running == 0 && s.waiting.Len() == 0 {
		delete(t.slots, s.key)
	}
}
