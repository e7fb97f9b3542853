// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// halfOpenAfter is how long a request must have waited before its deadline counts against the connection: the impatience of one caller says
	// nothing about the peer.
	halfOpenAfter = 2 * time.Second
	// After pingAfter without a byte from a peer that owes us answers, it is asked something cheap; no answer within pingTimeout ends the
	// connection. Long polls alone would find a dead peer only at their own deadlines. It is a request and not TCP's keep-alive or user
	// timeout, because those are answered by what stands in between: a proxy, a load balancer, the kernel of a stopped process.
	pingAfter   = 10 * time.Second
	pingTimeout = 5 * time.Second
)

// alarm is a link's one timer, for the deadlines of all its calls. There is a goroutine only while it rings.
type alarm struct {
	timer *time.Timer
	armed bool
	at    time.Time // when it rings; at or before the first deadline
	// refused are calls to end with their error at the next ring.
	refused []refusal
}

type refusal struct {
	call *call
	err  error
}

// arm makes the alarm ring at t or before. It wants the lock.
func (l *link) arm(t time.Time) {
	if l.closed || l.armed && !t.Before(l.at) {
		return
	}
	if l.armed {
		if !l.timer.Stop() {
			return // it is ringing: sweep waits for the lock and will look at everything
		}
		l.client.running.Done()
	}
	l.armed, l.at = true, t
	l.client.running.Add(1)
	if l.timer == nil {
		l.timer = time.AfterFunc(time.Until(t), l.sweep)
	} else {
		l.timer.Reset(time.Until(t))
	}
}

// armFor makes it ring when x is due, and before if x waits so long that its peer is to be pinged. It wants the lock.
func (l *link) armFor(x *call) {
	at := x.deadline
	if ping := time.Now().Add(pingAfter); ping.Before(at) {
		at = ping
	}
	l.arm(at)
}

// disarm is the last word on the alarm. It wants the lock and that the link is closed.
func (l *link) disarm() {
	if l.armed && l.timer.Stop() {
		l.armed = false
		l.client.running.Done()
	}
}

// refuse ends x, which submit did not take, with err, on another goroutine than the caller's; false when the link is over and somebody else has to.
func (l *link) refuse(x *call, err error) bool {
	if errors.Is(err, errFull) {
		err = l.throttled()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.retired {
		return false
	}
	freeFrame(x.frame)
	x.frame = nil
	l.refused = append(l.refused, refusal{x, err})
	l.arm(time.Now())
	return true
}

// takeRefused wants the lock.
func (l *link) takeRefused() []*call {
	calls := make([]*call, 0, len(l.refused))
	for _, r := range l.refused {
		calls = append(calls, r.call)
	}
	l.refused = nil
	return calls
}

// sweep ends what is due, and sets the alarm for what is next.
func (l *link) sweep() {
	defer l.client.running.Done()
	now := time.Now()
	l.mu.Lock()
	l.armed = false
	refused := l.refused
	l.refused = nil
	due := l.takeCalls(func(x *call) bool { return !x.deadline.After(now) })
	ping := l.pingDue(now)
	l.rearm(now)
	l.mu.Unlock()
	for _, r := range refused {
		r.call.done(nil, r.err)
	}
	for _, x := range due {
		if x.silent(now) {
			l.end(x.conn, x.silence())
		}
		if x.done != nil {
			x.done(nil, x.late())
		}
	}
	if ping != nil {
		l.ping()
	}
}

// rearm wants the lock.
func (l *link) rearm(now time.Time) {
	if len(l.calls) == 0 {
		return
	}
	next := now.Add(pingAfter)
	if c := l.conn; c != nil {
		// From the last byte on, not from this look: else a peer that fell silent just after it would be asked only at the look after the next.
		if due := now.Add(pingAfter - c.silentFor(now)); due.After(now) {
			next = due
		}
	}
	for _, x := range l.calls {
		if x.deadline.Before(next) {
			next = x.deadline
		}
	}
	l.arm(next)
}

// pingDue returns the connection if its peer has been silent for too long while calls wait. It wants the lock.
func (l *link) pingDue(now time.Time) *conn {
	c := l.conn
	if c == nil || len(l.calls) == 0 || c.silentFor(now) < pingAfter || now.Sub(c.pinged) < pingAfter {
		return nil
	}
	c.pinged = now
	return c
}

// ping asks for the cheapest thing there is that needs no right: a heartbeat without members. What it answers does not matter, a name server's "not
// supported" will do; that nothing came at all is found by sweep.
func (l *link) ping() {
	cmd := &Command{Code: reqHeartBeat, Body: []byte(`{"clientID":"","producerDataSet":[],"consumerDataSet":[]}`)}
	x, err := l.client.newCall(cmd, time.Now().Add(pingTimeout), nil)
	if err == nil && l.submit(x) != nil {
		// No room, or over already: then others find out.
		freeFrame(x.frame)
	}
}

// silent reports whether nothing at all has come since x was sent, long enough ago to mean something: the cable is cut, the host is gone, or
// the process is stopped. Without this, requests would go on running into their deadlines until TCP gives up, many minutes later.
func (x *call) silent(now time.Time) bool {
	return x.conn != nil && now.Sub(x.sent) >= halfOpenAfter && x.conn.lastRead.Load() < x.sent.UnixNano()
}

func (x *call) silence() error {
	return fmt.Errorf("%s has sent nothing for %v", x.conn.link.address, time.Since(x.sent).Round(time.Millisecond))
}

func (x *call) late() error {
	if x.conn == nil {
		return fmt.Errorf("request %d was not sent in time: %w", x.code, context.DeadlineExceeded)
	}
	return fmt.Errorf("no answer to request %d from %s in time: %w", x.code, x.conn.link.address, context.DeadlineExceeded)
}
