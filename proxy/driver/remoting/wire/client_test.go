// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func TestAnswersFindTheirCallersInAnyOrder(t *testing.T) {
	noLeaks(t)
	// The peer holds the first hundred requests back and answers them in reverse.
	const n = 100
	var mu sync.Mutex
	var held [][]byte
	p := newPeer(t, func(socket net.Conn) {
		serveReversed(socket, n, &mu, &held)
	})
	client := newClient(t, connectionTo(p.address()))
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			want := strings.Repeat("x", i)
			answer, err := client.Invoke(t.Context(), p.address(), &Command{Code: 1, Body: []byte(want)})
			if err != nil || string(answer.Body) != want {
				t.Errorf("request %d: %v, %v", i, answer, err)
			}
		})
	}
	group.Wait()
	if got := p.connected(); got != 1 {
		t.Errorf("%d connections for one address", got)
	}
}

func TestAConnectionThatBreaksAnswersEveryWaiter(t *testing.T) {
	noLeaks(t)
	arrived := make(chan struct{}, 10)
	p := answering(t, func(*Command) *Command { arrived <- struct{}{}; return nil })
	client := newClient(t, connectionTo(p.address()))
	errs := make(chan error)
	for range 10 {
		go func() {
			_, err := client.Invoke(context.Background(), p.address(), &Command{Code: 1})
			errs <- err
		}()
	}
	for range 10 {
		<-arrived
	}
	began := time.Now()
	p.hangUp()
	for range 10 {
		if err := <-errs; err == nil {
			t.Error("a request without an answer succeeded")
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v: the waiters ran into their deadlines", took)
	}
}

func TestTheNextRequestAfterABrokenConnectionDialsAgain(t *testing.T) {
	noLeaks(t)
	p := answering(t, func(c *Command) *Command { return &Command{Body: c.Body} })
	client := newClient(t, connectionTo(p.address()))
	for range 20 {
		if _, err := client.Invoke(t.Context(), p.address(), &Command{Code: 1}); err != nil {
			t.Fatalf("invoke: %v", err)
		}
		client.CloseIdle()
	}
}

func TestGarbageEndsTheConnectionAndIsAnError(t *testing.T) {
	noLeaks(t)
	for name, reply := range map[string]string{
		"text":            "HTTP/1.1 400 Bad Request\r\n\r\n",
		"a huge length":   "\x7f\xff\xff\xff\x00\x00\x00\x02",
		"a cut-off frame": "\x00\x00\x00\xff\x00\x00\x00\x02{}",
		"nothing":         "",
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, func(socket net.Conn) {
				_, _ = socket.Read(make([]byte, 1))
				_, _ = socket.Write([]byte(reply))
			})
			began := time.Now()
			_, err := newClient(t, connectionTo(p.address())).Invoke(t.Context(), p.address(), &Command{Code: 1})
			if err == nil || driver.ReasonOf(err) != driver.Unavailable || time.Since(began) > time.Second {
				t.Errorf("got %v after %v", err, time.Since(began))
			}
		})
	}
}

func TestAnswersThatNobodyAskedForAreDropped(t *testing.T) {
	noLeaks(t)
	p := newPeer(t, func(socket net.Conn) {
		stray, _ := AppendFrame(nil, &Command{Opaque: 99, Flag: flagResponse})
		_, _ = socket.Write(stray)
		serveEcho(socket)
	})
	if _, err := newClient(t, connectionTo(p.address())).Invoke(t.Context(), p.address(), &Command{Code: 1}); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestRequestsOfThePeerReachTheHandler(t *testing.T) {
	noLeaks(t)
	p := newPeer(t, func(socket net.Conn) {
		ask, _ := AppendFrame(nil, &Command{Code: 39, Flag: flagOneWay})
		_, _ = socket.Write(ask)
		serveEcho(socket)
	})
	asked := make(chan int, 1)
	client := New(connectionTo(p.address()), Options{OnRequest: func(_ string, c *Command) *Command { asked <- c.Code; return nil }})
	defer client.Close()
	if _, err := client.Invoke(t.Context(), p.address(), &Command{Code: 1}); err != nil {
		t.Fatal(err)
	}
	if code := <-asked; code != 39 {
		t.Errorf("handler got code %d", code)
	}
}

func TestCloseAnswersWaitersAndLaterCallers(t *testing.T) {
	noLeaks(t)
	p := silent(t)
	client := New(connectionTo(p.address()), Options{})
	errs := make(chan error, 1)
	go func() {
		_, err := client.Invoke(context.Background(), p.address(), &Command{Code: 1})
		errs <- err
	}()
	for p.connected() == 0 {
		time.Sleep(time.Millisecond)
	}
	var closers sync.WaitGroup
	for range 3 {
		closers.Go(client.Close)
	}
	closers.Wait()
	if err := <-errs; !errors.Is(err, driver.ErrClosed) {
		t.Errorf("the waiting caller got %v", err)
	}
	if _, err := client.Invoke(t.Context(), p.address(), &Command{Code: 1}); !errors.Is(err, driver.ErrClosed) {
		t.Errorf("a later caller got %v", err)
	}
}

func TestOneSilentConnectionFailsAllItsRequestsOnceADeadlineHasPassed(t *testing.T) {
	noLeaks(t)
	p := silent(t)
	client := newClient(t, connectionTo(p.address()))
	patient := make(chan error, 1)
	go func() {
		_, err := client.Invoke(context.Background(), p.address(), &Command{Code: 1})
		patient <- err
	}()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), halfOpenAfter+100*time.Millisecond)
	defer cancel()
	_, err := client.Invoke(ctx, p.address(), &Command{Code: 2})
	if driver.ReasonOf(Errorf(err, "ask")) != driver.Timeout {
		t.Errorf("the impatient request got %v", err)
	}
	if err := <-patient; err == nil || time.Since(began) > RequestTimeout-time.Second {
		t.Errorf("the patient request got %v after %v", err, time.Since(began))
	}
}

