// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"cmp"
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// What a broker of 5.5.0 does with pops in order (QueueLevelConsumerManager; seen, too): there is no check point and no retry topic. For each queue it keeps the
// last pop of the group: its offsets, when each is visible again, and which are acknowledged. While one that is not acknowledged is not visible the queue is
// held back. The next pop begins at the group's position, which an acknowledgement moves to the first that is not acknowledged, and brings acknowledged ones
// behind it again. A change counts from now, keeps the pop's time and answers it with the new end; it always counts as a delivery. An acknowledgement of
// another pop than the last one is answered 0 and has no effect; when the broker has lost its record (it is written every 5 s) it moves the position
// behind what is acknowledged, whatever lies before: who acknowledges must do it in order.

// placeInLine is a message of an ordered consumer.
type placeInLine struct {
	source int
	broker string
	queue  int
	offset int64
}

func (l *lease) placeInLine() placeInLine {
	return placeInLine{l.source, l.pop.Broker, l.pop.Queue, l.pop.Offset}
}

// batch makes each queue's part of an answer one batch, and takes off its attempts what was given back. The classic retry topic, which is popped in order too,
// has no order.
func (c *consumer) batch(source int, msgs []*driver.Received) {
	slices.SortStableFunc(msgs, func(a, b *driver.Received) int {
		return cmp.Or(cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Offset, b.Offset))
	})
	s := &c.state
	s.Lock()
	defer s.Unlock()
	s.batches++
	queue := -1
	for _, m := range msgs {
		m.Batch = s.batches
		if len(s.returned) == 0 {
			continue
		}
		at := placeInLine{source, m.Broker, m.Queue, m.Offset}
		if m.Queue != queue {
			s.passed(at) // it is the first of its queue
			queue = m.Queue
		}
		// A broker forgets the count of what is not in a queue's next pop; then it is lower than what we know of.
		if n := min(s.returned[at], max(m.Attempt-1, 0)); n > 0 {
			s.returned[at] = n
			m.Attempt -= n
		} else {
			delete(s.returned, at)
		}
	}
}

// passed forgets what lies before at in its queue: it is acknowledged. The state is locked.
func (s *polls) passed(at placeInLine) {
	for p := range s.returned {
		if p.source == at.source && p.broker == at.broker && p.queue == at.queue && p.offset < at.offset {
			delete(s.returned, p)
		}
	}
}

// countReturned remembers that l was given back.
func (c *consumer) countReturned(l *lease) {
	if !c.cfg.Ordered || c.sources[l.source].classic {
		return
	}
	c.state.Lock()
	defer c.state.Unlock()
	if c.state.returned == nil {
		c.state.returned = make(map[placeInLine]int)
	}
	c.state.returned[l.placeInLine()]++
}

// changedInOrder is changed for a message that was popped in order. The answer repeats the time of the pop and has the new end counted from there, so that it
// shows when the change was made; it says nothing when the message is not lent any more.
func (c *consumer) changedInOrder(l lease, invisible time.Duration, address string, answer *wire.Command, sent, received time.Time) (lease, error) {
	pop, err := wire.DecodeChange(answer, l.pop)
	if err != nil {
		return lease{}, driver.Errorf(driver.LeaseExpired, "", "the message is not lent any more at broker %s", l.pop.Broker)
	}
	changed := pop.Expires().Add(-invisible)
	c.clocks.heard(l.pop.Broker, changed.UnixMilli(), sent, received)
	late := !changed.Before(l.pop.Expires())
	l.pop, l.skew = pop, c.clocks.skew(pop.Broker, received)
	if !late {
		return l, nil
	}
	if invisible > 0 {
		c.endAgain(&l, address)
	}
	return lease{}, driver.Errorf(driver.LeaseExpired, "", "the lease had ended by the clock of broker %s when the change arrived", l.pop.Broker)
}
