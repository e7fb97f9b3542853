// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func TestWaitingCallsCostNoGoroutine(t *testing.T) {
	noLeaks(t)
	const n = 2000
	arrived := make(chan struct{}, n)
	release := make(chan struct{})
	p := newPeer(t, func(socket net.Conn) {
		r := bufio.NewReader(socket)
		var held []*Command
		for range n {
			cmd, err := ReadFrame(r)
			if err != nil {
				return
			}
			held = append(held, cmd)
			arrived <- struct{}{}
		}
		<-release
		for _, cmd := range held {
			if writeAnswer(socket, cmd, &Command{Body: cmd.Body}) != nil {
				return
			}
		}
	})
	client := newClient(t, connectionTo(p.address()))
	before := runtime.NumGoroutine()
	var wrong atomic.Int32
	var open sync.WaitGroup
	for i := range n {
		open.Add(1)
		body := fmt.Sprint(i)
		client.Go(p.address(), &Command{Code: 1, Body: []byte(body)}, time.Minute, func(a *Command, err error) {
			if err != nil || string(a.Body) != body {
				wrong.Add(1)
			}
			open.Done()
		})
	}
	for range n {
		<-arrived
	}
	// Reader, writer, and the peer's one for the connection.
	if got := runtime.NumGoroutine() - before; got > 3 {
		t.Errorf("%d waiting calls hold %d goroutines", n, got)
	}
	close(release)
	open.Wait()
	if wrong.Load() > 0 || p.connected() != 1 {
		t.Errorf("%d wrong answers, %d connections", wrong.Load(), p.connected())
	}
}

func TestASlowDialDelaysOnlyItsOwnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := func(ctx context.Context, address string) error {
			if address == "slow" {
				<-ctx.Done()
			}
			return ctx.Err()
		}
		client, _ := piped(t, Options{}, stuck, answers(echo))
		slow, fast := newEnded(), newEnded()
		began := time.Now()
		client.Go("slow", &Command{Code: 1}, 3*time.Second, slow.done)
		client.Go("fast", &Command{Code: 1}, 3*time.Second, fast.done)
		if r := fast.once(t); r.err != nil || time.Since(began) != 0 {
			t.Errorf("the other address: %v after %v", r.err, time.Since(began))
		}
		if r := slow.once(t); !errors.Is(r.err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
			t.Errorf("the slow address: %v after %v, want its deadline", r.err, time.Since(began))
		}
	})
}

func TestAFullQueueRefusesGoAndDelaysInvoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		connected := make(chan struct{})
		client, _ := piped(t, Options{QueueBytes: 1000}, func(context.Context, string) error { <-connected; return nil }, answers(echo))
		first, second := newEnded(), newEnded()
		client.Go("a", &Command{Code: 1, Body: make([]byte, 5000)}, time.Minute, first.done) // one alone is always taken
		client.Go("a", &Command{Code: 1}, time.Minute, second.done)
		if r := second.once(t); driver.ReasonOf(r.err) != driver.Throttled {
			t.Errorf("a call that does not fit: %v", r.err)
		}
		waiting := make(chan error, 1)
		go func() { _, err := client.Invoke(t.Context(), "a", &Command{Code: 1}); waiting <- err }()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := client.Invoke(ctx, "a", &Command{Code: 1}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller without patience: %v", err)
		}
		close(connected)
		if err := <-waiting; err != nil {
			t.Errorf("the caller that waited for room: %v", err)
		}
		if r := first.once(t); r.err != nil {
			t.Errorf("the first call: %v", r.err)
		}
	})
}

func TestFailedDialsPauseAndTellTheLastErrorMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		client, dials := piped(t, Options{}, func(context.Context, string) error {
			if up.Load() {
				return nil
			}
			return errRefusedDial
		}, answers(echo))
		ask := func() error { _, err := client.Invoke(t.Context(), "a", &Command{Code: 1}); return err }
		began := time.Now()
		for time.Since(began) < time.Minute {
			if err := ask(); !errors.Is(err, errRefusedDial) {
				t.Fatalf("got %v", err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		// 0.1, 0.2, 0.4, ... up to 3 s, each at least half of it.
		if n := dials.Load(); n < 20 || n > 50 {
			t.Errorf("%d attempts in a minute", n)
		}
		if err := ask(); !strings.Contains(err.Error(), "next attempt is in") {
			t.Errorf("the error does not tell of the pause: %v", err)
		}
		up.Store(true)
		time.Sleep(lastPause)
		if err := ask(); err != nil {
			t.Errorf("after the longest pause: %v", err)
		}
	})
}

