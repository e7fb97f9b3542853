// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
)

// peer is a TCP server of a test: each connection is served by a function until it returns or the test ends.
type peer struct {
	listener net.Listener
	serve    func(ctx context.Context, conn net.Conn)
	all      sync.WaitGroup
}

// newPeer serves on loopback until the end of the test.
func newPeer(t *testing.T, serve func(ctx context.Context, conn net.Conn)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &peer{listener: listener, serve: serve}
	ctx, stop := context.WithCancel(context.Background())
	p.all.Go(func() { p.accept(ctx) })
	t.Cleanup(func() {
		stop()
		_ = listener.Close()
		p.all.Wait()
	})
	return listener.Addr().String()
}

func (p *peer) accept(ctx context.Context) {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.all.Go(func() {
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			defer func() { _ = conn.Close() }()
			p.serve(ctx, conn)
		})
	}
}

// newNameServer is a name server that gives another address for a broker: everything else is the genuine one's. So a test can put a link between the
// operator and a broker whose address is in its routes.
func newNameServer(t *testing.T, genuine, broker, instead string) (address string) {
	t.Helper()
	return newPeer(t, func(ctx context.Context, conn net.Conn) {
		upstream, err := new(net.Dialer).DialContext(ctx, "tcp", genuine)
		if err != nil {
			return // the genuine one is away: so is this one
		}
		defer context.AfterFunc(ctx, func() { _ = upstream.Close() })()
		defer func() { _ = upstream.Close() }()
		var back sync.WaitGroup
		defer back.Wait()
		back.Go(func() {
			defer func() { _ = conn.Close() }()
			for readdress(conn, upstream, []byte(broker), []byte(instead)) == nil {
			}
		})
		_, _ = io.Copy(upstream, conn) // ends with either connection
		_ = upstream.Close()
	})
}

// readdress copies one frame (length, header length, header, body) with an address in its body replaced.
func readdress(to io.Writer, from io.Reader, address, instead []byte) error {
	var length [4]byte
	if _, err := io.ReadFull(from, length[:]); err != nil {
		return err
	}
	frame := make([]byte, binary.BigEndian.Uint32(length[:]))
	if _, err := io.ReadFull(from, frame); err != nil {
		return err
	}
	if len(frame) < 4 {
		return errors.New("a frame without a header")
	}
	head := 4 + int(binary.BigEndian.Uint32(frame)&0xffffff) // the first byte says how the header is written
	out := append(bytes.Clone(frame[:head]), bytes.ReplaceAll(frame[head:], address, instead)...)
	_, err := to.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(out))), out...))
	return err
}

// badBrokers answer each request with something that is no answer.
var badBrokers = map[string]func(ctx context.Context, conn net.Conn){
	"garbage": answering(func(out []byte) []byte {
		garbage := make([]byte, 4096)
		_, _ = rand.Read(garbage) // never fails
		return append(out, garbage...)
	}),
	// A frame of 2 GiB, and as much of it as is taken.
	"huge lengths": answering(func(out []byte) []byte {
		return append(append(out, 0x7f, 0xff, 0xff, 0xf0, 0, 0, 0, 100), make([]byte, 1<<20)...)
	}),
	// A frame of the largest size that a client may believe, of which nothing comes.
	"long silence in a frame": answering(func(out []byte) []byte { return append(out, 0, 0xff, 0xff, 0xf0, 0, 0, 0, 100) }),
	"nothing":                 answering(func(out []byte) []byte { return out }),
}

// answering reads and writes what answer appends, for each read.
func answering(answer func([]byte) []byte) func(context.Context, net.Conn) {
	return func(_ context.Context, conn net.Conn) {
		in := make([]byte, 64<<10)
		for {
			if _, err := conn.Read(in); err != nil {
				return
			}
			if out := answer(nil); len(out) > 0 {
				if _, err := conn.Write(out); err != nil {
					return
				}
			}
		}
	}
}

// poison lets a link do something bad to what passes for a while; toxics are toxiproxy's, as JSON.
func poison(link *toxiproxy.Proxy, length time.Duration, toxics ...string) error {
	for _, toxic := range toxics {
		if _, err := link.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
			return err
		}
	}
	time.Sleep(length) // the fault's length
	link.Toxics.ResetToxics(context.Background())
	return nil
}

// lead sends a link's connections elsewhere; those that are open are closed.
func lead(link *toxiproxy.Proxy, upstream string) error {
	link.Stop()
	link.Upstream = upstream
	return link.Start()
}
