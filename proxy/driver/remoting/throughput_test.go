// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// TestReceiveThroughput measures Fetch and Ack of a backlog as a window drives them: one caller of Fetch, acknowledgements by many calls. It only fails
// far below what the driver does (100,000 messages a second and more on two quiet cores that the broker shares), because machines differ.
func TestReceiveThroughput(t *testing.T) {
	if os.Getenv("LONG") != "1" {
		t.Skip("NOT RUN: measuring needs LONG=1 and a quiet machine")
	}
	h := newHarness(t, rocketmq.StartForTest(t, rocketmq.Options{Measure: true}))
	topic := h.NewTopic(t, 8)
	p := h.openProducer(t, h.producerConfig(topic))
	const n = 300_000
	body := []byte(strings.Repeat("x", 1024))
	fillTopic(t, p, topic, n, body)
	for _, how := range []struct {
		name          string
		credit, calls int
	}{
		{"warming up", 2048, 32}, {"credit 2048, acks of a Fetch together", 2048, 0}, {"credit 2048, 32 calls acknowledge", 2048, 32}, {"credit 256, 32 calls acknowledge", 256, 32},
		{"credit 2048, acks one by one in 256 calls", 2048, 256},
	} {
		c := h.openConsumer(t, h.consumerConfig(h.NewGroup(t), topic))
		start := time.Now()
		consumeAll(t, c, n, how.credit, how.calls)
		took := time.Since(start)
		t.Logf("%s: %.0f messages/s", how.name, n/took.Seconds())
		if rate := n / took.Seconds(); rate < 10_000 {
			t.Errorf("%s: only %.0f messages/s", how.name, rate)
		}
		mustClose(t, c)
	}
}

// fillTopic stores n messages.
func fillTopic(t *testing.T, p driver.Producer, topic string, n int, body []byte) {
	t.Helper()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := 0; i < n/8; i += 200 {
				batch := make([]*driver.Message, 200)
				for j := range batch {
					batch[j] = &driver.Message{ID: uuid.NewString(), Topic: topic, Body: body}
				}
				for _, r := range p.Send(context.Background(), topic, batch) {
					if r.Err != nil {
						t.Error(r.Err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// consumeAll keeps at most credit messages in flight. calls 0: each Fetch's messages are acknowledged in one call; else that many callers
// acknowledge, 16 messages at a time, or one by one where there are more than 100.
func consumeAll(t *testing.T, c *consumer, n, credit, calls int) {
	t.Helper()
	var mu sync.Mutex
	free := sync.NewCond(&mu)
	inFlight := 0
	work := make(chan []driver.Handle, credit)
	var wg sync.WaitGroup
	ack := func(handles []driver.Handle) {
		for _, err := range c.Ack(context.Background(), handles) {
			if err != nil {
				t.Error(err)
			}
		}
		mu.Lock()
		inFlight -= len(handles)
		mu.Unlock()
		free.Signal()
	}
	for range calls {
		wg.Go(func() {
			for handles := range work {
				ack(handles)
			}
		})
	}
	size := 16
	if calls > 100 {
		size = 1
	}
	ctx := within(t, 2*time.Minute)
	for got := 0; got < n; {
		mu.Lock()
		for inFlight >= credit {
			free.Wait()
		}
		room := credit - inFlight
		mu.Unlock()
		rs, err := c.Fetch(ctx, driver.FetchRequest{MaxMessages: room, MaxBytes: 64 << 20, Lease: time.Minute})
		if err != nil {
			t.Fatalf("after %d: %v", got, err)
		}
		got += len(rs)
		mu.Lock()
		inFlight += len(rs)
		mu.Unlock()
		handles := handlesOf(rs)
		if calls == 0 {
			wg.Go(func() { ack(handles) })
			continue
		}
		for len(handles) > 0 {
			k := min(size, len(handles))
			work <- handles[:k]
			handles = handles[k:]
		}
	}
	close(work)
	wg.Wait()
}
