// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
)

const (
	pacedRate    = 1000 // messages a second
	pacedSenders = 16   // more than are ever needed at once, so that a slow send delays no other
)

// paced measures how long messages take from their sender to a receiver in the same process, at a rate far below what anything here can do. A
// message carries in its body when it was handed to its sender, and whether it counts or is of the warm-up.
type paced struct {
	epoch  time.Time
	counts atomic.Bool

	mu   sync.Mutex // guards took
	took []time.Duration
}

func newPaced() *paced { return &paced{epoch: time.Now()} }

// body is a message of now.
func (p *paced) body() []byte {
	body := make([]byte, bodyBytes)
	binary.BigEndian.PutUint64(body, uint64(time.Since(p.epoch)))
	if p.counts.Load() {
		body[8] = 1
	}
	return body
}

// arrived is told of each message as its receiver gets it.
func (p *paced) arrived(body []byte) {
	now := time.Since(p.epoch)
	if len(body) != bodyBytes || body[8] == 0 {
		return // a probe, or of the warm-up
	}
	born := time.Duration(binary.BigEndian.Uint64(body))
	p.mu.Lock()
	p.took = append(p.took, now-born)
	p.mu.Unlock()
}

func (p *paced) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.took)
}

// run sends for a second to warm up and then for the window, and waits for everything to arrive.
func (p *paced) run(ctx context.Context, window time.Duration, who parties, begins func(), send func(context.Context, []byte) error) (figure, error) {
	if _, err := p.pace(ctx, time.Second, send); err != nil {
		return figure{}, err
	}
	before, err := who.costs()
	if err != nil {
		return figure{}, err
	}
	p.counts.Store(true)
	begins()
	began := time.Now()
	sent, err := p.pace(ctx, window, send)
	if err != nil {
		return figure{}, err
	}
	elapsed := time.Since(began)
	if err := p.await(ctx, sent); err != nil {
		return figure{}, err
	}
	after, err := who.costs()
	if err != nil {
		return figure{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	slices.Sort(p.took)
	n := len(p.took)
	f := figure{Rate: float64(sent) / elapsed.Seconds(), P50: milliseconds(p.took[n/2]), P99: milliseconds(p.took[n*99/100])}
	f.charge(before, after, float64(n))
	return f, nil
}

// pace sends at the rate for so long, late or not, and returns when all sends were answered.
func (p *paced) pace(ctx context.Context, window time.Duration, send func(context.Context, []byte) error) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	due := make(chan struct{}, pacedRate) // a second of delay is an outage and not a delay
	var senders sync.WaitGroup
	for range pacedSenders {
		senders.Go(func() {
			for range due {
				if err := send(ctx, p.body()); err != nil {
					cancel(err)
				}
			}
		})
	}
	began, sent := time.Now(), 0
	for total := int(window.Seconds() * pacedRate); sent < total && ctx.Err() == nil; sent++ {
		time.Sleep(time.Until(began.Add(time.Duration(sent) * time.Second / pacedRate)))
		due <- struct{}{}
	}
	close(due)
	senders.Wait()
	return sent, context.Cause(ctx)
}

// await returns when n messages have arrived.
func (p *paced) await(ctx context.Context, n int) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	late := time.NewTimer(30 * time.Second)
	defer late.Stop()
	for p.count() < n {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return fmt.Errorf("of %d messages %d arrived within 30 s of the last one", n, p.count())
		}
	}
	return nil
}

// pacedProxy sends through a Producer of its own to a Consumer of its own.
func (b *bench) pacedProxy(ctx context.Context, driver string) (figure, error) {
	topic, err := b.freshTopic(ctx)
	if err != nil {
		return figure{}, err
	}
	if err := b.object(ctx, "Producer", topic, "driver: "+driver, "topics: ["+topic+"]"); err != nil {
		return figure{}, err
	}
	if err := b.object(ctx, "Consumer", topic, "driver: "+driver, "group: g_"+topic, "subscriptions: [{topic: "+topic+"}]", "startFrom: Earliest"); err != nil {
		return figure{}, err
	}
	f, err := b.pacedThrough(ctx, topic)
	if err != nil {
		return figure{}, err
	}
	return f, b.remove(ctx, "Producer/"+topic, "Consumer/"+topic)
}

func (b *bench) pacedThrough(ctx context.Context, topic string) (figure, error) {
	streamCtx, cancel := context.WithCancelCause(ctx)
	stream, err := openStream(streamCtx, b.proxies[0], topic, 1024)
	if err != nil {
		cancel(nil)
		return figure{}, err
	}
	p, first, once := newPaced(), make(chan struct{}), sync.Once{}
	var reader sync.WaitGroup
	reader.Go(func() {
		cancel(acknowledge(stream, func(deliveries []*proxyv1alpha1.Delivery) {
			for _, d := range deliveries {
				p.arrived(d.GetMessage().GetBody())
			}
			once.Do(func() { close(first) })
		}))
	})
	defer reader.Wait()
	defer cancel(nil)
	client := proxyv1alpha1.NewProducerServiceClient(b.proxies[1])
	send := func(ctx context.Context, body []byte) error {
		return sendOnce(ctx, client, sendRequest(topic, topic, 1, body))
	}
	if err := probe(streamCtx, first, send); err != nil {
		return figure{}, err
	}
	f, err := p.run(streamCtx, b.window, b.partiesOf(b.proxy()), b.windowBegins, send)
	if cause := context.Cause(streamCtx); err != nil && cause != nil {
		err = cause
	}
	return f, err
}

// probe sends one message, again while the fresh topic is not known everywhere, and waits until first is closed: the whole way works.
func probe(ctx context.Context, first <-chan struct{}, send func(context.Context, []byte) error) error {
	err := untilItWorks(ctx, func(ctx context.Context) (int, error) { return 1, send(ctx, []byte("probe")) })
	if err != nil {
		return err
	}
	select {
	case <-first:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(60 * time.Second):
		return errors.New("the first message did not arrive within 60 s")
	}
}
