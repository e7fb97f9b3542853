// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// piped makes a client whose dials lead to serve, without a network, so that it can live in a synctest bubble. dial decides first; nil = it always works.
func piped(t *testing.T, o Options, dial func(ctx context.Context, address string) error, serve func(net.Conn)) (*Client, *atomic.Int32) {
	t.Helper()
	return pipedBy(t, o, func(ctx context.Context, address string) (func(net.Conn), error) {
		if dial == nil {
			return serve, nil
		}
		return serve, dial(ctx, address)
	})
}

// pipedBy is piped with a dial that says who serves the address.
func pipedBy(t *testing.T, o Options, dial func(ctx context.Context, address string) (serve func(net.Conn), err error)) (*Client, *atomic.Int32) {
	t.Helper()
	client := New(connectionTo(), o)
	dials := new(atomic.Int32)
	servers := new(sync.WaitGroup)
	t.Cleanup(func() {
		client.Close()
		servers.Wait()
	})
	client.dial = func(ctx context.Context, address string) (net.Conn, error) {
		dials.Add(1)
		serve, err := dial(ctx, address)
		if err != nil {
			return nil, err
		}
		ours, theirs := net.Pipe()
		servers.Go(func() {
			defer theirs.Close()
			serve(theirs)
		})
		return ours, nil
	}
	return client, dials
}

// answers serves commands with what answer returns; nil = nothing.
func answers(answer func(*Command) *Command) func(net.Conn) {
	return func(socket net.Conn) {
		r := bufio.NewReader(socket)
		for {
			cmd, err := ReadFrame(r)
			if err != nil {
				return
			}
			if a := answer(cmd); a != nil && writeAnswer(socket, cmd, a) != nil {
				return
			}
		}
	}
}

func writeAnswer(socket net.Conn, cmd, a *Command) error {
	a.Opaque, a.Flag = cmd.Opaque, a.Flag|flagResponse
	frame, err := AppendFrame(nil, a)
	if err == nil {
		_, err = socket.Write(frame)
	}
	return err
}

func echo(c *Command) *Command { return &Command{Body: c.Body} }

// ended is how a call of Go ended.
type ended chan result

func newEnded() ended { return make(ended, 2) } // room for a second one, which is a fault

func (e ended) done(answer *Command, err error) { e <- result{answer, err} }

// once waits for the end and sees that there is no second one so far.
func (e ended) once(t *testing.T) result {
	t.Helper()
	r := <-e
	if len(e) > 0 {
		t.Error("done was called twice")
	}
	return r
}

var errRefusedDial = errors.New("connection refused")
