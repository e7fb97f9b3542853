// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// RequestTimeout bounds a request of Invoke whose context has no nearer end.
const RequestTimeout = 5 * time.Second

// Options of a Client; the zero value is fine for a client of one object.
type Options struct {
	// OnRequest takes requests of a peer (a broker asks for the state of a transaction, says that a group changed) and returns the answer; nil = none.
	// It is called by the connection's reader and must not block. Requests that want an answer and get none are answered "not supported".
	OnRequest func(address string, c *Command) (answer *Command)
	// ReadBufferBytes is the read buffer of each connection; default 4 KiB, for a client of one object: 200 of them with 64 KiB each cost 12 MiB. A client
	// that many objects share does better with 64 KiB or more, which saves system calls. Bodies larger than the buffer are read straight into their place.
	ReadBufferBytes int
	// QueueBytes bounds the requests to one address that are encoded and not yet written; default 32 MiB. Go refuses more with driver.Throttled, Invoke
	// waits for room.
	QueueBytes int
}

func (o Options) withDefaults() Options {
	if o.ReadBufferBytes <= 0 {
		o.ReadBufferBytes = 4 << 10
	}
	if o.QueueBytes <= 0 {
		o.QueueBytes = 32 << 20
	}
	return o
}

// Client holds the connections to one RocketMQ, as one Connection describes it: at most one for each address, shared by all callers. It is
// safe for concurrent use; Close it.
type Client struct {
	connection driver.Connection
	options    Options
	// life ends when Close begins; it bounds dials, which belong to the client and not to the caller that happened to be the first.
	life context.Context
	end  context.CancelFunc
	// dial makes connections; tests replace it.
	dial func(ctx context.Context, address string) (net.Conn, error)
	// lookUp resolves the names that dial is given, each time; tests replace it.
	lookUp lookUp

	state struct {
		sync.Mutex
		closed bool
		links  map[string]*link
		// preferred is the index of the name server that answered last.
		preferred int
	}
	closing sync.Once
	// results keeps channels for ask, a chan result each: it gets one result and gives it out again before it returns here.
	results sync.Pool
	// running counts goroutines: attempts to connect, readers, writers, sweeps. Only a link that is not closed adds to it, under its lock.
	running sync.WaitGroup
}

// New makes a client. Nothing is dialled before the first request.
func New(c driver.Connection, o Options) *Client {
	life, end := context.WithCancel(context.Background())
	client := &Client{connection: c, options: o.withDefaults(), life: life, end: end, lookUp: net.DefaultResolver.LookupNetIP}
	client.dial = func(ctx context.Context, address string) (net.Conn, error) {
		return dial(ctx, address, client.lookUp, &client.connection)
	}
	client.state.links = make(map[string]*link)
	return client
}

// Close ends all connections, answers every waiting caller with driver.ErrClosed and returns when no goroutine is left. It works twice, and from
// several goroutines; all return when it is done. Do not call it from a done function.
func (c *Client) Close() {
	c.closing.Do(func() {
		// 1. No new link, and no new dial succeeds.
		c.state.Lock()
		c.state.closed = true
		links := c.state.links
		c.state.links = nil
		c.state.Unlock()
		c.end()
		// 2. Each link refuses from here on; everybody who waits gets an answer.
		for _, l := range links {
			l.close()
		}
		// 3. Attempts, readers, writers and sweeps see that and end.
		c.running.Wait()
	})
}

// CloseIdle ends the connections on which nothing waits and returns when their goroutines are gone. The next request dials again.
func (c *Client) CloseIdle() {
	for _, l := range c.links() {
		if conn := l.endIdle(); conn != nil {
			conn.group.Wait()
		}
	}
}

func (c *Client) links() []*link {
	c.state.Lock()
	defer c.state.Unlock()
	all := make([]*link, 0, len(c.state.links))
	for _, l := range c.state.links {
		all = append(all, l)
	}
	return all
}

// link returns the link to address; nil after Close. Addresses come and go with the brokers, so making a new one drops those that are unused.
func (c *Client) link(address string) *link {
	c.state.Lock()
	defer c.state.Unlock()
	if l := c.state.links[address]; l != nil || c.state.closed {
		return l
	}
	for known, l := range c.state.links {
		if l.retire() {
			delete(c.state.links, known)
		}
	}
	l := newLink(c, address)
	c.state.links[address] = l
	return l
}

