// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// TestNoMessageIsLateThatComesAsAPollIsPutAway sends each message at about the moment at which the driver polls again for it: 3 of 4,000 came after 5 s,
// when each poll took so long. See pair.patience.
func TestNoMessageIsLateThatComesAsAPollIsPutAway(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	noLeaks(t)
	n := 1000 // would meet it every second time; polls_test.go has the part that depends on no luck
	if os.Getenv("LONG") == "1" {
		n = 20_000
	}
	p, c, topic := h.stream(t, 8)
	ctx, cancel := context.WithCancel(t.Context())
	came := make(chan *driver.Received, 1)
	done := make(chan error, 1)
	go func() {
		for {
			rs, err := c.Fetch(ctx, fetchOf(1, time.Minute))
			if err != nil {
				done <- err
				return
			}
			came <- rs[0]
		}
	}()
	took := make([]time.Duration, n)
	for i := range took {
		time.Sleep(rand.N(3 * time.Millisecond)) // any moment around it
		send(t, p, topic, 1)
		sent := time.Now()
		select {
		case r := <-came:
			took[i] = time.Since(sent)
			acknowledge(t, c, r)
		case <-time.After(30 * time.Second):
			t.Fatalf("message %d did not come", i)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	slices.Sort(took)
	t.Logf("p50 %v, p99 %v, p99.9 %v, the slowest %v", took[n/2], took[n*99/100], took[n*999/1000], took[n-1])
	if took[n-1] > pollTime/2 {
		t.Errorf("a message came after %v", took[n-1])
	}
}
