// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// RequestTimeout bounds a request whose context has no nearer end.
const RequestTimeout = 5 * time.Second

// Options of a Client; the zero value is fine.
type Options struct {
	// OnRequest takes requests of a peer (a broker asks for the state of a transaction, says that a group changed). It is called
	// by the connection's reader and must not block. nil = they are ignored.
	OnRequest func(address string, c *Command)
}

// Client holds the connections to one RocketMQ, as one Connection describes it. It is safe for concurrent use; Close it.
type Client struct {
	connection driver.Connection
	options    Options
	// life ends when Close begins; it bounds dials, which belong to the client and not to the caller that happened to be the first.
	life context.Context
	end  context.CancelFunc

	state struct {
		sync.Mutex
		closed bool
		slots  map[string]*slot
		// preferred is the index of the name server that answered last.
		preferred int
	}
	dials sync.WaitGroup // attempts to connect
	calls sync.WaitGroup // goroutines of Go
	conns sync.WaitGroup // goroutines of connections; only an attempt adds to it
}

// slot is the connection of one address, or the attempt to make it.
type slot struct {
	ready chan struct{} // closed when conn or err is set
	conn  *conn
	err   error
}

// New makes a client. Nothing is dialled before the first request.
func New(c driver.Connection, o Options) *Client {
	life, end := context.WithCancel(context.Background())
	client := &Client{connection: c, options: o, life: life, end: end}
	client.state.slots = make(map[string]*slot)
	return client
}

// Close ends all connections, answers every waiting caller with driver.ErrClosed and returns when no goroutine is left. It works twice.
func (c *Client) Close() {
	c.state.Lock()
	c.state.closed = true
	c.state.Unlock()
	c.end()
	c.dials.Wait() // from here on there is no new connection
	for _, conn := range c.connections() {
		conn.fail(errClosed())
	}
	c.conns.Wait()
	c.calls.Wait()
}

// CloseIdle ends the connections on which nothing waits. The next request dials again.
func (c *Client) CloseIdle() {
	for _, conn := range c.connections() {
		if conn.endIfIdle() {
			conn.join()
		}
	}
}

// connections lists those that are made; attempts under way are not in it.
func (c *Client) connections() []*conn {
	c.state.Lock()
	defer c.state.Unlock()
	var made []*conn
	for _, s := range c.state.slots {
		select {
		case <-s.ready:
			if s.conn != nil {
				made = append(made, s.conn)
			}
		default:
		}
	}
	return made
}

func errClosed() error {
	return driver.Errorf(driver.Closed, "", "the client is closed")
}

// IsVersion5 reports whether an answer comes from a server of the 5.x line.
func (c *Command) IsVersion5() bool { return c.Version >= version5 }

// Invoke sends cmd to address and returns its answer when the code is CodeSuccess; another code is an *AnswerError together with the answer.
// The command is signed and numbered here; do not use it again.
func (c *Client) Invoke(ctx context.Context, address string, cmd *Command) (*Command, error) {
	answer, err := c.ask(ctx, address, cmd)
	if err != nil {
		return nil, err
	}
	if answer.Code != CodeSuccess {
		return answer, &AnswerError{Request: cmd.Code, Address: address, Code: answer.Code, Remark: answer.Remark}
	}
	return answer, nil
}

func (c *Client) ask(ctx context.Context, address string, cmd *Command) (*Command, error) {
	ctx, cancel := context.WithTimeout(ctx, RequestTimeout)
	defer cancel()
	return c.exchange(ctx, address, cmd)
}

// exchange is ask with ctx as the only bound.
func (c *Client) exchange(ctx context.Context, address string, cmd *Command) (*Command, error) {
	cmd.Version = protocolVersion
	sign(cmd, c.connection.Credentials)
	answer, err := c.askOnce(ctx, address, cmd)
	if errors.Is(err, errNotSent) {
		// The connection ended between looking it up and using it; a new one is made.
		answer, err = c.askOnce(ctx, address, cmd)
	}
	if err != nil && c.life.Err() != nil {
		return nil, errClosed()
	}
	return answer, err
}

