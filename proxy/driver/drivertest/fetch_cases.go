// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var fetchCases = []testCase{
	{name: "Fetch keeps to MaxMessages", run: caseMaxMessages},
	{name: "Fetch keeps to MaxBytes, but for a first message that is larger alone", run: caseMaxBytes},
	{name: "a waiting Fetch gets a message soon after it is sent", run: caseFetchWakes},
	{name: "a Fetch without a message ends with its context's error", run: caseFetchEmpty},
	{name: "the deadline of a delivery is the lease that was asked for, clamped to MaxLease", run: caseDeadline},
	{name: "Fetches cancelled at random moments under load lose nothing", run: caseFetchCancelled},
	{name: "1,000 messages in flight, or as many as the driver takes, are acknowledged in any order and never come again", run: caseManyInFlight},
}

func caseMaxMessages(k *kit) {
	topic, group := k.h.NewTopic(k, 4), k.h.NewGroup(k)
	sent := messages(topic, 30)
	k.sendBatch(k.producer(topic), sent...)
	c := k.consumer(group, topic)
	var got []*driver.Received
	for len(got) < len(sent) {
		rs, err := c.Fetch(k.within(k.facts.Open), driver.FetchRequest{MaxMessages: 7, MaxBytes: 1 << 20, Lease: longLease})
		if err != nil {
			k.Fatalf("Fetch after %d messages: %v", len(got), err)
		}
		if len(rs) > 7 || len(rs) == 0 {
			k.Fatalf("%d messages where at most 7 were asked for", len(rs))
		}
		got = append(got, rs...)
	}
	k.wantSame(sent, got)
	k.ack(c, got...)
}

func caseMaxBytes(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	sent := messages(topic, 12)
	for i, m := range sent {
		m.Body = []byte(strings.Repeat("x", 1000+i))
	}
	sent[5].Body = []byte(strings.Repeat("y", 100_000))
	k.send(k.producer(topic), sent...)
	c := k.consumer(group, topic)
	const limit = 4000
	var got []*driver.Received
	for len(got) < len(sent) {
		rs, err := c.Fetch(k.within(k.facts.Open), driver.FetchRequest{MaxMessages: 32, MaxBytes: limit, Lease: longLease})
		if err != nil {
			k.Fatalf("Fetch after %d messages: %v", len(got), err)
		}
		var size int64
		for _, r := range rs {
			size += r.Bytes()
		}
		if len(rs) > 1 && size > limit+k.facts.ByteSlack {
			k.Fatalf("%d messages with %d bytes where %d were asked for", len(rs), size, limit)
		}
		got = append(got, rs...)
	}
	k.wantSame(sent, got)
	k.ack(c, got...)
}

func caseFetchWakes(k *kit) {
	topic, group := k.h.NewTopic(k, 4), k.h.NewGroup(k)
	p, c := k.producer(topic), k.consumer(group, topic)
	for range 5 {
		m := message(topic)
		waiting := k.fetching(c)
		k.send(p, m)
		stored := time.Now()
		got := <-waiting
		if got.err != nil || len(got.messages) != 1 || got.messages[0].ID != m.ID {
			k.Fatalf("a waiting Fetch answered %d messages and %v", len(got.messages), got.err)
		}
		if waited := time.Since(stored); waited > k.facts.Late+k.facts.Quiet {
			k.Errorf("the message came %v after it was stored", waited)
		}
		k.ack(c, got.messages...)
	}
}

func caseFetchEmpty(k *kit) {
	c := k.consumer(k.h.NewGroup(k), k.h.NewTopic(k, 1))
	k.fetchNone(c, k.facts.Quiet, "the topic is empty")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	rs, err := c.Fetch(ctx, driver.FetchRequest{MaxMessages: 1, MaxBytes: 1 << 20, Lease: longLease})
	if len(rs) != 0 || !errors.Is(err, context.Canceled) {
		k.Errorf("a cancelled Fetch of an empty topic answered %d messages and %v", len(rs), err)
	}
}

func caseDeadline(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	k.send(k.producer(topic), messages(topic, 2)...)
	c := k.consumer(group, topic)
	for _, lease := range []time.Duration{longLease, k.caps.MaxLease + time.Hour} {
		before := time.Now()
		r := k.fetch(c, 1, lease)[0]
		want := min(lease, k.caps.MaxLease)
		if early := before.Add(want).Sub(r.Deadline); early > k.facts.Early {
			k.Errorf("lease %v: the deadline is %v too early", lease, early)
		}
		if late := r.Deadline.Sub(time.Now().Add(want)); late > k.facts.Late {
			k.Errorf("lease %v: the deadline is %v too late", lease, late)
		}
		k.ack(c, r)
	}
}

func caseFetchCancelled(k *kit) {
	const rounds, perRound = 500, 4
	topic, group := k.h.NewTopic(k, 4), k.h.NewGroup(k)
	p, c := k.producer(topic), k.consumer(group, topic)
	sent := messages(topic, rounds*perRound)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := 0; i < len(sent); i += perRound {
			for _, r := range p.Send(k.within(k.facts.Open), topic, sent[i:i+perRound]) {
				if r.Err != nil {
					k.Errorf("send: %v", r.Err)
				}
			}
		}
	})
	random := rand.New(rand.NewPCG(1, 2))
	var got []*driver.Received
	take := func(ctx context.Context) {
		rs, err := c.Fetch(ctx, driver.FetchRequest{MaxMessages: 3, MaxBytes: 1 << 20, Lease: longLease})
		if err != nil && (len(rs) > 0 || ctx.Err() == nil) {
			k.Fatalf("Fetch answered %d messages and %v", len(rs), err)
		}
		got = append(got, rs...)
		k.ack(c, rs...)
	}
	for range rounds {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.Int64N(int64(8*time.Millisecond))))
		take(ctx)
		cancel()
	}
	for end := k.within(2 * k.facts.Open); len(got) < len(sent) && end.Err() == nil; {
		take(end)
	}
	k.wantSame(sent, got)
	k.fetchNone(c, k.facts.Quiet, "everything is acknowledged")
}

func caseManyInFlight(k *kit) {
	const queues, chunk = 4, 25
	n := 1000
	if k.facts.InFlightPerQueue > 0 {
		n = min(n, queues*k.facts.InFlightPerQueue/chunk*chunk)
	}
	topic, group := k.h.NewTopic(k, queues), k.h.NewGroup(k)
	p, c := k.producer(topic), k.consumer(group, topic)
	sent := messages(topic, n)
	k.send(p, sent...) // one by one, so that every queue has its share
	got := k.fetchWithin(c, n, longLease, 3*k.facts.Open)
	k.wantSame(sent, got)
	rand.New(rand.NewPCG(3, 4)).Shuffle(n, func(i, j int) { got[i], got[j] = got[j], got[i] })
	var wg sync.WaitGroup
	for i := 0; i < n; i += chunk {
		wg.Go(func() {
			for _, err := range c.Ack(k.within(k.facts.Open), handles(got[i:i+chunk])) {
				if err != nil {
					k.Errorf("ack: %v", err)
				}
			}
		})
	}
	wg.Wait()
	k.noErrors("a repeated Ack", c.Ack(k.within(k.facts.Open), handles(got[:10])), 10)
	k.closing("consumer", c)
	k.fetchNone(k.consumer(group, topic), k.facts.Quiet+k.facts.Late, "everything is acknowledged, also after a reopen")
}
