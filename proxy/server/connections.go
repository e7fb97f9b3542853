// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net"
	"sync"
)

// connections knows the open connections of one port: to count them, to refuse above the limit, and to cut one whose peer does not read.
type connections struct {
	protocol string
	limit    int
	observer Observer

	mu   sync.Mutex // guards open
	open map[string]*connection
}

func newConnections(protocol string, limit int, observer Observer) *connections {
	return &connections{protocol: protocol, limit: limit, observer: observer, open: make(map[string]*connection)}
}

// listener counts what l accepts.
func (c *connections) listener(l net.Listener) net.Listener {
	return &countingListener{Listener: l, all: c}
}

type countingListener struct {
	net.Listener
	all *connections
}

// Accept closes at once what is above the limit: a connection that waits unanswered would cost its caller a time-out.
func (l *countingListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if counted := l.all.add(conn); counted != nil {
			return counted, nil
		}
		_ = conn.Close()
		l.all.observer.ConnectionRefused(l.all.protocol)
	}
}

func (c *connections) add(conn net.Conn) *connection {
	counted := &connection{Conn: conn, all: c, address: conn.RemoteAddr().String()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.open) >= c.limit {
		return nil
	}
	c.open[counted.address] = counted
	c.observer.Connections(c.protocol, 1)
	return counted
}

// connection is one counted connection.
type connection struct {
	net.Conn
	all     *connections
	address string
	stalls  int // guarded by all.mu
	once    sync.Once
}

// Close takes the connection off the count.
func (c *connection) Close() error {
	c.once.Do(func() {
		c.all.mu.Lock()
		if c.all.open[c.address] == c {
			delete(c.all.open, c.address)
		}
		c.all.mu.Unlock()
		c.all.observer.Connections(c.all.protocol, -1)
	})
	return c.Conn.Close()
}

// maxStalls is how many streams of one connection may end because nobody read. What such a stream has written stays in the connection's
// memory (up to one frame and 64 KiB) until its peer reads or the connection ends, so that an endless row of them must not be possible.
const maxStalls = 3

// stalled counts a stream that ended because nobody read, and cuts the connection at the third.
func (c *connections) stalled(address string) {
	c.mu.Lock()
	conn := c.open[address]
	cut := false
	if conn != nil {
		conn.stalls++
		cut = conn.stalls >= maxStalls
	}
	c.mu.Unlock()
	if cut {
		_ = conn.Close()
	}
}