// Go sends cmd to address and returns at once, also when the connection must be dialled first. done is called exactly once, from another goroutine,
// with an answer of any code or an error; it must not block. timeout bounds everything from now on. After Close done gets driver.ErrClosed.
func (c *Client) Go(address string, cmd *Command, timeout time.Duration, done func(answer *Command, err error)) {
	c.state.Lock()
	closed := c.state.closed
	if !closed {
		c.calls.Add(1)
	}
	c.state.Unlock()
	if closed {
		go done(nil, errClosed())
		return
	}
	go func() {
		defer c.calls.Done()
		ctx, cancel := context.WithTimeout(c.life, timeout)
		defer cancel()
		done(c.exchange(ctx, address, cmd))
	}()
}

func (c *Client) askOnce(ctx context.Context, address string, cmd *Command) (*Command, error) {
	conn, err := c.connect(ctx, address)
	if err != nil {
		return nil, err
	}
	return conn.call(ctx, cmd)
}

// InvokeNameServer sends what build makes to the name servers in turn, the one that answered last first, until one answers. An answer
// with an error code is an answer.
func (c *Client) InvokeNameServer(ctx context.Context, build func() *Command) (*Command, error) {
	servers := c.connection.NameServers
	if len(servers) == 0 {
		return nil, driver.Errorf(driver.Invalid, "connection.nameServers", "no name server is configured")
	}
	c.state.Lock()
	first := c.state.preferred
	c.state.Unlock()
	var failed []error
	for i := range servers {
		n := (first + i) % len(servers)
		answer, err := c.Invoke(ctx, servers[n], build())
		if _, answered := CodeOf(err); err == nil || answered {
			c.state.Lock()
			c.state.preferred = n
			c.state.Unlock()
			return answer, err
		}
		failed = append(failed, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, noNameServer(failed)
}

// noNameServer keeps the reason that names the configuration's fault, if one of the servers has it.
func noNameServer(failed []error) error {
	for _, reason := range []driver.Reason{driver.AddressRefused, driver.Invalid, driver.Closed} {
		at := slices.IndexFunc(failed, func(err error) bool { return driver.ReasonOf(err) == reason })
		if at >= 0 {
			return Errorf(failed[at], "ask the name servers")
		}
	}
	return Errorf(errors.Join(failed...), "ask the name servers")
}

// connect returns the connection to address, making it if there is none. Many callers wait for one attempt.
func (c *Client) connect(ctx context.Context, address string) (*conn, error) {
	s, err := c.slot(address)
	if err != nil {
		return nil, err
	}
	select {
	case <-s.ready:
		return s.conn, s.err
	case <-ctx.Done():
		return nil, Errorf(ctx.Err(), "connect to %q", address)
	}
}

func (c *Client) slot(address string) (*slot, error) {
	c.state.Lock()
	defer c.state.Unlock()
	if c.state.closed {
		return nil, errClosed()
	}
	if s, ok := c.state.slots[address]; ok && !s.over() {
		return s, nil
	}
	s := &slot{ready: make(chan struct{})}
	c.state.slots[address] = s
	c.dials.Go(func() { c.fill(address, s) })
	return s, nil
}

// over reports whether the slot's connection has ended, so that another one is needed.
func (s *slot) over() bool {
	select {
	case <-s.ready:
	default:
		return false
	}
	if s.conn == nil {
		return true
	}
	select {
	case <-s.conn.done:
		return true
	default:
		return false
	}
}

// fill dials. The result is set before ready is closed, and Close waits for it.
func (c *Client) fill(address string, s *slot) {
	socket, err := dial(c.life, address, &c.connection)
	if err != nil {
		s.err = err
		if c.life.Err() != nil {
			s.err = errClosed()
		}
	} else {
		s.conn = newConn(address, socket, c.options.OnRequest, &c.conns)
	}
	close(s.ready)
}
