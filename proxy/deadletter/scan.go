// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deadletter

import (
	"context"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

const (
	// chunk is how many letters are read at a time.
	chunk = 32
	// longest bounds one call; what is left is for the next one. spare is what a call keeps of its caller's deadline for its answer.
	longest = 20 * time.Second
	spare   = 2 * time.Second
)

// scan goes through the letters of a group in order, queue by queue.
type scan struct {
	box    driver.DeadLetters
	choice *Selection
	queues []driver.DeadLetterQueue
	at     cursor
	// end is when the call must answer.
	end time.Time
}

// newScan looks at the queues. token is where an earlier call stopped; empty = at the first letter.
func newScan(ctx context.Context, box driver.DeadLetters, choice *Selection, token string) (*scan, error) {
	s := &scan{box: box, choice: choice, end: time.Now().Add(longest)}
	if deadline, ok := ctx.Deadline(); ok && deadline.Add(-spare).Before(s.end) {
		s.end = deadline.Add(-spare)
	}
	var err error
	if s.at, err = parseCursor(token); err != nil {
		return nil, err
	}
	s.queues, err = box.DeadLetterQueues(ctx)
	return s, err
}

// start is where the scan of q begins.
func (s *scan) start(q *driver.DeadLetterQueue) int64 {
	first := q.First()
	if at, ok := s.at[queueName(q)]; ok && at > first {
		return min(at, q.End)
	}
	return first
}

// left is how many letters of all queues may be left, from the queues' marks on.
func (s *scan) left() int64 {
	var n int64
	for i := range s.queues {
		n += s.queues[i].Left()
	}
	return n
}

// verdict is what a visitor says of a letter.
type verdict uint8

const (
	// goOn: the letter is done with.
	goOn verdict = iota
	// stop: the call ends, and the next one begins with this letter.
	stop
)

// visitor looks at letters. chosen: the selection has it. redriven is looked up for chosen ones only.
type visitor interface {
	enter(q *driver.DeadLetterQueue, start int64)
	see(ctx context.Context, l *driver.DeadLetter, chosen, redriven bool) (verdict, error)
	leave(ctx context.Context) error
}

// run visits every letter until there are no more, a visitor stops it, or the time is over. It answers the token for the next call, empty at the end.
func (s *scan) run(ctx context.Context, v visitor) (next string, err error) {
	for i := range s.queues {
		q := &s.queues[i]
		start := s.start(q)
		s.at[queueName(q)] = start
		v.enter(q, start)
		more, err := s.queue(ctx, q, v)
		if leaveErr := v.leave(ctx); err == nil {
			err = leaveErr
		}
		if err != nil || more {
			return s.at.token(), err
		}
	}
	return "", nil
}

// queue visits one queue. It reports whether something is left in it.
func (s *scan) queue(ctx context.Context, q *driver.DeadLetterQueue, v visitor) (more bool, err error) {
	name := queueName(q)
	for s.at[name] < q.End {
		if !time.Now().Before(s.end) {
			return true, nil
		}
		letters, next, err := s.box.ReadDeadLetters(ctx, *q, s.at[name], chunk)
		if err != nil {
			return true, err
		}
		redriven, err := s.lookUp(ctx, letters)
		if err != nil {
			return true, err
		}
		for _, l := range letters {
			s.at[name] = l.Offset
			if said, err := v.see(ctx, l, s.choice.matches(l), redriven[l]); err != nil || said == stop {
				return true, err
			}
			s.at[name] = l.Offset + 1
		}
		if len(letters) == 0 && next <= s.at[name] {
			return false, nil // the queue ends earlier than it was said
		}
		s.at[name] = max(s.at[name], next)
	}
	return false, nil
}

// lookUp finds which of the chosen letters have been redriven.
func (s *scan) lookUp(ctx context.Context, letters []*driver.DeadLetter) (map[*driver.DeadLetter]bool, error) {
	var chosen []*driver.DeadLetter
	for _, l := range letters {
		if s.choice.matches(l) {
			chosen = append(chosen, l)
		}
	}
	if len(chosen) == 0 {
		return nil, nil
	}
	found, err := s.box.Redriven(ctx, chosen)
	if err != nil {
		return nil, err
	}
	redriven := make(map[*driver.DeadLetter]bool, len(chosen))
	for i, l := range chosen {
		redriven[l] = found[i]
	}
	return redriven, nil
}
