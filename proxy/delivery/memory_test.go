// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/memory"
)

// The window on the embedded broker: what the fake in the other tests assumes of a driver holds on a real one.

func connection() driver.Connection {
	return driver.Connection{NameServers: []string{"ns:9876"}, AllowAddress: func(string) error { return nil }}
}

type onMemory struct {
	broker   *memory.Broker
	producer driver.Producer
	consumer driver.Consumer
	window   *delivery.Window
}

// open makes a broker, and a window of the given group and topic on it; all is closed at the end of the test.
func open(t *testing.T, s delivery.Settings) *onMemory {
	t.Helper()
	m := &onMemory{broker: memory.NewBroker(memory.Options{})}
	drv := memory.New(m.broker)
	var err error
	m.producer, err = drv.OpenProducer(t.Context(), driver.ProducerConfig{
		Connection: connection(), ClientID: "p", Group: "senders", Topics: []string{"orders"}, SendTimeout: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	m.consumer = m.subscribe(t, "receivers", "orders")
	sealer, err := delivery.NewSealer(delivery.RandomKey())
	if err != nil {
		t.Fatal(err)
	}
	m.window = delivery.NewWindow(m.consumer, delivery.Options{
		Settings: s, Origin: delivery.Origin{ConsumerUID: "uid", Host: "host", Incarnation: "inc"}, Capabilities: drv.Capabilities(), Sealer: sealer,
	})
	t.Cleanup(func() {
		m.window.Close()
		closeAll(t, m.consumer.Close, m.producer.Close)
	})
	return m
}

func closeAll(t *testing.T, closers ...func(context.Context) error) {
	t.Helper()
	for _, c := range closers {
		if err := c(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

func (m *onMemory) subscribe(t *testing.T, group, topic string) driver.Consumer {
	t.Helper()
	c, err := memory.New(m.broker).OpenConsumer(t.Context(), driver.ConsumerConfig{
		Connection: connection(), ClientID: "c", Group: group, StartFrom: driver.Earliest,
		Subscriptions: []driver.Subscription{{Topic: topic}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (m *onMemory) send(t *testing.T, n int) {
	t.Helper()
	msgs := make([]*driver.Message, n)
	for i := range msgs {
		msgs[i] = &driver.Message{ID: fmt.Sprintf("M%05d", i), Topic: "orders", Body: make([]byte, 1024)}
	}
	for i, r := range m.producer.Send(t.Context(), "orders", msgs) {
		if r.Err != nil {
			t.Fatalf("send %d: %v", i, r.Err)
		}
	}
}

func (m *onMemory) waiting(t *testing.T) (n int64) {
	t.Helper()
	lags, err := m.consumer.Lag(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lags {
		n += l.Waiting
	}
	return n
}

// work is an application: it takes, loses, nacks and acks until ctx ends, and notes each ack that was OK.
func work(ctx context.Context, t *testing.T, w *delivery.Window, number int, acked *sync.Map) {
	for life := 0; ctx.Err() == nil; life++ {
		r, err := w.Attach(delivery.ReceiverOptions{MaxMessages: 40, MaxBytes: 100_000})
		if err != nil {
			return
		}
		end := time.After(time.Duration(1+number) * time.Second)
		for alive := true; alive && ctx.Err() == nil; {
			select {
			case <-r.Ready():
			case <-end:
				alive = false
			case <-ctx.Done():
			}
			for ds := r.Take(7, 5000); len(ds) > 0; ds = r.Take(7, 5000) {
				if !alive {
					break // the stream breaks with these in its hands
				}
				r.Written(ds)
				handle(ctx, t, w, ds, life, acked)
			}
		}
		r.Close()
	}
}

func handle(ctx context.Context, t *testing.T, w *delivery.Window, ds []delivery.Delivery, life int, acked *sync.Map) {
	if life%3 == 1 && len(ds) > 3 {
		w.Nack(ctx, []delivery.Nack{{Token: ds[0].Token, Delay: time.Second}})
		ds = ds[2:] // and one is forgotten: its deadline brings it again
	}
	tokens := make([]string, len(ds))
	for i := range ds {
		tokens[i] = ds[i].Token
	}
	for i, r := range w.Ack(ctx, tokens) {
		if r.Outcome != delivery.OK {
			continue
		}
		if _, twice := acked.LoadOrStore(ds[i].ID, true); twice {
			t.Errorf("%s was acknowledged and came again", ds[i].ID)
		}
	}
}

func TestOnMemory_SeveralApplicationsThatBreakLoseNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, delivery.Settings{MaxInFlight: 100, AckDeadline: 20 * time.Second})
		m.send(t, 2000)
		ctx, cancel := context.WithCancel(t.Context())
		var acked sync.Map
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() { work(ctx, t, m.window, i, &acked) })
		}
		count := func() (n int) {
			acked.Range(func(any, any) bool { n++; return true })
			return n
		}
		for i := 0; i < 300 && count() < 2000; i++ {
			time.Sleep(time.Second)
		}
		cancel()
		wg.Wait()
		if n := count(); n != 2000 {
			t.Errorf("%d of 2000 messages were acknowledged", n)
		}
		report := m.window.Drain(t.Context())
		if report.LeftLeased != 0 || m.waiting(t) != 0 {
			t.Errorf("left: %+v, and %d in the broker", report, m.waiting(t))
		}
	})
}

func TestOnMemory_TheBrokerGoesAndComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, delivery.Settings{MaxInFlight: 10, AckDeadline: 20 * time.Second})
		m.send(t, 500)
		ctx, cancel := context.WithCancel(t.Context())
		var acked sync.Map
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() { work(ctx, t, m.window, i, &acked) })
		}
		for range 10 {
			up := m.broker.Faults().BrokerDown()
			time.Sleep(3 * time.Second)
			up()
			time.Sleep(2 * time.Second)
		}
		n := 0
		for i := 0; i < 300 && n < 500; i++ {
			time.Sleep(time.Second)
			n = 0
			acked.Range(func(any, any) bool { n++; return true })
		}
		cancel()
		wg.Wait()
		if n != 500 || m.waiting(t) != 0 {
			t.Errorf("%d of 500 were acknowledged, %d wait in the broker", n, m.waiting(t))
		}
		if err := m.window.Err(); err != nil {
			t.Errorf("Err after the broker came back: %v", err)
		}
	})
}

