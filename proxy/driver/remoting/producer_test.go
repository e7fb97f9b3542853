// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

func TestTenThousandProducersShareConnectionsProofsAndGoroutines(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a", "b")
	f.everywhere("orders", 4)
	f.everywhere("bills", 4)
	first := f.producer(f.config("orders", "bills"))
	before, heapBefore := runtime.NumGoroutine(), heap()
	const n = 10_000
	all := make([]driver.Producer, n)
	began := time.Now()
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := w; i < n; i += 16 {
				cfg := f.config("orders", "bills")
				cfg.Group = fmt.Sprintf("group_%d", i)
				p, err := f.driver.OpenProducer(within(t, 20*time.Second), cfg)
				if err != nil {
					t.Errorf("producer %d: %v", i, err)
					return
				}
				all[i] = p
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("opened %d producers in %v", n, time.Since(began))
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	eventually(t, 5*time.Second, func() error { // what has just ended may still be counted
		if more := runtime.NumGoroutine() - before; more > 0 {
			return fmt.Errorf("%d goroutines more than with one producer", more)
		}
		return nil
	})
	if each := (heap() - heapBefore) / n; each > 2048 {
		t.Errorf("an idle producer costs %d bytes", each)
	} else {
		t.Logf("an idle producer costs %d bytes", each)
	}
	for name, b := range f.brokers {
		if b.connections() != 1 || b.asked(codeSend) > 20 {
			t.Errorf("broker %s: %d connections, %d questions", name, b.connections(), b.asked(codeSend))
		}
	}
	if ns := f.nameServers[0]; ns.connections() != 1 || ns.asked(codeRoute) > 20 {
		t.Errorf("name server: %d connections, %d questions", ns.connections(), ns.asked(codeRoute))
	}
	for _, p := range all {
		mustClose(t, p)
	}
	send(t, first, "orders", 1)
	mustClose(t, first)
	if left := len(f.driver.clusters); left != 0 {
		t.Errorf("%d clusters after the last close", left)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestConnectionsThatDifferAreNotShared(t *testing.T) {
	d := New(logr.Discard())
	c := driver.Connection{NameServers: []string{"a:1", "b:2"}, AllowAddress: func(string) error { return nil }}
	other := c
	other.Credentials.AccessKey = "somebody"
	secure := c
	secure.TLS.Enabled = true
	turned := c
	turned.NameServers = []string{"b:2", "a:1"}
	turned.Namespace = "ns"
	one := d.acquire(c)
	defer one.release()
	for name, connection := range map[string]driver.Connection{"other credentials": other, "TLS": secure} {
		cl := d.acquire(connection)
		if cl == one {
			t.Errorf("%s: shared", name)
		}
		cl.release()
	}
	same := d.acquire(turned)
	defer same.release()
	if same != one {
		t.Error("the order of name servers and the namespace must not matter")
	}
}

func TestAnOpenThatFailsLeavesNothing(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	_, err := f.driver.OpenProducer(within(t, 5*time.Second), f.config("unknown"))
	wantReason(t, "an unknown topic", err, driver.TopicNotFound)
	var e *driver.Error
	if !errors.As(err, &e) || e.Field != "topics[0]" {
		t.Errorf("the error must name the field: %v", err)
	}
	f.topic("readonly", fakeShare{broker: "a", queues: 4, perm: 4})
	_, err = f.driver.OpenProducer(within(t, 5*time.Second), f.config("readonly"))
	wantReason(t, "a topic that is read-only", err, driver.Unavailable)
	f.everywhere("orders", 4)
	cfg := f.config("orders")
	errNo := errors.New("not on the list")
	cfg.Connection.AllowAddress = func(a string) error {
		if a == f.brokers["a"].address() {
			return errNo
		}
		return nil
	}
	_, err = f.driver.OpenProducer(within(t, 5*time.Second), cfg)
	wantReason(t, "a broker that is not allowed", err, driver.AddressRefused)
	if !errors.Is(err, errNo) || f.brokers["a"].connections() != 0 {
		t.Errorf("%v; %d connections to it", err, f.brokers["a"].connections())
	}
	if left := len(f.driver.clusters); left != 0 {
		t.Errorf("%d clusters are left", left)
	}
}

func TestABrokerThatIsDownHindersNoOpenWhereAnotherOneAnswers(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a", "b")
	f.everywhere("orders", 1)
	f.brokers["a"].stop()
	send(t, f.producer(f.config("orders")), "orders", 1)
	f.brokers["b"].stop()
	cfg := f.config("orders")
	cfg.Connection.Credentials.AccessKey = "somebody else" // so that nothing is proven yet
	_, err := f.driver.OpenProducer(within(t, 5*time.Second), cfg)
	wantReason(t, "with both down", err, driver.Unavailable)
}

func TestATopicThatTheBrokerCreatesIsSentTo(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere(wire.DefaultTopic, 8)
	p := f.producer(f.config("fresh"))
	for range 8 {
		send(t, p, "fresh", 1)
	}
	queues := map[string]bool{}
	for _, s := range f.brokers["a"].sends() {
		queues[s.queue] = true
	}
	if len(queues) != autoQueues {
		t.Errorf("queues %v were used, want %d", queues, autoQueues)
	}
	f.everywhere("fresh", 2)
	eventually(t, 5*time.Second, func() error {
		send(t, p, "fresh", 1)
		if f.driver.only(t).knows("fresh") {
			return nil
		}
		return errors.New("the topic's own route is not known")
	})
}

func TestCloseAnswersSendsThatHang(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere("orders", 1)
	p, other := f.producer(f.config("orders")), f.producer(f.config("orders"))
	f.brokers["a"].hang()
	answers := make(chan driver.SendResult, 8)
	for range cap(answers) {
		go func() { answers <- p.Send(within(t, time.Minute), "orders", messages("orders", 1))[0] }()
	}
	eventually(t, 5*time.Second, func() error {
		if n := f.brokers["a"].asked(codeSend); n < cap(answers) {
			return fmt.Errorf("%d sends have come", n)
		}
		return nil
	})
	var closes sync.WaitGroup
	for range 3 {
		closes.Go(func() { mustClose(t, p) })
	}
	closes.Wait()
	for range cap(answers) {
		wantReason(t, "a send under way", (<-answers).Err, driver.Closed)
	}
	wantReason(t, "a send afterwards", p.Send(t.Context(), "orders", messages("orders", 1))[0].Err, driver.Closed)
	f.brokers["a"].replying(nil)
	send(t, other, "orders", 1)
}

func TestErrTellsWhatIsWrongOnceForAllAndStopsWhenItIsOver(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a", "b")
	f.driver.periods = periods{
		tick: 5 * time.Millisecond, check: 10 * time.Millisecond, checkAgain: 10 * time.Millisecond,
		busy: time.Hour, idle: time.Hour, old: time.Hour, forget: time.Hour,
	}
	f.everywhere("both", 2)
	f.topic("only-a", fakeShare{broker: "a", queues: 1, perm: 6})
	both, one := f.producer(f.config("both")), f.producer(f.config("only-a"))
	a := f.brokers["a"]
	a.stop()
	want := func(p *producer, want driver.Reason) {
		t.Helper()
		eventually(t, 5*time.Second, func() error {
			if err := p.Err(); (err == nil) != (want == "") || err != nil && driver.ReasonOf(err) != want {
				return fmt.Errorf("Err() = %w, want %q", err, want)
			}
			return nil
		})
	}
	want(one, driver.Unavailable)
	want(both, "")
	a.start(a.address())
	want(one, "")
	ns := f.nameServers[0]
	ns.stop()
	want(both, driver.Unavailable)
	send(t, both, "both", 1)
	ns.start(ns.address())
	want(both, "")
	a.code(wire.CodeNoPermission, "no permission")
	wantReason(t, "send", one.Send(t.Context(), "only-a", messages("only-a", 1))[0].Err, driver.Unauthorized)
	want(one, driver.Unauthorized)
	a.replying(nil)
	send(t, one, "only-a", 1)
	want(one, "")
}
