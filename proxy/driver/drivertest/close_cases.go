// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"context"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var closeCases = []testCase{
	{name: "Close during sends answers everyone, and what was answered OK is stored", run: caseCloseDuringSends},
	{name: "Close ends a waiting Fetch with ErrClosed", run: caseCloseDuringFetch},
	{name: "Close works twice, at once and on clients that never worked", run: caseCloseTwice},
	{name: "after Close every call answers ErrClosed", run: caseAfterClose},
	{name: "Close gives back what is leased: the next member gets it", run: caseCloseGivesBack},
	{name: "what is leased when the consumer closes is acknowledged through the next member, or comes again at its deadline", run: caseCloseKeepsLeases},
	{name: "consumers closed and reopened under load lose nothing", long: true, run: caseReopenUnderLoad},
}

func (k *kit) ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func caseCloseDuringSends(k *kit) {
	topic := k.h.NewTopic(k, 4)
	p := k.producer(topic)
	var mu sync.Mutex
	stored, offered := map[string]bool{}, map[string]bool{}
	started := make(chan struct{}, 16)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for n := 0; ; n++ {
				m := message(topic)
				r := p.Send(k.within(k.facts.Open), topic, []*driver.Message{m})
				if n == 3 {
					started <- struct{}{}
				}
				mu.Lock()
				offered[m.ID] = true
				stored[m.ID] = r[0].Err == nil
				mu.Unlock()
				if r[0].Err != nil {
					if driver.ReasonOf(r[0].Err) != driver.Closed {
						k.Errorf("a Send during Close must answer ErrClosed: %v", r[0].Err)
					}
					return
				}
			}
		})
	}
	for range 16 {
		<-started
	}
	k.closing("producer", p)
	wg.Wait()
	c := k.consumer(k.h.NewGroup(k), topic)
	want := 0
	for _, ok := range stored {
		if ok {
			want++
		}
	}
	for want > 0 {
		for _, r := range k.fetch(c, 1, longLease) {
			if !offered[r.ID] {
				k.Fatalf("message %s was never sent", r.ID)
			}
			if stored[r.ID] {
				want--
			}
			k.ack(c, r)
		}
	}
}

func caseCloseDuringFetch(k *kit) {
	c := k.consumer(k.h.NewGroup(k), k.h.NewTopic(k, 1))
	waiting := k.fetching(c)
	start := time.Now()
	k.closing("consumer", c)
	got := <-waiting
	if len(got.messages) != 0 {
		k.Fatalf("%d messages from an empty topic", len(got.messages))
	}
	k.want("a Fetch during Close", got.err, driver.Closed)
	if took := time.Since(start); took > k.closeTime() {
		k.Errorf("Close with a Fetch waiting took %v", took)
	}
}

func caseCloseTwice(k *kit) {
	topic := k.h.NewTopic(k, 1)
	for _, what := range []interface{ Close(context.Context) error }{k.producer(topic), k.consumer(k.h.NewGroup(k), topic)} {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := what.Close(k.within(k.closeTime())); err != nil {
					k.Errorf("one of four Closes at once: %v", err)
				}
			})
		}
		wg.Wait()
		k.closing("client, once more", what)
	}
}

