// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package choice

import (
	"math/rand/v2"
	"time"
)

// learn takes the outcome of a detection and reports whether an Ask is answered otherwise now.
func (s *subject[K]) learn(found Finding, err error) bool {
	if err != nil {
		before := s.err
		s.err = err
		s.failures++
		s.risen = 0
		return s.known.Line == Unknown && (before == nil || before.Error() != err.Error())
	}
	s.err, s.failures = nil, 0
	if s.known.Line == Line4 && found.Line == Line5 {
		if s.risen++; s.risen < 2 {
			return false
		}
	}
	s.risen = 0
	changed := s.known.Line != found.Line
	s.known = found
	return changed
}

// pause is how long to wait for the next detection: with jitter, so that subjects which began together do not stay together.
func (c *Chooser[K]) pause(s *subject[K]) time.Duration {
	pause := c.o.Every
	if s.failures > 0 {
		pause = min(lastRetry, firstRetry<<min(s.failures-1, 10))
	}
	return pause - time.Duration(rand.Int64N(int64(pause)/5+1))
}

// arm plans the next detection of s.
func (c *Chooser[K]) arm(s *subject[K], wait time.Duration) {
	if s.timer != nil {
		s.timer.Stop()
	}
	s.next = time.Now().Add(wait)
	var armed *time.Timer
	armed = time.AfterFunc(wait, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if s.timer == armed && !s.gone && !s.busy && !c.state.closed {
			c.enqueue(s)
		}
	})
	s.timer = armed
}
