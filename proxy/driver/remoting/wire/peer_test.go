// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// peer is a server that a test writes. It listens on loopback and ends with the test.
type peer struct {
	t        *testing.T
	listener net.Listener
	group    sync.WaitGroup
	mu       sync.Mutex
	sockets  []net.Conn
}

// newPeer serves every connection with serve, which owns the socket.
func newPeer(t *testing.T, serve func(net.Conn)) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	return newPeerOn(t, l, serve)
}

// newPeerOn is newPeer on a listener, which it owns.
func newPeerOn(t *testing.T, l net.Listener, serve func(net.Conn)) *peer {
	p := &peer{t: t, listener: l}
	p.group.Go(func() { p.accept(serve) })
	t.Cleanup(p.stop)
	return p
}

func (p *peer) accept(serve func(net.Conn)) {
	for {
		socket, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.sockets = append(p.sockets, socket)
		p.mu.Unlock()
		p.group.Go(func() {
			defer socket.Close()
			serve(socket)
		})
	}
}

func (p *peer) stop() {
	p.listener.Close()
	p.hangUp()
	p.group.Wait()
}

// hangUp closes every connection so far.
func (p *peer) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sockets {
		s.Close()
	}
	p.sockets = nil
}

func (p *peer) connected() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sockets)
}

func (p *peer) address() string { return p.listener.Addr().String() }

// answering is a peer that answers each command with what answer returns; nil = no answer.
func answering(t *testing.T, answer func(*Command) *Command) *peer {
	return newPeer(t, func(socket net.Conn) {
		r := bufio.NewReader(socket)
		for {
			cmd, err := ReadFrame(r)
			if err != nil {
				return
			}
			a := answer(cmd)
			if a == nil {
				continue
			}
			a.Opaque, a.Flag = cmd.Opaque, a.Flag|flagResponse
			frame, err := AppendFrame(nil, a)
			if err != nil {
				t.Errorf("encode the answer: %v", err)
				return
			}
			if _, err := socket.Write(frame); err != nil {
				return
			}
		}
	})
}

// silent is a peer that reads and never answers.
func silent(t *testing.T) *peer {
	return newPeer(t, func(socket net.Conn) { _, _ = io.Copy(io.Discard, socket) })
}

func connectionTo(addresses ...string) driver.Connection {
	return driver.Connection{NameServers: addresses, AllowAddress: func(string) error { return nil }}
}

func newClient(t *testing.T, c driver.Connection) *Client {
	t.Helper()
	client := New(c, Options{})
	t.Cleanup(client.Close)
	return client
}