func TestAPeerThatNeverAnswersIsNotDialledWithoutPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, dials := piped(t, Options{}, nil, func(net.Conn) {}) // it hangs up at once
		for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(time.Millisecond) {
			if _, err := client.Invoke(t.Context(), "a", &Command{Code: 1}); err == nil {
				t.Fatal("there was an answer")
			}
		}
		if n := dials.Load(); n > 15 {
			t.Errorf("%d connections in 10 s", n)
		}
	})
}

func TestAHalfOpenConnectionIsFoundWhileOnlyLongPollsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dead atomic.Bool
		client, _ := piped(t, Options{}, nil, answers(func(c *Command) *Command {
			if dead.Load() || c.Code == reqPop {
				return nil
			}
			return &Command{}
		}))
		poll := func() ended {
			e := newEnded()
			client.Go("a", &Command{Code: reqPop}, 45*time.Second, e.done)
			return e
		}
		if _, err := client.Invoke(t.Context(), "a", &Command{Code: 1}); err != nil {
			t.Fatal(err)
		}
		began, healthy := time.Now(), poll()
		if r := healthy.once(t); !errors.Is(r.err, context.DeadlineExceeded) || time.Since(began) != 45*time.Second {
			t.Errorf("a poll at a peer that is well: %v after %v, want its deadline", r.err, time.Since(began))
		}
		began, lost := time.Now(), poll()
		dead.Store(true)
		r := lost.once(t)
		if took := time.Since(began); r.err == nil || errors.Is(r.err, context.DeadlineExceeded) || took > pingAfter+pingTimeout {
			t.Errorf("a poll at a peer that is gone: %v after %v", r.err, took)
		}
	})
}

func TestASlowAnswerIsNotSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		frame, err := AppendFrame(nil, &Command{Flag: flagResponse, Body: make([]byte, 1000)})
		if err != nil {
			t.Fatal(err)
		}
		client, dials := piped(t, Options{}, nil, func(socket net.Conn) {
			r := bufio.NewReader(socket)
			cmd, err := ReadFrame(r)
			if err != nil || writeAnswer(socket, cmd, &Command{}) != nil {
				return
			}
			if cmd, err = ReadFrame(r); err != nil {
				return
			}
			go answers(func(*Command) *Command { return nil })(socket)
			slow, err := AppendFrame(nil, &Command{Opaque: cmd.Opaque, Flag: flagResponse, Body: make([]byte, len(frame))})
			for _, b := range slow {
				if err != nil {
					return
				}
				_, err = socket.Write([]byte{b})
				time.Sleep(25 * time.Millisecond)
			}
			<-t.Context().Done()
		})
		if _, err := client.Invoke(t.Context(), "a", &Command{Code: 1}); err != nil {
			t.Fatal(err)
		}
		large := newEnded()
		client.Go("a", &Command{Code: 1}, time.Minute, large.done)
		if _, err := client.Invoke(t.Context(), "a", &Command{Code: 1}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the request behind: %v", err)
		}
		if r := large.once(t); r.err != nil || dials.Load() != 1 {
			t.Errorf("the slow answer: %v, %d connections", r.err, dials.Load())
		}
	})
}

func TestRequestsThatWereNotWrittenGoOnWithANewConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sockets atomic.Int32
		broken := make(chan struct{})
		client, dials := piped(t, Options{}, nil, func(socket net.Conn) {
			if sockets.Add(1) > 1 {
				answers(echo)(socket)
				return
			}
			cmd, err := ReadFrame(bufio.NewReader(socket))
			if err != nil || writeAnswer(socket, cmd, &Command{}) != nil {
				return
			}
			<-broken // it reads nothing more, so that the writer is stuck in the second request
		})
		if _, err := client.Invoke(t.Context(), "a", &Command{Code: 1}); err != nil {
			t.Fatal(err)
		}
		half, queued := newEnded(), newEnded()
		client.Go("a", &Command{Code: 1, Body: make([]byte, 1<<20)}, 5*time.Second, half.done)
		synctest.Wait()
		client.Go("a", &Command{Code: 1}, 5*time.Second, queued.done)
		close(broken)
		if r := half.once(t); r.err == nil {
			t.Error("the request that was half written has an answer")
		}
		if r := queued.once(t); r.err != nil || dials.Load() != 2 {
			t.Errorf("the request in the queue: %v, %d dials", r.err, dials.Load())
		}
	})
}

