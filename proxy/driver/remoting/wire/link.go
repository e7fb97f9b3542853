// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxCalls bounds the requests to one address that wait for an answer. A broker takes about 1,000 long polls for each queue and 100,000 in all.
	maxCalls = 64 << 10
	// The pause after a failed attempt to connect grows from firstPause to lastPause, each with a jitter of a half, so that the hosts of a cluster do not
	// come back at once. lastPause is short because callers get the old error while it lasts: it is how much later than the broker we are back.
	firstPause = 100 * time.Millisecond
	lastPause  = 3 * time.Second
)

var (
	// errFull: no room in the queue. It becomes Throttled for callers that cannot wait.
	errFull = errors.New("the queue is full")
	// errRetired: the link was dropped between looking it up and using it.
	errRetired = errors.New("the link is retired")
	// errIdle is why a connection ends that nobody used.
	errIdle = errors.New("the connection was idle")
)

// opaques numbers requests over all clients, so that an answer can never be taken for that of another connection's request.
var opaques atomic.Int32

func nextOpaque() int32 { return opaques.Add(1) }

// call is one request on its way, or an answer of ours (opaque 0, not in link.calls). Its fields after done belong to its link's lock.
type call struct {
	opaque   int32
	code     int
	bytes    int
	deadline time.Time
	// done is called outside every lock, by whoever took the call out of link.calls. nil: nobody waits.
	done func(*Command, error)

	// frame is the encoded request until it is written or given up.
	frame *[]byte
	// conn is the connection that it was given to, at sent; nil while it is in the queue.
	conn *conn
	sent time.Time
}

// link is an address: its connection, or the attempt to make one, and every request to it. Requests outlive a connection only when
// nothing of them was written.
type link struct {
	client  *Client
	address string

	mu sync.Mutex
	// wake tells the connection's writer that out has something, or that the connection is over. It is broadcast: the writer of an old connection may be
	// waiting as well.
	wake *sync.Cond
	linkState
}

// linkState is what link.mu guards.
type linkState struct {
	closed, retired bool
	// calls are all that wait for an answer, by opaque; out is what is not written yet, oldest first. A call that has ended stays in out without a frame.
	calls  map[int32]*call
	out    []*call
	queued int           // bytes in out
	room   chan struct{} // closed when bytes leave out; nil when nobody waits
	// conn is the connection, dialing says that one is being made; never both.
	conn    *conn
	dialing bool
	// Since the last answer, failures attempts have failed, the last one with failure; nobody tries before retryAt.
	failures int
	failure  error
	retryAt  time.Time
	alarm
}

func newLink(c *Client, address string) *link {
	l := &link{client: c, address: address}
	l.wake = sync.NewCond(&l.mu)
	l.calls = make(map[int32]*call)
	return l
}

// submit queues x, and dials if need be. An error means that x was not taken.
func (l *link) submit(x *call) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.mayQueue(x.bytes); err != nil {
		return err
	}
	if l.conn == nil && !l.dialing {
		if wait := time.Until(l.retryAt); wait > 0 {
			return Errorf(l.failure, "the next attempt is in %v", wait.Round(time.Millisecond))
		}
		l.startDial()
	}
	l.calls[x.opaque] = x
	l.push(x)
	l.armFor(x)
	return nil
}

// startDial wants the lock, and that the link is not closed.
func (l *link) startDial() {
	l.dialing = true
	l.client.running.Go(l.connect)
}

// connect makes one attempt.
func (l *link) connect() {
	socket, err := l.client.dial(l.client.life, l.address)
	if err != nil && l.client.life.Err() != nil {
		err = errClosed()
	}
	l.mu.Lock()
	l.dialing = false
	var lost []*call
	switch {
	case l.closed: // its calls have been answered
	case err != nil:
		l.backOff(err)
		lost = l.takeCalls(everything)
	default:
		l.conn = startConn(l, socket)
		socket = nil
	}
	l.mu.Unlock()
	if socket != nil {
		_ = socket.Close() // made for nobody
	}
	finish(lost, err)
}

