// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// world is a proxy with one RocketMQ.
type world struct {
	*proxytest.Rig
	// topic is the topic of the objects called name; it exists.
	topic func(name string) string
	// forget removes what RocketMQ itself keeps for them.
	forget func(name string)
}

// size is what a process must come back to.
type size struct {
	goroutines, files int
	heap              uint64
}

func measure(t *testing.T, r *proxytest.Rig) size {
	t.Helper()
	r.Metrics.ForgetGone() // as each audit does
	r.Log.Clear()
	runtime.GC()
	runtime.GC() // the second one frees what finalizers and pools kept
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("descriptors are counted by /proc: %v", err)
	}
	return size{runtime.NumGoroutine(), len(files), m.HeapAlloc}
}

// TestD11AThousandLivesAndTenThousandStreamsLeaveNothing is tests.md D11 on the memory driver: create, use and delete objects, open and close streams,
// and be as large as before.
func TestD11AThousandLivesAndTenThousandStreamsLeaveNothing(t *testing.T) {
	r := world{Rig: proxytest.New(t, proxytest.Options{})}
	r.topic = func(name string) string { return name }
	r.forget = func(name string) {
		r.Broker.DeleteGroup("", proxytest.Namespace+"_"+name)
		r.Broker.DeleteTopic("", name)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cycles(ctx, t, r, "warm", 100)
	// As many at once as later: the runtime keeps a descriptor for each goroutine of the peak.
	streams(ctx, t, r, "warm-streams", 3000)
	before := measure(t, r.Rig)

	cycles(ctx, t, r, "c", 1000)
	streams(ctx, t, r, "streams", 10000)
	var after size
	defer func() { t.Logf("before %+v, after %+v", before, after) }()
	r.Eventually("goroutines, descriptors and heap are back within 1 % and a constant", func() bool {
		after = measure(t, r.Rig)
		return after.goroutines <= before.goroutines+before.goroutines/100+2 && after.files <= before.files+before.files/100+2 &&
			after.heap <= before.heap+before.heap/100+2<<20
	})
}

// cycles runs n lives of a Producer and a Consumer, four at a time: create, send, receive, acknowledge, delete.
func cycles(ctx context.Context, t *testing.T, r world, prefix string, n int) {
	t.Helper()
	inTurns(4, n, func(i int) {
		name := fmt.Sprintf("%s-%d", prefix, i)
		producer, consumer := r.AddProducer(name, r.topic(name)), r.AddConsumer(name, r.topic(name))
		r.Send(name, "hello")
		receiveOne(ctx, t, r, name)
		remove(r, name, producer, consumer)
		if i%50 == 0 {
			r.Metrics.ForgetGone() // maps never shrink: between two audits there are no thousand lives
		}
	})
}

// streams opens and closes n streams of one Consumer, sixteen at a time. It has no messages: one that is given to a stream which closes at once stays
// leased to its deadline, as promised.
func streams(ctx context.Context, t *testing.T, r world, name string, n int) {
	t.Helper()
	consumer := r.AddConsumer(name, r.topic(name))
	inTurns(16, n, func(i int) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := r.Consumers().Receive(ctx)
		if err == nil {
			err = s.Send(&pb.ReceiveRequest{Namespace: proxytest.Namespace, Consumer: name, MaxOutstandingMessages: 1})
		}
		if err != nil {
			t.Errorf("stream %d: %v", i, err)
		}
	})
	r.Eventually("the streams' uses are released", func() bool { return r.Uses(consumer) == 0 })
	remove(r, name, consumer)
}

// remove deletes objects, and then what RocketMQ itself keeps of the group and the topic called name.
func remove(r world, name string, keys ...registry.Key) {
	for _, key := range keys {
		r.Eventually(key.String()+" is released", func() bool { done, _ := r.Registry.Release(key, "test"); return done })
		r.Registry.Forget(key)
	}
	r.forget(name)
}

// receiveOne takes and acknowledges one message by a stream of its own.
func receiveOne(ctx context.Context, t *testing.T, r world, consumer string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := r.Consumers().Receive(ctx)
	if err == nil {
		err = s.Send(&pb.ReceiveRequest{Namespace: proxytest.Namespace, Consumer: consumer, MaxOutstandingMessages: 1})
	}
	var tokens []string
	for err == nil && len(tokens) == 0 {
		var frame *pb.ReceiveResponse
		frame, err = s.Recv()
		for _, d := range frame.GetDeliveries() {
			tokens = append(tokens, d.GetAckToken())
		}
	}
	if err != nil {
		t.Errorf("receive through %s: %v", consumer, err)
		return
	}
	answer, err := r.Consumers().Ack(ctx, &pb.AckRequest{Namespace: proxytest.Namespace, Consumer: consumer, AckTokens: tokens})
	if err != nil || answer.GetResults()[0].GetOutcome() != pb.TokenResult_OK {
		t.Errorf("acknowledge through %s: %v %v", consumer, answer, err)
	}
}

// inTurns calls do for 0 to n-1 from width goroutines.
func inTurns(width, n int, do func(int)) {
	var wg sync.WaitGroup
	for w := range width {
		wg.Go(func() {
			for i := w; i < n; i += width {
				do(i)
			}
		})
	}
	wg.Wait()
}