func TestRequestsOfThePeerAreAnswered(t *testing.T) {
	noLeaks(t)
	got := make(chan *Command, 2)
	p := newPeer(t, func(socket net.Conn) {
		r := bufio.NewReader(socket)
		if _, err := ReadFrame(r); err != nil {
			return
		}
		for code, opaque := range map[int]int32{307: 7, 39: 9, 221: 8} {
			flag := 0
			if code == 39 {
				flag = flagOneWay
			}
			ask, _ := AppendFrame(nil, &Command{Code: code, Opaque: opaque, Flag: flag})
			_, _ = socket.Write(ask)
		}
		for {
			answer, err := ReadFrame(r)
			if err != nil {
				return
			}
			got <- answer
		}
	})
	client := New(connectionTo(p.address()), Options{OnRequest: func(_ string, c *Command) *Command {
		if c.Code == 307 {
			return &Command{Body: []byte("mine")}
		}
		return nil
	}})
	defer client.Close()
	client.Go(p.address(), &Command{Code: 1}, time.Minute, func(*Command, error) {})
	for range 2 {
		a := <-got
		switch {
		case !a.IsResponse():
			t.Errorf("not an answer: %+v", a)
		case a.Opaque == 7 && string(a.Body) == "mine" && a.Code == CodeSuccess:
		case a.Opaque == 8 && a.Code == CodeNotSupported:
		default:
			t.Errorf("got %+v", a)
		}
	}
}

func TestCloseEndsEveryCallBeforeItReturns(t *testing.T) {
	noLeaks(t)
	p := silent(t)
	client := New(connectionTo(p.address()), Options{})
	dialling := make(chan struct{})
	plain := client.dial
	client.dial = func(ctx context.Context, address string) (net.Conn, error) {
		if address == "stuck" {
			close(dialling)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return plain(ctx, address)
	}
	var open atomic.Int32
	for i := range 1000 {
		address := p.address()
		if i%2 == 0 {
			address = "stuck"
		}
		open.Add(1)
		client.Go(address, &Command{Code: 1}, time.Minute, func(_ *Command, err error) {
			if !errors.Is(err, driver.ErrClosed) {
				t.Errorf("got %v", err)
			}
			open.Add(-1)
		})
	}
	<-dialling
	var closers sync.WaitGroup
	for range 3 {
		closers.Go(func() {
			client.Close()
			if n := open.Load(); n != 0 {
				t.Errorf("%d calls had not ended when Close returned", n)
			}
		})
	}
	closers.Wait()
	late := newEnded()
	client.Go(p.address(), &Command{Code: 1}, time.Minute, late.done)
	if r := late.once(t); !errors.Is(r.err, driver.ErrClosed) {
		t.Errorf("after Close: %v", r.err)
	}
}

func TestAddressesThatAreNotUsedAnyMoreAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := piped(t, Options{}, nil, answers(echo))
		for i := range 100 {
			if _, err := client.Invoke(t.Context(), fmt.Sprint("broker-", i), &Command{Code: 1}); err != nil {
				t.Fatal(err)
			}
			client.CloseIdle()
		}
		if n := len(client.links()); n > 2 {
			t.Errorf("%d links are kept", n)
		}
	})
}

// Every way a call can end races with every other; each call must end exactly once and Close must find nothing left.
func TestCallsEndExactlyOnceWhateverHappens(t *testing.T) {
	noLeaks(t)
	p := answering(t, func(c *Command) *Command {
		if c.Code == 9 {
			return nil
		}
		return &Command{}
	})
	client := New(connectionTo(p.address()), Options{QueueBytes: 4000})
	var ends [4000]atomic.Int32
	var workers sync.WaitGroup
	for w := range 4 {
		workers.Go(func() {
			for i := w * 1000; i < (w+1)*1000; i++ {
				code := 1
				if i%7 == 0 {
					code = 9
				}
				client.Go(p.address(), &Command{Code: code}, time.Duration(i%5)*time.Millisecond, func(*Command, error) { ends[i].Add(1) })
				switch {
				case i%211 == 0:
					p.hangUp()
				case i%97 == 0:
					client.CloseIdle()
				}
			}
		})
	}
	workers.Wait()
	client.Close()
	for i := range ends {
		if n := ends[i].Load(); n != 1 {
			t.Fatalf("call %d ended %d times", i, n)
		}
	}
}

// TestASilentPeerIsAskedAfterItsLastByte and not after the last look at it: one that fell silent just after a look was asked only 20 s later.
func TestASilentPeerIsAskedAfterItsLastByte(t *testing.T) {
	l := newLink(newClient(t, connectionTo("127.0.0.1:1")), "127.0.0.1:1")
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls[1] = &call{deadline: now.Add(time.Hour)}
	for silent, want := range map[time.Duration]time.Duration{0: pingAfter, 4 * time.Second: pingAfter - 4*time.Second, 2 * pingAfter: pingAfter} {
		l.conn = &conn{}
		l.conn.lastRead.Store(now.Add(-silent).UnixNano())
		l.rearm(now)
		if got := l.at.Sub(now); got != want {
			t.Errorf("silent for %v: the next look is in %v, want %v", silent, got, want)
		}
		l.disarm()
	}
	delete(l.calls, 1)
	l.conn = nil
}