func TestOnMemory_AnAckWhoseAnswerWasLostIsRetriedToOK(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, delivery.Settings{AckDeadline: 20 * time.Second})
		m.send(t, 1)
		r, err := m.window.Attach(delivery.ReceiverOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		<-r.Ready()
		ds := r.Take(1, 0)
		r.Written(ds)
		m.broker.Faults().Inject(memory.Fault{Operation: memory.Ack, Times: 1, AnswerLost: true})
		for i, wanted := range []delivery.Outcome{delivery.Retry, delivery.OK, delivery.OK} {
			if res := m.window.Ack(t.Context(), []string{ds[0].Token})[0]; res.Outcome != wanted {
				t.Errorf("ack %d: %v (%s), want %v", i, res.Outcome, res.Detail, wanted)
			}
		}
		if n := m.waiting(t); n != 0 {
			t.Errorf("%d wait in the broker", n)
		}
	})
}

func TestOnMemory_ExhaustedMessagesAreInTheDeadLetterTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, delivery.Settings{AckDeadline: 10 * time.Second, MaxDeliveryAttempts: 2})
		m.send(t, 3)
		r, err := m.window.Attach(delivery.ReceiverOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		seen := map[string]int{}
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
			ds := r.Take(0, 0)
			r.Written(ds)
			for _, d := range ds {
				seen[d.ID]++
				if d.Attempt != seen[d.ID] {
					t.Errorf("%s: delivery %d says attempt %d", d.ID, seen[d.ID], d.Attempt)
				}
			}
		}
		for id, n := range seen {
			if n != 2 {
				t.Errorf("%s was delivered %d times, want 2", id, n)
			}
		}
		dead := m.subscribe(t, "undertaker", driver.DeadLetterTopic("receivers"))
		defer closeAll(t, dead.Close)
		letters, err := dead.Fetch(t.Context(), driver.FetchRequest{MaxMessages: 10, MaxBytes: 1 << 20, Lease: time.Minute})
		if err != nil || len(letters) != 3 {
			t.Fatalf("%d dead letters (%v), want 3", len(letters), err)
		}
		if reason := letters[0].Properties[driver.PropertyDeadLetterReason]; reason != "delivered 2 times without an acknowledgement (maxDeliveryAttempts is 2); the last time: lease expired" {
			t.Errorf("reason %q", reason)
		}
		if n := m.waiting(t); n != 0 {
			t.Errorf("%d originals wait", n)
		}
	})
}
