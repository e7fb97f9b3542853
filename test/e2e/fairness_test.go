// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

// TestAFloodOnOneObjectLeavesTheOthersFast: a Producer and a Consumer are flooded by many callers with small and with large messages; another pair on
// the same host, with a message each 20 ms, keeps its latency: p99 at most twice what it was alone, with a floor of half a second (tests.md, D9).
func TestAFloodOnOneObjectLeavesTheOthersFast(t *testing.T) {
	c := start(t)
	op := c.operator(t, localenv.OperatorOptions{})
	alone, flooded := 2*time.Second, 4*time.Second
	if long() {
		alone, flooded = 20*time.Second, time.Minute
	}
	onDrivers(t, func(t *testing.T, driver string) { fairness(t, c, op, driver, alone, flooded) })
}

func fairness(t *testing.T, c *cluster, op *localenv.Operator, driver string, alone, flooded time.Duration) {
	t.Helper()
	quiet, loud := unique(t)+"-q", unique(t)+"-l"
	for _, name := range []string{quiet, loud} {
		topic := c.topic(t, 4)
		c.apply(t, producer(name, topic, "driver: "+driver), consumer(name, "g_"+name, topic, "driver: "+driver, "drainTimeoutSeconds: 1"))
	}
	c.waitReady(t, "rmqp/"+quiet, "rmqc/"+quiet, "rmqp/"+loud, "rmqc/"+loud)
	probe := &latencies{name: quiet, connection: c.dial(t, op)}
	probe.measure(t, time.Second) // routes, groups and the broker's caches
	before := probe.measure(t, alone)

	ctx, stop := context.WithCancel(t.Context())
	f := &flood{name: loud}
	f.start(ctx, func() *grpc.ClientConn { return c.dial(t, op) })
	during := probe.measure(t, flooded)
	stop()
	f.wait()
	limit := max(2*before.whole, fairnessFloor())
	t.Logf("alone: %s; beside %d messages and %d MiB sent, %d delivered: %s", before, f.sent.Load(), f.bytes.Load()>>20, f.delivered.Load(), during)
	if during.send > limit || during.whole > limit {
		t.Errorf("p99 beside the flood: %s, want at most %s", during, limit)
	}
	if f.sent.Load() < 1000 || f.delivered.Load() == 0 {
		t.Errorf("that was no flood: %d messages sent, %d delivered", f.sent.Load(), f.delivered.Load())
	}
	c.delete(t, "rmqp/"+quiet, "rmqc/"+quiet, "rmqp/"+loud, "rmqc/"+loud)
}

// fairnessFloor is tests.md's half a second. The race detector makes the operator several times slower, compression most of all, and the flood, which is not
// slower, takes all of the processor then: the exact figure is for E2E_RACE=0.
func fairnessFloor() time.Duration {
	if raced() {
		return 2 * time.Second
	}
	return 500 * time.Millisecond
}

// latencies measures one pair of objects with little traffic.
type latencies struct {
	name       string
	connection *grpc.ClientConn
}

// p99 are of a send's answer, and from the send to the delivery.
type p99 struct {
	send, whole time.Duration
	n           int
}

func (p p99) String() string {
	return "p99 of " + p.send.Round(100*time.Microsecond).String() + " for a send, " + p.whole.Round(100*time.Microsecond).String() + " to the delivery"
}

