// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Small, because there is a connection per object and most are idle: 200 objects with 64 KiB each way cost 25 MiB. Bodies larger than the
	// buffer are read straight into their place.
	readBufferBytes  = 4 << 10
	writeBufferBytes = 4 << 10
	// writeTimeout bounds one write to the socket. A peer that takes nothing for so long is gone.
	writeTimeout = 10 * time.Second
	// halfOpenAfter is how long a request must have waited before its deadline counts against the connection: the impatience of one
	// caller says nothing about the peer.
	halfOpenAfter = 2 * time.Second
	// queuedFrames is how many encoded requests may wait for the writer. More callers wait for room, each for its own context.
	queuedFrames = 64
)

var (
	// errIdle is why a connection ends that nobody used.
	errIdle = errors.New("the connection was idle")
	// errNotSent is in the chain of an error of a request that never reached the connection: it may be sent on another one.
	errNotSent = errors.New("the connection was over already")
)

// conn is one connection. The reader goroutine takes answers to their waiters; the writer goroutine is the only one that writes. Both end when
// the connection fails or is closed; join waits for them.
type conn struct {
	address  string
	socket   net.Conn
	out      chan []byte
	done     chan struct{} // closed when the connection is over; err is set before
	opaque   atomic.Int32
	lastRead atomic.Int64 // UnixNano of the last frame
	group    sync.WaitGroup
	// onRequest takes what the peer asks of us. It runs in the reader and must not block.
	onRequest func(address string, c *Command)

	state struct {
		sync.Mutex
		waiters map[int32]chan *Command // nil once the connection is over
		err     error
	}
}

// newConn starts the goroutines; running counts them too.
func newConn(address string, socket net.Conn, onRequest func(string, *Command), running *sync.WaitGroup) *conn {
	c := &conn{address: address, socket: socket, out: make(chan []byte, queuedFrames), done: make(chan struct{}), onRequest: onRequest}
	c.state.waiters = make(map[int32]chan *Command)
	c.lastRead.Store(time.Now().UnixNano())
	for _, work := range []func(){c.read, c.write} {
		running.Add(1)
		c.group.Go(func() {
			defer running.Done()
			work()
		})
	}
	return c
}

// call sends cmd and waits for its answer. The answer may have any code. It may be called many times at once.
func (c *conn) call(ctx context.Context, cmd *Command) (*Command, error) {
	cmd.Opaque = c.opaque.Add(1)
	frame, err := AppendFrame(nil, cmd)
	if err != nil {
		return nil, err
	}
	answer, err := c.register(cmd.Opaque)
	if err != nil {
		return nil, err
	}
	defer c.forget(cmd.Opaque)
	sent := time.Now()
	select {
	case c.out <- frame:
	case <-c.done:
		return nil, c.failure()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case a := <-answer:
		return a, nil
	case <-c.done:
		return nil, c.failure()
	case <-ctx.Done():
		c.suspect(ctx.Err(), sent)
		return nil, ctx.Err()
	}
}

// suspect ends a connection on which a request's deadline passed while the peer sent nothing at all: the cable is cut, the host is
// gone, or the process is stopped. Without this, requests would go on running into their deadlines until TCP gives up, many minutes later.
func (c *conn) suspect(cause error, sent time.Time) {
	if !errors.Is(cause, context.DeadlineExceeded) || time.Since(sent) < halfOpenAfter || c.lastRead.Load() > sent.UnixNano() {
		return
	}
	c.fail(fmt.Errorf("%s did not answer for %v", c.address, time.Since(sent).Round(time.Millisecond)))
}

func (c *conn) register(opaque int32) (<-chan *Command, error) {
	answer := make(chan *Command, 1) // the reader never waits for a caller
	c.state.Lock()
	defer c.state.Unlock()
	if c.state.waiters == nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, c.state.err)
	}
	c.state.waiters[opaque] = answer
	return answer, nil
}

func (c *conn) forget(opaque int32) {
	c.state.Lock()
	defer c.state.Unlock()
	delete(c.state.waiters, opaque)
}

// fail ends the connection; err is what waiting and later callers get. Only the first call counts.
func (c *conn) fail(err error) {
	c.end(err, func(int) bool { return true })
}

// endIfIdle ends the connection if no request waits, in one step with looking.
func (c *conn) endIfIdle() bool {
	return c.end(errIdle, func(waiters int) bool { return waiters == 0 })
}

func (c *conn) end(err error, when func(waiters int) bool) bool {
	c.state.Lock()
	first := c.state.waiters != nil && when(len(c.state.waiters))
	if first {
		c.state.waiters, c.state.err = nil, err
	}
	c.state.Unlock()
	if first {
		close(c.done)
		// Closing wakes the reader; its own error is of no use to anybody any more.
		_ = c.socket.Close()
	}
	return first
}

func (c *conn) failure() error {
	c.state.Lock()
	defer c.state.Unlock()
	return c.state.err
}

// join waits for both goroutines. The connection must have ended.
func (c *conn) join() { c.group.Wait() }

func (c *conn) read() {
	r := bufio.NewReaderSize(c.socket, readBufferBytes)
	for {
		cmd, err := ReadFrame(r)
		if err != nil {
			c.fail(fmt.Errorf("read from %s: %w", c.address, err))
			return
		}
		c.lastRead.Store(time.Now().UnixNano())
		if cmd.IsResponse() {
			c.deliver(cmd)
		} else if c.onRequest != nil {
			c.onRequest(c.address, cmd)
		}
	}
}

// deliver hands an answer to its waiter. An answer that nobody waits for any more is dropped: its caller's context has ended.
func (c *conn) deliver(cmd *Command) {
	c.state.Lock()
	answer, ok := c.state.waiters[cmd.Opaque]
	delete(c.state.waiters, cmd.Opaque)
	c.state.Unlock()
	if ok {
		answer <- cmd
	}
}

// write sends what is queued, gathering what waits already into one system call.
func (c *conn) write() {
	w := bufio.NewWriterSize(c.socket, writeBufferBytes)
	for {
		select {
		case frame := <-c.out:
			if err := c.flush(w, frame); err != nil {
				c.fail(fmt.Errorf("write to %s: %w", c.address, err))
				return
			}
		case <-c.done:
			return
		}
	}
}

func (c *conn) flush(w *bufio.Writer, frame []byte) error {
	if err := c.socket.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	for {
		if _, err := w.Write(frame); err != nil {
			return err
		}
		select {
		case frame = <-c.out:
		default:
			return w.Flush()
		}
	}
}
