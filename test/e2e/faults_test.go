// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"math"
	"sync"
	"testing"
	"time"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/test/load"
)

// TestADeleteEndsWhileTheBrokerIsDown is tests.md C7 on the real driver, at its worst: senders and a receiver are at work, and what the
// receiver holds is never acknowledged, so that the drain takes its whole time.
func TestADeleteEndsWhileTheBrokerIsDown(t *testing.T) {
	const drain = 5 * time.Second
	c := start(t)
	op := c.operator(t, localenv.OperatorOptions{})
	f := planTraffic(t, c, op)
	f.begin(0, nil, "drainTimeoutSeconds: "+seconds(drain))
	f.send(200, 8, 0)

	ctx, cancel := context.WithCancel(t.Context())
	var applications sync.WaitGroup
	defer applications.Wait()
	defer cancel()
	connection, held := c.dial(t, op), make(chan struct{}, 1000)
	applications.Go(func() { // ends with the Consumer: NOT_FOUND may not be retried
		_ = load.Receive(ctx, connection, f.ledger, load.ReceiveOptions{
			Consumer: load.Object{Namespace: namespace, Name: f.name}, Outstanding: 50,
			Handle: func(*proxyv1alpha1.Delivery) bool { held <- struct{}{}; return false },
		})
	})
	for range 50 {
		select {
		case <-held:
		case <-time.After(30 * time.Second):
			t.Fatal("the receiver did not get 50 messages within 30 s")
		}
	}
	must(t, c.broker.KillBroker())
	t.Cleanup(func() { // t.Context() has ended; the next test needs the broker
		if err := c.broker.StartBroker(context.Background()); err != nil {
			t.Error(err)
		}
	})
	o := f.sends(math.MaxInt, 8, 0)
	o.Prefix += "-down"
	applications.Go(func() { _ = load.Send(ctx, connection, load.NewLedger(), o) }) // the same

	took := c.delete(t, f.objects()...)
	t.Logf("deleted in %s with the broker down and 50 deliveries never acknowledged, drain time-out %s", took.Round(time.Millisecond), drain)
	if took > drain+10*time.Second {
		t.Errorf("the delete took %s, more than the drain time-out and 10 s", took)
	}
}

// awaitAcked waits until so many more messages have been acknowledged.
func (f *traffic) awaitAcked(more int) {
	f.t.Helper()
	began := time.Now()
	for aim := f.ledger.Counts().Acked + more; ; {
		_, changed := f.ledger.Missing()
		counts := f.ledger.Counts()
		if counts.Acked >= aim {
			return
		}
		select {
		case <-changed:
		case err := <-f.failed:
			f.t.Fatal(err)
		case <-time.After(time.Minute - time.Since(began)):
			f.t.Fatalf("no %d more acknowledgements within a minute: %+v", more, counts)
		}
	}
}