func caseAfterClose(k *kit) {
	topic := k.h.NewTopic(k, 1)
	p := k.producer(topic)
	c := k.consumer(k.h.NewGroup(k), topic)
	k.send(p, messages(topic, 2)...)
	r := k.fetch(c, 1, longLease)[0]
	k.closing("producer", p)
	k.closing("consumer", c)
	for _, result := range p.Send(k.within(k.facts.Open), topic, messages(topic, 2)) {
		k.want("Send", result.Err, driver.Closed)
	}
	_, err := c.Fetch(k.within(k.facts.Open), driver.FetchRequest{MaxMessages: 1, MaxBytes: 1 << 20, Lease: longLease})
	k.want("Fetch", err, driver.Closed)
	k.want("Ack", c.Ack(k.within(k.facts.Open), []driver.Handle{r.Handle})[0], driver.Closed)
	k.want("GiveBack", c.GiveBack(k.within(k.facts.Open), []driver.Handle{r.Handle})[0], driver.Closed)
	_, err = c.Nack(k.within(k.facts.Open), r.Handle, 0)
	k.want("Nack", err, driver.Closed)
	_, _, err = c.Extend(k.within(k.facts.Open), r.Handle, longLease)
	k.want("Extend", err, driver.Closed)
	k.want("DeadLetter", c.DeadLetter(k.within(k.facts.Open), r, "closed"), driver.Closed)
	_, err = c.Lag(k.within(k.facts.Open))
	k.want("Lag", err, driver.Closed)
}

func caseCloseGivesBack(k *kit) {
	if k.caps.KeepsLeases {
		k.Skip("this driver leaves what is leased to its deadline")
	}
	topic, group := k.h.NewTopic(k, 2), k.h.NewGroup(k)
	sent := messages(topic, 10)
	k.send(k.producer(topic), sent...)
	c := k.consumer(group, topic)
	got := k.fetch(c, 6, longLease)
	k.ack(c, got[:2]...)
	k.closing("consumer", c)
	next := k.consumer(group, topic)
	rest := k.fetch(next, 8, longLease)
	acked := map[string]bool{got[0].ID: true, got[1].ID: true}
	for _, r := range rest {
		if acked[r.ID] {
			k.Errorf("message %s was acknowledged before an orderly Close and came again", r.ID)
		}
		k.wantAttempt(r, 1)
	}
	k.wantSame(sent, append(rest, got[:2]...))
	k.ack(next, rest...)
}

func caseCloseKeepsLeases(k *kit) {
	if !k.caps.KeepsLeases {
		k.Skip("this driver gives back what is leased")
	}
	topic, group := k.h.NewTopic(k, 2), k.h.NewGroup(k)
	sent := messages(topic, 10)
	k.send(k.producer(topic), sent...)
	c := k.consumer(group, topic)
	kept := k.fetch(c, 6, longLease)
	expiring := k.fetch(c, 1, k.facts.Lease)[0]
	k.closing("consumer", c)
	next := k.consumer(group, topic)
	k.ack(next, kept...)
	rest := k.fetch(next, 4, longLease)
	k.wantSame(sent, append(rest, kept...))
	k.wantBetween("the end of the lease of the one that nobody acknowledged", expiring.Deadline)
	for _, r := range rest {
		k.wantAttempt(r, map[bool]int{true: 2, false: 1}[r.ID == expiring.ID])
	}
	k.ack(next, rest...)
	k.fetchNone(next, k.facts.Late+k.facts.Quiet, "everything is acknowledged")
}

// caseReopenUnderLoad is the shape of the library's Shutdown race (upstream #1051): stops while messages come in.
func caseReopenUnderLoad(k *kit) {
	const rounds = 8
	topic, group := k.h.NewTopic(k, 4), k.h.NewGroup(k)
	p := k.producer(topic)
	sent := messages(topic, 400)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := range sent {
			if r := p.Send(k.within(k.facts.Open), topic, sent[i:i+1]); r[0].Err != nil {
				k.Errorf("send: %v", r[0].Err)
			}
		}
	})
	var got []*driver.Received
	for range rounds {
		c := k.consumer(group, topic)
		rs := k.fetch(c, 20, longLease)
		k.ack(c, rs[:15]...)
		got = append(got, rs[:15]...)
		if k.caps.KeepsLeases {
			k.noErrors("GiveBack", c.GiveBack(k.within(k.facts.Open), handles(rs[15:])), len(rs[15:]))
		}
		k.closing("consumer", c)
	}
	c := k.consumer(group, topic)
	k.wantSame(sent, append(got, k.consume(c, len(sent)-len(got))...))
}
