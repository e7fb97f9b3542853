// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/test/load"
)

// TestSeedReport_AFullChannelDropsNoMessage is the report's fourth row on a real broker: a receiver that stops acknowledging holds at most
// maxInFlight, costs no memory, and loses nothing.
func TestSeedReport_AFullChannelDropsNoMessage(t *testing.T) {
	c := start(t)
	silent, deadline := 15*time.Second, 10*time.Second
	if long() {
		silent, deadline = 150*time.Second, 60*time.Second
	}
	op := c.operator(t, localenv.OperatorOptions{})
	onDriversAtOnce(t, func(t *testing.T, driver string) { aSilentReceiver(t, c, op, driver, silent, deadline) })
}

func aSilentReceiver(t *testing.T, c *cluster, op *localenv.Operator, driver string, silent, deadline time.Duration) {
	t.Helper()
	topic, name := c.topic(t, 8), unique(t)
	c.apply(t, producer(name, topic), consumer(name, "g_"+name, topic, "driver: "+driver, "maxInFlight: 10", "ackDeadlineSeconds: "+seconds(deadline)))
	c.waitReady(t, "rmqp/"+name, "rmqc/"+name)
	ledger, object := load.NewLedger(), load.Object{Namespace: namespace, Name: name}
	must(t, load.Send(t.Context(), c.dial(t, op), ledger, load.SendOptions{Producer: object, Prefix: name, Messages: 1000, Callers: 16, Bytes: 1024}))

	// Each id's deliveries must be a whole deadline apart, and at no time more than ten of them may be open.
	var mu sync.Mutex
	open, most := map[string]time.Time{}, 0
	var acking atomic.Bool
	handle := func(d *proxyv1alpha1.Delivery) bool {
		mu.Lock()
		defer mu.Unlock()
		now, id := time.Now(), d.GetMessage().GetId()
		for other, until := range open {
			if until.Before(now) {
				delete(open, other)
			}
		}
		if until, again := open[id]; again {
			t.Errorf("%s came again %s before its deadline", id, until.Sub(now))
		}
		open[id] = d.GetAckDeadline().AsTime().Add(-time.Second) // the message may come as soon as the deadline is over
		most = max(most, len(open))
		if acking.Load() {
			delete(open, id)
			return true
		}
		return false
	}
	ctx, cancel := context.WithCancel(t.Context())
	var receiver sync.WaitGroup
	connection := c.dial(t, op)
	receiver.Go(func() {
		if err := load.Receive(ctx, connection, ledger, load.ReceiveOptions{Consumer: object, Outstanding: 100, Handle: handle}); err != nil {
			t.Error(err)
		}
	})
	defer receiver.Wait()
	defer cancel()

	time.Sleep(silent * 2 / 5) // minute 1 of 2.5
	early, err := residentBytes(op.PID())
	must(t, err)
	time.Sleep(silent * 3 / 5)
	late, err := residentBytes(op.PID())
	must(t, err)
	if grown := late - early; grown > 5<<20 && !raced() {
		t.Errorf("resident memory grew by %d bytes while the receiver was silent", grown)
	}
	mu.Lock()
	if most > 10 {
		t.Errorf("%d deliveries were outstanding, maxInFlight is 10", most)
	}
	mu.Unlock()
	acking.Store(true)
	await, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	must(t, load.AwaitAcked(await, ledger))
	must(t, ledger.Check())
	t.Logf("silent for %s: at most %d outstanding, memory %d -> %d KiB, %+v", silent, most, early>>10, late>>10, ledger.Counts())
	cancel()
	receiver.Wait()
	c.delete(t, "rmqp/"+name, "rmqc/"+name)
}