// backOff wants the lock.
func (l *link) backOff(err error) {
	pause := min(firstPause<<min(l.failures, 10), lastPause)
	l.failures++
	l.failure = err
	l.retryAt = time.Now().Add(pause/2 + rand.N(pause/2+1))
}

// takeCalls drops the calls that match and returns them, for finish. It wants the lock.
func (l *link) takeCalls(match func(*call) bool) []*call {
	var taken []*call
	for _, x := range l.calls {
		if match(x) {
			l.drop(x)
			taken = append(taken, x)
		}
	}
	l.out = slices.DeleteFunc(l.out, func(x *call) bool { return x.frame == nil })
	return taken
}

// everything matches each call.
func everything(*call) bool { return true }

// finish ends calls that were taken, outside the lock.
func finish(calls []*call, err error) {
	for _, x := range calls {
		if x.done != nil {
			x.done(nil, err)
		}
	}
}

// end ends c for err when it has not ended; calls that were given to it fail with err, those still in the queue go on with a new connection.
func (l *link) end(c *conn, err error) {
	l.mu.Lock()
	if c.over {
		l.mu.Unlock()
		return
	}
	if !c.proven.Load() {
		err = explain(c.socket, l.address, err)
	}
	lost := l.detach(c, err)
	l.mu.Unlock()
	// Closing wakes reader and writer; its own error is of no use to anybody any more.
	_ = c.socket.Close()
	finish(lost, err)
}

// detach wants the lock.
func (l *link) detach(c *conn, err error) []*call {
	c.over = true
	l.conn = nil
	l.wake.Broadcast()
	l.dropReplies()
	switch {
	case c.proven.Load():
		l.failures = 0
	case !errors.Is(err, errIdle):
		// A peer that takes connections and never answers (another protocol, a proxy in front of nothing) is as good as none.
		l.backOff(err)
		return l.takeCalls(everything)
	}
	lost := l.takeCalls(func(x *call) bool { return x.conn == c })
	if len(l.calls) > 0 && !l.closed {
		l.startDial()
	}
	return lost
}

// endIdle ends the connection if nothing waits, in one step with looking; nil when it did not.
func (l *link) endIdle() *conn {
	l.mu.Lock()
	c := l.conn
	idle := c != nil && len(l.calls) == 0 && len(l.out) == 0
	if idle {
		l.detach(c, errIdle)
	}
	l.mu.Unlock()
	if !idle {
		return nil
	}
	_ = c.socket.Close() // nothing was under way
	return c
}

// retire marks a link that nothing uses, so that it can be dropped.
func (l *link) retire() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	unused := l.conn == nil && !l.dialing && len(l.calls) == 0 && len(l.refused) == 0 && time.Now().After(l.retryAt)
	l.retired = l.retired || unused
	return l.retired
}

// abandon ends x for its caller, whose context ended with cause; false when it has ended already.
func (l *link) abandon(x *call, cause error) bool {
	l.mu.Lock()
	first := l.drop(x)
	suspect := first && errors.Is(cause, context.DeadlineExceeded) && x.silent(time.Now())
	l.mu.Unlock()
	if suspect {
		l.end(x.conn, x.silence())
	}
	return first
}

// answer gives cmd to the call that it answers. Nobody waits for one whose deadline has passed.
func (l *link) answer(cmd *Command) {
	l.mu.Lock()
	x := l.calls[cmd.Opaque]
	found := x != nil && x.conn != nil && l.drop(x)
	l.mu.Unlock()
	if found && x.done != nil {
		x.done(cmd, nil)
	}
}

// close answers every waiting caller. Goroutines end by themselves; the client waits for them.
func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	lost := append(l.takeCalls(everything), l.takeRefused()...)
	c := l.conn
	if c != nil {
		l.detach(c, errIdle)
	}
	l.makeRoom()
	l.disarm()
	l.mu.Unlock()
	if c != nil {
		_ = c.socket.Close() // it wakes reader and writer
	}
	finish(lost, errClosed())
}
