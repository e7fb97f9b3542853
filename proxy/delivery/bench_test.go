// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// endless is a driver that costs next to nothing: what the benchmarks measure is the window.
type endless struct {
	*fakeBroker
	msgs []driver.Received
	next int
}

func (e *endless) Fetch(_ context.Context, req driver.FetchRequest) ([]*driver.Received, error) {
	n := min(req.MaxMessages, 256)
	out := make([]*driver.Received, n)
	deadline := time.Now().Add(req.Lease)
	for i := range out {
		m := &e.msgs[e.next%len(e.msgs)]
		e.next++
		m.Deadline = deadline
		out[i] = m
	}
	return out, nil
}

func (e *endless) Ack(_ context.Context, handles []driver.Handle) []error {
	return make([]error, len(handles))
}

func newEndless() *endless {
	e := &endless{fakeBroker: newBroker(), msgs: make([]driver.Received, 20000)}
	for i := range e.msgs {
		e.msgs[i] = driver.Received{Message: driver.Message{ID: "7F000001ABCD18B4AAC21A2B3C4D0001", Topic: "t", Body: make([]byte, 1024)}, Handle: "broker-a:3:123456789:1764000000000", Attempt: 1}
	}
	return e
}

// cpuPerOp reports the process's CPU time per operation: on a machine that others use too, it is what can be compared.
func cpuPerOp(b *testing.B) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}

// BenchmarkTakeWrittenAck is the whole way of a delivery but the driver, in frames of 64.
func BenchmarkTakeWrittenAck(b *testing.B) {
	g := newRig(b, Settings{MaxInFlight: 10000})
	g.consumer = newEndless()
	r := g.attach(b, ReceiverOptions{MaxMessages: 1024})
	b.ReportAllocs()
	b.ResetTimer()
	defer cpuPerOp(b)()
	for done := 0; done < b.N; {
		ds := r.Take(64, 0)
		if len(ds) == 0 {
			<-r.Ready()
			continue
		}
		r.Written(ds)
		g.ack(b, ds...)
		done += len(ds)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
}

// BenchmarkAckOne is an ack call with a single token.
func BenchmarkAckOne(b *testing.B) {
	g := newRig(b, Settings{MaxInFlight: 10000})
	g.consumer = newEndless()
	r := g.attach(b, ReceiverOptions{MaxMessages: 1024})
	b.ReportAllocs()
	b.ResetTimer()
	defer cpuPerOp(b)()
	for done := 0; done < b.N; {
		ds := r.Take(64, 0)
		if len(ds) == 0 {
			<-r.Ready()
			continue
		}
		r.Written(ds)
		for _, d := range ds {
			g.ack(b, d)
		}
		done += len(ds)
	}
}

func BenchmarkSeal(b *testing.B) {
	s := sealerOf(b, testKey)
	o := newOrigin(Origin{"0b3f6a44-5b0e-4a3c-9c55-2a1a7a2f0b11", "proxy-7c9d8b6f5d-x2x7k.3c1e", "9f8e7d6c5b4a"}, 12)
	b.ReportAllocs()
	defer cpuPerOp(b)()
	for b.Loop() {
		if _, err := s.sealContent(o.prefix, &content{id: 123456, deadline: 1764000000000000000, handle: "broker-a:3:123456789:1764000000000"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	s := sealerOf(b, testKey)
	o := newOrigin(Origin{"0b3f6a44-5b0e-4a3c-9c55-2a1a7a2f0b11", "proxy-7c9d8b6f5d-x2x7k.3c1e", "9f8e7d6c5b4a"}, 12)
	token, err := s.sealContent(o.prefix, &content{id: 123456, deadline: 1764000000000000000, handle: "broker-a:3:123456789:1764000000000"})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	defer cpuPerOp(b)()
	for b.Loop() {
		if _, err := s.openContent(token, o); err != nil {
			b.Fatal(err)
		}
	}
}