// measure sends a message each 20 ms for d, and waits until all have come.
func (l *latencies) measure(t *testing.T, d time.Duration) p99 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d+time.Minute)
	defer cancel()
	stream, err := proxyv1alpha1.NewConsumerServiceClient(l.connection).Receive(ctx)
	must(t, err)
	must(t, stream.Send(&proxyv1alpha1.ReceiveRequest{Namespace: namespace, Consumer: l.name}))
	var mu sync.Mutex
	began, whole := map[string]time.Time{}, []time.Duration{}
	total := atomic.Int64{}
	total.Store(-1)
	var receiver sync.WaitGroup
	receiver.Go(func() {
		defer cancel()
		for {
			frame, err := stream.Recv()
			if err != nil {
				return
			}
			acks := &proxyv1alpha1.ReceiveRequest{}
			mu.Lock()
			for _, d := range frame.GetDeliveries() {
				acks.Acks = append(acks.Acks, d.GetAckToken())
				if at, ours := began[d.GetMessage().GetId()]; ours {
					whole = append(whole, time.Since(at))
					delete(began, d.GetMessage().GetId())
				}
			}
			n := int64(len(whole))
			mu.Unlock()
			if len(acks.Acks) > 0 && stream.Send(acks) != nil || n == total.Load() {
				return
			}
		}
	})
	var sends []time.Duration
	client := proxyv1alpha1.NewProducerServiceClient(l.connection)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	prefix := unique(t)
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		id := prefix + time.Now().Format("-150405.000000000")
		at := time.Now()
		mu.Lock()
		began[id] = at
		mu.Unlock()
		_, err := client.Send(ctx, &proxyv1alpha1.SendRequest{Namespace: namespace, Producer: l.name, Messages: []*proxyv1alpha1.Message{
			{Id: id, Content: &proxyv1alpha1.Message_Text{Text: "probe"}},
		}})
		must(t, err)
		sends = append(sends, time.Since(at))
	}
	mu.Lock()
	total.Store(int64(len(sends)))
	all := len(whole) == len(sends)
	mu.Unlock()
	if all {
		cancel()
	}
	receiver.Wait()
	if len(whole) != len(sends) {
		t.Fatalf("%d of %d probes came", len(whole), len(sends))
	}
	return p99{send: percentile99(sends), whole: percentile99(whole), n: len(sends)}
}

func percentile99(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)*99/100]
}

// flood is more traffic for one pair of objects than they can carry.
type flood struct {
	name                   string
	callers                sync.WaitGroup
	sent, bytes, delivered atomic.Int64
}

// start begins with 128 callers of small batches, 16 of messages of 1 MiB, and 8 receivers of which half never acknowledge, on 8 connections.
func (f *flood) start(ctx context.Context, dial func() *grpc.ClientConn) {
	large := make([]byte, 1<<20)
	for i := range large {
		large[i] = byte(rand.Uint32())
	}
	for i := range 8 {
		connection := dial()
		for range 16 {
			f.callers.Go(func() { f.send(ctx, connection, 32, large[:1024]) })
		}
		for range 2 {
			f.callers.Go(func() { f.send(ctx, connection, 1, large) })
		}
		f.callers.Go(func() { f.receive(ctx, connection, i%2 == 0) })
	}
}

func (f *flood) wait() { f.callers.Wait() }

func (f *flood) send(ctx context.Context, connection *grpc.ClientConn, n int, body []byte) {
	client := proxyv1alpha1.NewProducerServiceClient(connection)
	req := &proxyv1alpha1.SendRequest{Namespace: namespace, Producer: f.name}
	for range n {
		req.Messages = append(req.Messages, &proxyv1alpha1.Message{Content: &proxyv1alpha1.Message_Body{Body: body}})
	}
	for ctx.Err() == nil {
		answer, err := client.Send(ctx, req)
		if err != nil {
			continue // a flood is refused now and then
		}
		for _, r := range answer.GetResults() {
			if r.GetError() == nil {
				f.sent.Add(1)
				f.bytes.Add(int64(len(body)))
			}
		}
	}
}

func (f *flood) receive(ctx context.Context, connection *grpc.ClientConn, acks bool) {
	for ctx.Err() == nil {
		stream, err := proxyv1alpha1.NewConsumerServiceClient(connection).Receive(ctx)
		if err != nil || stream.Send(&proxyv1alpha1.ReceiveRequest{Namespace: namespace, Consumer: f.name}) != nil {
			continue
		}
		for {
			frame, err := stream.Recv()
			if err != nil {
				break
			}
			f.delivered.Add(int64(len(frame.GetDeliveries())))
			req := &proxyv1alpha1.ReceiveRequest{}
			for _, d := range frame.GetDeliveries() {
				req.Acks = append(req.Acks, d.GetAckToken())
			}
			if acks && len(req.Acks) > 0 && stream.Send(req) != nil {
				break
			}
		}
	}
}
