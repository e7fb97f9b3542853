// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// These tests are for Linux because there all of 127.0.0.0/8 is loopback: hosts that differ in nothing but their address.

// twins are peers on one port of two hosts. Each answers with its IP address.
func twins(t *testing.T) (a, b *peer, port string) {
	t.Helper()
	for range 20 {
		first, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatalf("listen: %v", err)
		}
		_, port, err = net.SplitHostPort(first.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		second, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.2:"+port)
		if err != nil {
			first.Close() // somebody has the port there
			continue
		}
		return sayingWhere(t, first), sayingWhere(t, second), port
	}
	t.Fatal("no port is free on both hosts")
	return nil, nil, ""
}

func sayingWhere(t *testing.T, l net.Listener) *peer {
	host, _, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return newPeerOn(t, l, answers(func(*Command) *Command { return &Command{Body: []byte(host)} }))
}

// zone is a name service whose only name leads where it was last told.
type zone struct{ ips atomic.Pointer[[]netip.Addr] }

func (z *zone) leadTo(ips ...string) {
	var all []netip.Addr
	for _, ip := range ips {
		all = append(all, netip.MustParseAddr(ip))
	}
	z.ips.Store(&all)
}

func (z *zone) lookUp(context.Context, string, string) ([]netip.Addr, error) {
	return *z.ips.Load(), nil
}

// hungUp waits until the client has seen the end of its connection to address.
func hungUp(t *testing.T, client *Client, address string) {
	t.Helper()
	l := client.link(address)
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		gone := l.conn == nil
		l.mu.Unlock()
		if gone {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the client did not see that its peer hung up")
		}
	}
}

// A name that was allowed and now leads to a forbidden address is the attack called DNS rebinding.
func TestANameIsLookedUpAndCheckedForEachDial(t *testing.T) {
	noLeaks(t)
	a, b, port := twins(t)
	address := "names.example:" + port
	connection := connectionTo(address)
	connection.AllowAddress = func(address string) error {
		if strings.HasPrefix(address, "127.") {
			return nil
		}
		return errors.New("not on the list")
	}
	var name zone
	client := newClient(t, connection)
	client.lookUp = name.lookUp
	ask := func() (string, error) {
		answer, err := client.InvokeNameServer(t.Context(), func() *Command { return &Command{Code: 1} })
		if err != nil {
			return "", err
		}
		return string(answer.Body), nil
	}

	name.leadTo("127.0.0.1")
	if who, err := ask(); who != "127.0.0.1" {
		t.Fatalf("at first %q answered, %v", who, err)
	}
	name.leadTo("127.0.0.2")
	if who, err := ask(); who != "127.0.0.1" {
		t.Errorf("with a connection that works %q answered, %v", who, err)
	}
	a.hangUp()
	hungUp(t, client, address)
	if who, err := ask(); who != "127.0.0.2" {
		t.Fatalf("after the name moved %q answered, %v", who, err)
	}
	name.leadTo("::ffff:169.254.169.254") // what clouds tell their secrets at, in disguise
	b.hangUp()
	hungUp(t, client, address)
	if who, err := ask(); driver.ReasonOf(err) != driver.AddressRefused || !strings.Contains(err.Error(), "leads to 169.254.169.254:"+port) {
		t.Errorf("after the name moved to a forbidden address %q answered, %v", who, err)
	}
}

func TestANameOfWhichOneAddressIsForbiddenIsRefused(t *testing.T) {
	var name zone
	for _, ips := range [][]string{{"127.0.0.1", "10.0.0.1"}, {"10.0.0.1", "127.0.0.1"}} {
		name.leadTo(ips...)
		found, err := resolve(t.Context(), "names.example:9876", name.lookUp, func(address string) error {
			if address == "10.0.0.1:9876" {
				return nil
			}
			return errors.New("not on the list")
		})
		if err == nil || driver.ReasonOf(err) != driver.AddressRefused {
			t.Errorf("%v: got %v, %v", ips, found, err)
		}
	}
}

// stuffed is an address on host that takes no connection and refuses none: its queue is full, and Linux drops what comes then.
func stuffed(t *testing.T, host, port string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(host, port))
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := errors.Join(raw.Control(func(fd uintptr) { failed = syscall.Listen(int(fd), 0) }), failed); err != nil {
		t.Fatalf("shorten the queue: %v", err)
	}
	for range 10 {
		socket, err := (&net.Dialer{Timeout: 200 * time.Millisecond}).DialContext(t.Context(), "tcp", l.Addr().String())
		if late := net.Error(nil); errors.As(err, &late) && late.Timeout() {
			return
		}
		if err != nil {
			t.Fatalf("fill the queue: %v", err)
		}
		t.Cleanup(func() { socket.Close() })
	}
	t.Fatal("the queue does not fill")
}

func TestAnAddressThatDropsEverythingLeavesTimeForTheNextOne(t *testing.T) {
	noLeaks(t)
	_, b, port := twins(t)
	stuffed(t, "127.0.0.3", port)
	var name zone
	name.leadTo("127.0.0.3", "127.0.0.2")
	connection := connectionTo()
	began := time.Now()
	socket, err := dial(t.Context(), "names.example:"+port, name.lookUp, &connection)
	if err != nil {
		t.Fatalf("after %v: %v", time.Since(began), err)
	}
	defer socket.Close()
	if to := socket.RemoteAddr().String(); to != b.address() || time.Since(began) < dialTimeout/2 {
		t.Errorf("connected to %s after %v", to, time.Since(began))
	}
}
