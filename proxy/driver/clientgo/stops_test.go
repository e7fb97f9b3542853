// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// stopWorkers groups are opened and closed side by side, each with messages coming in all the time.
const stopWorkers = 4

// TestFiveHundredStopsUnderLoad is upstream #1051: a stop while pull loops bring messages ended the whole process. The test process is the
// measure: it is still there at the end. LONG=1 makes the full five hundred; otherwise it is sixty.
func TestFiveHundredStopsUnderLoad(t *testing.T) {
	stops := 60
	if long() {
		stops = 500
	}
	h := newHarness(t, shared.Cluster(t))
	topic := h.NewTopic(t, 8)
	sending := startLoad(t, h, topic)
	var made, came atomic.Int64
	var slowest atomic.Int64
	var group sync.WaitGroup
	for w := range stopWorkers {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 1))
			name := h.NewGroup(t)
			for made.Add(1) <= int64(stops) {
				took, n := openAndStop(t, h, name, topic, random)
				came.Add(int64(n))
				for old := slowest.Load(); int64(took) > old && !slowest.CompareAndSwap(old, int64(took)); old = slowest.Load() {
				}
			}
		})
	}
	group.Wait()
	stored := sending()
	t.Logf("%d stops, slowest %v, %d messages came, %d stored meanwhile, left: %v",
		stops, time.Duration(slowest.Load()).Round(time.Millisecond), came.Load(), stored, h.driver.Leftovers())
	if came.Load() < int64(stops) {
		t.Errorf("%d messages came in %d rounds: that is no load", came.Load(), stops)
	}
}

// openAndStop opens a member, takes and acknowledges some for a random while, and closes it in the middle of that.
func openAndStop(t *testing.T, h *harness, group, topic string, random *rand.Rand) (took time.Duration, came int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := h.driver.OpenConsumer(ctx, driver.ConsumerConfig{
		Connection: h.Connection(), ClientID: driver.ClientID("stops_" + uuid.NewString()[:13]), Group: group,
		Subscriptions: []driver.Subscription{{Topic: topic}}, StartFrom: driver.Latest,
	})
	if err != nil {
		t.Errorf("open: %v", err)
		return 0, 0
	}
	receiving := make(chan int)
	go func() {
		n := 0
		defer func() { receiving <- n }()
		for {
			rs, err := c.Fetch(ctx, driver.FetchRequest{MaxMessages: 8, MaxBytes: 1 << 20, Lease: time.Minute})
			if err != nil {
				return
			}
			n += len(rs)
			for i, r := range rs {
				if i%4 != 3 { // a quarter stays open, so that the stop finds holes
					c.Ack(ctx, []driver.Handle{r.Handle})
				}
			}
		}
	}()
	time.Sleep(time.Duration(random.Int64N(int64(150 * time.Millisecond)))) // the moment of the stop is what the test varies
	began := time.Now()
	if err := c.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
	took = time.Since(began)
	return took, <-receiving
}

// startLoad sends small batches to topic until the returned function is called, which says how many messages were stored.
func startLoad(t *testing.T, h *harness, topic string) (stop func() int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p, err := h.driver.OpenProducer(ctx, driver.ProducerConfig{
		Connection: h.Connection(), ClientID: driver.ClientID("load_" + uuid.NewString()[:13]), Group: "load", Topics: []string{topic},
		SendTimeout: 3 * time.Second, Retries: 2, MaxMessageBytes: 4 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	var stored atomic.Int64
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			for ctx.Err() == nil {
				msgs := make([]*driver.Message, 4)
				for i := range msgs {
					msgs[i] = &driver.Message{ID: uuid.NewString(), Topic: topic, Body: make([]byte, 256)}
				}
				for _, r := range p.Send(ctx, topic, msgs) {
					if r.Err == nil {
						stored.Add(1)
					}
				}
				time.Sleep(time.Millisecond) // a load, not a flood: pulls shall come back at all times
			}
		})
	}
	return func() int64 {
		cancel()
		group.Wait()
		if err := p.Close(context.Background()); err != nil {
			t.Errorf("close the producer: %v", err)
		}
		return stored.Load()
	}
}
