// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

const (
	// leftEvery is how often RocketMQ is asked for the metric, leftTimeout bounds a question. It costs three requests.
	leftEvery   = time.Minute
	leftTimeout = 5 * time.Second
)

// lettersLeft is how many dead letters a Consumer's group has left, for the metrics: as it was when it was asked last. It is asked in a goroutine of its own,
// only when somebody reads it, at most once in leftEvery, and only for a Consumer that was in use, so that thousands which nobody uses cost nothing. Safe for
// concurrent use. The zero value with box and life is ready; close it.
type lettersLeft struct {
	box  driver.DeadLetters // nil = never known
	life context.Context    // ends a question

	asking sync.WaitGroup // Add under mu while not closed

	mu sync.Mutex // guards what follows
	// used: the Consumer was in use once. refused: asking again is of no use. busy: a question is under way.
	used, refused, busy, closed bool
	known                       bool
	value                       int64
	asked                       time.Time
}

// read answers the last value and sees to it that there is a newer one next time. It does not block.
func (l *lettersLeft) read(inUse bool) (left int64, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used = l.used || inUse
	if l.box != nil && l.used && !l.refused && !l.busy && !l.closed && time.Since(l.asked) >= leftEvery {
		l.busy = true
		l.asking.Add(1)
		go l.ask()
	}
	return l.value, l.known
}

func (l *lettersLeft) ask() {
	defer l.asking.Done()
	ctx, cancel := context.WithTimeout(l.life, leftTimeout)
	defer cancel()
	queues, err := l.box.DeadLetterQueues(ctx)
	var left int64
	for i := range queues {
		left += queues[i].Left()
	}
	reason := driver.ReasonOf(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy, l.asked = false, time.Now()
	l.value, l.known = left, err == nil
	// A broker that refuses would log each question.
	l.refused = err != nil && (reason == driver.Unauthorized || reason == driver.Unsupported)
}

// learn takes a value that somebody else has just asked for.
func (l *lettersLeft) learn(left int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used, l.refused = true, false
	l.value, l.known, l.asked = left, true, time.Now()
}

// close returns when no question is under way, and no other begins. life must have ended.
func (l *lettersLeft) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.asking.Wait()
}
