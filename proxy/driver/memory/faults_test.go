// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func sendOne(p driver.Producer) error {
	return p.Send(context.Background(), "topic", numbered("topic", 1))[0].Err
}

func TestFailHitsTheNextCallsOnlyAndErrRecovers(t *testing.T) {
	broker := NewBroker(Options{})
	p, _ := open(t, New(broker), "group", "topic")
	errDisk := driver.Errorf(driver.Unavailable, "", "disk full")
	broker.Faults().Fail(Send, 2, errDisk)
	for range 2 {
		if err := sendOne(p); !errors.Is(err, errDisk) || !errors.Is(p.Err(), errDisk) {
			t.Fatalf("Send: %v, Err: %v", err, p.Err())
		}
	}
	if err := sendOne(p); err != nil || p.Err() != nil {
		t.Fatalf("the third Send: %v, Err: %v", err, p.Err())
	}
	if stats := broker.Stats(); stats.Messages != 1 || broker.Faults().Calls(Send) != 3 {
		t.Errorf("%d messages stored in %d calls", stats.Messages, broker.Faults().Calls(Send))
	}
}

func TestALostAnswerHasItsEffect(t *testing.T) {
	broker := NewBroker(Options{})
	p, c := open(t, New(broker), "group", "topic")
	broker.Faults().Inject(Fault{Operation: Send, Times: 1, AnswerLost: true, Err: driver.Errorf(driver.Timeout, "", "lost")})
	if err := sendOne(p); driver.ReasonOf(err) != driver.Timeout {
		t.Fatal(err)
	}
	r := mustFetch(t, c, 1, time.Hour)[0]
	broker.Faults().Inject(Fault{Operation: Ack, Times: 1, AnswerLost: true})
	if err := c.Ack(t.Context(), []driver.Handle{r.Handle})[0]; driver.ReasonOf(err) != driver.Unavailable {
		t.Fatal(err)
	}
	if stats := broker.Stats(); stats.Held != 0 {
		t.Errorf("%d messages are not acknowledged", stats.Held)
	}
}

func TestAHangingSendEndsWithItsContextItsClientOrTheFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := NewBroker(Options{})
		p, _ := open(t, New(broker), "group", "topic")
		lift := broker.Faults().Hang(Send, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := p.Send(ctx, "topic", numbered("topic", 1))[0].Err; driver.ReasonOf(err) != driver.Timeout || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("at the context's end: %v", err)
		}
		answers := make(chan error, 1)
		go func() { answers <- sendOne(p) }()
		synctest.Wait()
		if n := broker.Faults().Hanging(Send); n != 1 {
			t.Errorf("%d sends hang", n)
		}
		lift()
		if err := <-answers; err != nil {
			t.Errorf("after the fault was lifted: %v", err)
		}
		broker.Faults().Hang(Send, 1)
		go func() { answers <- sendOne(p) }()
		synctest.Wait()
		mustClose(t, p)
		if err := <-answers; !errors.Is(err, driver.ErrClosed) {
			t.Errorf("at Close: %v", err)
		}
	})
}

func TestAHangingCloseReturnsByItsContextAndClosesWhenTheFaultIsLifted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := NewBroker(Options{})
		_, c := open(t, New(broker), "group", "topic")
		lift := broker.Faults().Inject(Fault{Operation: Close, Hang: true, Group: "group", Times: 1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Close(ctx); driver.ReasonOf(err) != driver.Timeout {
			t.Fatalf("a hanging Close: %v", err)
		}
		if n := len(broker.Clients()); n != 2 {
			t.Fatalf("%d clients while Close hangs", n)
		}
		lift()
		if clients := broker.Clients(); len(clients) != 1 || clients[0] != "producer" {
			t.Errorf("clients after the fault was lifted: %v", clients)
		}
	})
}

func TestAFailingCloseClosesAllTheSame(t *testing.T) {
	broker := NewBroker(Options{})
	d := New(broker)
	p, err := d.OpenProducer(t.Context(), producerConfig("topic"))
	if err != nil {
		t.Fatal(err)
	}
	broker.Faults().Fail(Close, 1, nil)
	if err := p.Close(t.Context()); driver.ReasonOf(err) != driver.Unavailable {
		t.Errorf("Close: %v", err)
	}
	if clients := broker.Clients(); len(clients) != 0 {
		t.Errorf("clients: %v", clients)
	}
}

func TestABrokerThatIsDownAnswersUnavailableToEverythingButClose(t *testing.T) {
	broker := NewBroker(Options{})
	d := New(broker)
	p, c := open(t, d, "group", "topic")
	lift := broker.Faults().BrokerDown()
	_, openErr := d.OpenConsumer(t.Context(), consumerConfig("other", "topic"))
	_, fetchErr := c.Fetch(t.Context(), driver.FetchRequest{MaxMessages: 1, MaxBytes: 1, Lease: time.Hour})
	_, lagErr := c.Lag(t.Context())
	for what, err := range map[string]error{
		"open": openErr, "fetch": fetchErr, "lag": lagErr, "send": sendOne(p), "probe": d.ProbeConsumer(t.Context(), consumerConfig("other", "topic")),
		"ack": c.Ack(t.Context(), []driver.Handle{"x"})[0], "consumer": c.Err(), "producer": p.Err(),
	} {
		if driver.ReasonOf(err) != driver.Unavailable || err == nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	lift()
	if err := sendOne(p); err != nil {
		t.Errorf("after the broker is back: %v", err)
	}
	mustAck(t, c, mustFetch(t, c, 1, time.Hour)...)
	if p.Err() != nil || c.Err() != nil {
		t.Errorf("Err after the broker is back: %v, %v", p.Err(), c.Err())
	}
}

func TestAFaultOfOneGroupSparesTheOthersAndClearLiftsAll(t *testing.T) {
	broker := NewBroker(Options{})
	d := New(broker)
	p, first := open(t, d, "first", "topic")
	second := join(t, d, "second", "topic")
	broker.Faults().Inject(Fault{Operation: Ack, Group: "first"})
	mustSend(t, p, numbered("topic", 1)...)
	r := mustFetch(t, first, 1, time.Hour)[0]
	if err := first.Ack(t.Context(), []driver.Handle{r.Handle})[0]; driver.ReasonOf(err) != driver.Unavailable {
		t.Errorf("the group that is hit: %v", err)
	}
	mustAck(t, second, mustFetch(t, second, 1, time.Hour)...)
	broker.Faults().Clear()
	mustAck(t, first, r)
}