func errClosed() error {
	return driver.Errorf(driver.Closed, "", "the client is closed")
}

// IsVersion5 reports whether an answer comes from a server of the 5.x line.
func (c *Command) IsVersion5() bool { return c.Version >= version5 }

// Go sends cmd to address and returns at once, also when the connection must be dialled first. done is called exactly once, from another goroutine,
// with an answer of any code or an error; it must not block. timeout bounds everything from now on. No goroutine waits. The command is signed
// and numbered here; do not use it again, nor its body before done.
//
// Errors: Throttled when too much waits to be sent to address; the last error at once while attempts to connect pause after a failure; the
// timeout is context.DeadlineExceeded. Close calls done with driver.ErrClosed before it returns; after Close, done gets it too.
func (c *Client) Go(address string, cmd *Command, timeout time.Duration, done func(answer *Command, err error)) {
	call, err := c.newCall(cmd, time.Now().Add(timeout), done)
	for err == nil {
		l := c.link(address)
		if l == nil {
			err = errClosed()
			break
		}
		if err = l.submit(call); err == nil || l.refuse(call, err) {
			return
		}
		if errors.Is(err, errRetired) {
			err = nil // once more, with the link that took its place
		}
	}
	// Closed, or not to be encoded: there is no link whose goroutine could do it.
	go done(nil, err)
}

// Invoke sends cmd to address and returns its answer when the code is CodeSuccess; another code is an *AnswerError together with the answer.
// The command is signed and numbered here; do not use it again, nor change its body before Invoke returns.
func (c *Client) Invoke(ctx context.Context, address string, cmd *Command) (*Command, error) {
	deadline := time.Now().Add(RequestTimeout)
	if end, ok := ctx.Deadline(); ok && end.Before(deadline) {
		deadline = end
	}
	return c.invokeUntil(ctx, deadline, address, cmd)
}

// invokeUntil is Invoke with another bound. deadline is no later than ctx's.
func (c *Client) invokeUntil(ctx context.Context, deadline time.Time, address string, cmd *Command) (*Command, error) {
	answer, err := c.ask(ctx, deadline, address, cmd)
	if err != nil {
		return nil, err
	}
	if answer.Code != CodeSuccess {
		return answer, &AnswerError{Request: cmd.Code, Address: address, Code: answer.Code, Remark: answer.Remark}
	}
	return answer, nil
}

// result is what a call ends with.
type result struct {
	answer *Command
	err    error
}

func (c *Client) ask(ctx context.Context, deadline time.Time, address string, cmd *Command) (*Command, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	done, kept := c.results.Get().(chan result)
	if !kept {
		done = make(chan result, 1)
	}
	call, err := c.newCall(cmd, deadline, func(answer *Command, err error) { done <- result{answer, err} })
	if err != nil {
		return nil, err
	}
	l, err := c.submit(ctx, address, call)
	if err != nil {
		return nil, err
	}
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		if l.abandon(call, ctx.Err()) {
			r.err = ctx.Err()
		} else {
			r = <-done // it ended at the same moment
		}
	}
	c.results.Put(done)
	return r.answer, r.err
}

// submit gives call to the link of address, waiting for room in its queue.
func (c *Client) submit(ctx context.Context, address string, call *call) (*link, error) {
	for {
		l := c.link(address)
		if l == nil {
			return nil, errClosed()
		}
		err := l.submit(call)
		if errors.Is(err, errFull) {
			err = l.awaitRoom(ctx, call.bytes)
		} else if err == nil {
			return l, nil
		}
		if err != nil && !errors.Is(err, errRetired) {
			return nil, err
		}
	}
}

// newCall signs and encodes cmd.
func (c *Client) newCall(cmd *Command, deadline time.Time, done func(*Command, error)) (*call, error) {
	cmd.Version = protocolVersion
	cmd.Opaque = nextOpaque()
	sign(cmd, c.connection.Credentials)
	frame := newFrame()
	var err error
	if *frame, err = AppendFrame((*frame)[:0], cmd); err != nil {
		freeFrame(frame)
		return nil, fmt.Errorf("encode request %d: %w", cmd.Code, err)
	}
	return &call{opaque: cmd.Opaque, code: cmd.Code, frame: frame, bytes: len(*frame), deadline: deadline, done: done}, nil
}