func TestAnImpatientCallerDoesNotEndAGoodConnection(t *testing.T) {
	noLeaks(t)
	p := answering(t, func(c *Command) *Command {
		if c.Code == 9 {
			return nil
		}
		return &Command{}
	})
	client := newClient(t, connectionTo(p.address()))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := client.Invoke(ctx, p.address(), &Command{Code: 9}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if _, err := client.Invoke(t.Context(), p.address(), &Command{Code: 1}); err != nil {
		t.Fatal(err)
	}
	if got := p.connected(); got != 1 {
		t.Errorf("%d connections: the first one was given up", got)
	}
}

func TestNameServersAreTriedInTurn(t *testing.T) {
	noLeaks(t)
	var asked atomic.Int32
	good := answering(t, func(*Command) *Command { asked.Add(1); return &Command{Body: []byte(routeBody)} })
	dead := unusedAddress(t)
	client := newClient(t, connectionTo(dead, good.address()))
	for range 3 {
		if _, err := client.Route(t.Context(), "T"); err != nil {
			t.Fatal(err)
		}
	}
	if asked.Load() != 3 {
		t.Errorf("the good one was asked %d times", asked.Load())
	}
}

func TestNameServersThatAllFailKeepTheReason(t *testing.T) {
	noLeaks(t)
	refuse := func(string) error { return errors.New("not on the list") }
	for _, c := range []struct {
		name       string
		connection driver.Connection
		want       driver.Reason
	}{
		{"nobody listens", connectionTo(unusedAddress(t)), driver.Unavailable},
		{"the address is refused", driver.Connection{NameServers: []string{"127.0.0.1:9876"}, AllowAddress: refuse}, driver.AddressRefused},
		{"there is none", connectionTo(), driver.Invalid},
		{"the address has no port", connectionTo("localhost"), driver.Invalid},
		{"the port is out of range", connectionTo("localhost:70000"), driver.Invalid},
		{"the name does not exist", connectionTo("does-not-exist.invalid:9876"), driver.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := newClient(t, c.connection).Route(t.Context(), "T")
			if driver.ReasonOf(err) != c.want {
				t.Errorf("got %v, want reason %s", err, c.want)
			}
		})
	}
}

func TestARefusedAddressIsNeverDialled(t *testing.T) {
	noLeaks(t)
	p := silent(t)
	_, port, _ := net.SplitHostPort(p.address())
	var seen []string
	connection := connectionTo("localhost:" + port)
	connection.AllowAddress = func(a string) error { seen = append(seen, a); return errors.New("no") }
	_, err := newClient(t, connection).Route(t.Context(), "T")
	if driver.ReasonOf(err) != driver.AddressRefused || p.connected() != 0 {
		t.Errorf("got %v, %d connections", err, p.connected())
	}
	for _, a := range seen {
		host, gotPort, err := net.SplitHostPort(a)
		if err != nil || net.ParseIP(host) == nil || gotPort != port {
			t.Errorf("asked for %q, want the resolved IP:port", a)
		}
	}
}

func unusedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
