// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// TestAFloodedProducerFillsItsPartOfTheConnectionOnly: of what it sends, 2 MiB are on their way and the rest waits for its turn, within its caller's time;
// another producer's messages pass.
func TestAFloodedProducerFillsItsPartOfTheConnectionOnly(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere("loud", 4)
	f.everywhere("quiet", 4)
	cfg := f.config("loud")
	cfg.CompressAbove, cfg.SendTimeout, cfg.Retries = 0, 2*time.Second, 0
	loud, quiet := f.producer(cfg), f.producer(f.config("quiet"))
	a := f.brokers["a"]
	arrived := make(chan string, 100)
	a.replying(func(cmd *wire.Command, ids []string) (*wire.Command, bool) {
		if cmd.Fields["b"] == "loud" {
			arrived <- ids[0]
			return nil, true // no answer
		}
		return nil, false
	})
	big := func() *driver.Message {
		m := messages("loud", 1)[0]
		m.Body = make([]byte, 700<<10)
		_, _ = rand.Read(m.Body)
		return m
	}
	var all sync.WaitGroup
	results := make([]error, 8)
	for i := range results {
		all.Go(func() { results[i] = loud.Send(within(t, time.Minute), "loud", []*driver.Message{big()})[0].Err })
	}
	<-arrived
	<-arrived
	send(t, quiet, "quiet", 3)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantReason(t, "a send whose time ends while it waits for its turn", loud.Send(ctx, "loud", []*driver.Message{big()})[0].Err, driver.Timeout)
	if n := len(arrived); n != 0 {
		t.Errorf("%d more requests are at the broker, want the 2 that fit in 2 MiB", n)
	}
	a.replying(nil)
	all.Wait()
	late := 0
	for i, err := range results {
		if driver.ReasonOf(err) == driver.Timeout {
			late++ // those that the broker did not answer
		} else if err != nil {
			t.Errorf("send %d: %v", i, err)
		}
	}
	if late != 2 {
		t.Errorf("%d sends were not answered in time, want the 2 that were at the broker", late)
	}
	larger := big()
	larger.Body = make([]byte, 3<<20)
	if err := loud.Send(within(t, time.Minute), "loud", []*driver.Message{larger})[0].Err; err != nil {
		t.Errorf("a message larger than the whole part: %v", err)
	}
}

func TestCloseEndsWhatWaitsForItsTurn(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere("loud", 4)
	p := f.producer(f.config("loud"))
	if !p.allowed.air.TryAcquire(airBytes) || !p.allowed.cores.TryAcquire(1) {
		t.Fatal("something is under way")
	}
	var all sync.WaitGroup
	for _, size := range []int{10, 2 * largeBody} { // one waits for the connection, the other for a core
		m := messages("loud", 1)[0]
		m.Body = make([]byte, size)
		all.Go(func() {
			wantReason(t, "a send that waits while the producer closes", p.Send(context.Background(), "loud", []*driver.Message{m})[0].Err, driver.Closed)
		})
	}
	mustClose(t, p)
	all.Wait()
}
