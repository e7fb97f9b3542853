// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/test/load"
)

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

// sample is the operator's size after a cycle.
type sample struct {
	goroutines, leftovers, sockets float64
	heap                           float64
}

// TestSeedReport_ProducersAndConsumersThatAreDeletedLeaveNothing is the report's first row as tests.md D11: create, use, delete, again and
// again; the slope of what stays is zero but for the leftovers of the library, which are counted by name.
func TestSeedReport_ProducersAndConsumersThatAreDeletedLeaveNothing(t *testing.T) {
	c := start(t)
	// One leaked goroutine or socket a cycle must be seen even in few cycles; the long form sees one in twenty.
	cycles, limit, heapLimit := 24, 0.25, 256*1024.0
	if long() {
		cycles, limit, heapLimit = 200, 0.05, 64*1024 // 40 KiB are the library's, pinned by cleanExpiredMsg
	}
	// Two audits with this pause see what stays for longer than the library is known to need; a leak is an error in the log.
	op := c.operator(t, localenv.OperatorOptions{ExtraArgs: []string{"--audit-interval=40s"}})
	topic := c.topic(t, 4)
	connection := c.dial(t, op)
	var samples []sample
	for range cycles / cyclesAtOnce {
		c.cycles(t, connection, "ClientGo", topic)
		samples = append(samples, c.sample(t, op))
	}
	half := samples[len(samples)/4:] // pools and caches fill in the first quarter
	report := func(what string, value func(sample) float64, limit float64) {
		slope := slope(half, value) / cyclesAtOnce
		t.Logf("%s: %.3f a cycle (from %.0f to %.0f)", what, slope, value(half[0]), value(half[len(half)-1]))
		if slope > limit {
			t.Errorf("%s grow by %.3f a cycle, limit %.3f", what, slope, limit)
		}
	}
	report("goroutines without the library's named leftovers", func(s sample) float64 { return s.goroutines - s.leftovers }, limit)
	report("named leftovers of the library", func(s sample) float64 { return s.leftovers }, math.Inf(1)) // told, not judged
	report("sockets", func(s sample) float64 { return s.sockets }, limit)
	report("live heap bytes", func(s sample) float64 { return s.heap }, heapLimit)
}

// TestNothingOfRemotingStaysWhenTheLastObjectIsGone: our own client leaves nothing, not for a moment: when a delete has returned, no connection to RocketMQ is
// open, and the goroutines are those of before. proxy's TestD11... has the great numbers and the heap, in one process with goleak.
func TestNothingOfRemotingStaysWhenTheLastObjectIsGone(t *testing.T) {
	c := start(t)
	cycles := 12
	if long() {
		cycles = 200
	}
	op := c.operator(t, localenv.OperatorOptions{ExtraArgs: []string{"--audit-interval=40s"}})
	topic, connection := c.topic(t, 4), c.dial(t, op)
	c.cycles(t, connection, "Remoting", topic) // what is made once: caches, the API server's connections
	before := c.sample(t, op)
	for range cycles / cyclesAtOnce {
		c.cycles(t, connection, "Remoting", topic)
		after := c.sample(t, op)
		if after.goroutines > before.goroutines+before.goroutines/100+3 { // the metrics' own connection and collectors come and go
			t.Errorf("%.0f goroutines, before it were %.0f", after.goroutines, before.goroutines)
		}
		for _, address := range []string{c.broker.BrokerAddr(), c.broker.NameServers()[0]} {
			left, err := connectionsTo(op.PID(), address)
			must(t, err)
			if len(left) > 0 {
				t.Errorf("%d connections to %s are open without an object", len(left), address)
			}
		}
	}
	t.Logf("%d cycles: before %+v, after %+v", cycles, before, c.sample(t, op))
}

// cyclesAtOnce is how many cycles run side by side.
const cyclesAtOnce = 4

// cycles runs cyclesAtOnce cycles.
func (c *cluster) cycles(t *testing.T, connection *grpc.ClientConn, driver, topic string) {
	t.Helper()
	var all sync.WaitGroup
	for i := range cyclesAtOnce {
		all.Go(func() {
			c.cycle(t, connection, driver, fmt.Sprintf("cycle-%d-%d", i, time.Now().UnixNano()%1e9), topic)
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// cycle is one life: apply, send, receive, acknowledge, delete.
func (c *cluster) cycle(t *testing.T, connection *grpc.ClientConn, driver, name, topic string) {
	object, ledger := load.Object{Namespace: namespace, Name: name}, load.NewLedger()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	err := func() error {
		if err := c.control.Apply(ctx, producer(name, topic, "driver: "+driver)+"---\n"+manifest("Consumer", name, []string{
			"driver: " + driver, "group: g_" + name, "subscriptions: [{topic: " + topic + ", filter: {tag: none}}]",
		})); err != nil {
			return err
		}
		if err := c.control.Kubectl(ctx, discard{}, "wait", "-n", namespace, "--for=condition=Ready", "--timeout=60s", "rmqp/"+name, "rmqc/"+name); err != nil {
			return err
		}
		if err := load.Send(ctx, connection, ledger, load.SendOptions{Producer: object, Prefix: name, Messages: 20, Callers: 4, Bytes: 256}); err != nil {
			return err
		}
		receive, stop := context.WithTimeout(ctx, 200*time.Millisecond)
		defer stop()
		if err := load.Receive(receive, connection, ledger, load.ReceiveOptions{Consumer: object, Outstanding: 10}); err != nil {
			return err
		}
		return c.control.Kubectl(ctx, discard{}, "delete", "-n", namespace, "--timeout=60s", "rmqp/"+name, "rmqc/"+name)
	}()
	if err != nil {
		t.Errorf("cycle %s: %v", name, err)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func (c *cluster) sample(t *testing.T, op *localenv.Operator) sample {
	t.Helper()
	metrics, err := op.Metrics(t.Context(), c.monToken)
	must(t, err)
	sockets, err := descriptors(op.PID(), "socket:")
	must(t, err)
	spare := metrics["go_gc_gogc_percent"] / 100
	return sample{
		goroutines: metrics["go_goroutines"], sockets: float64(sockets),
		// The collector's goal is what was alive at its last run, and so much more of it and of the stacks; garbage is no leak.
		heap:      (metrics["go_memstats_next_gc_bytes"] - spare*metrics["go_memstats_stack_inuse_bytes"]) / (1 + spare),
		leftovers: localenv.Sum(metrics, "rocketmq_proxy_library_leftovers"),
	}
}

// slope is the least-squares slope of value over the samples' index.
func slope(samples []sample, value func(sample) float64) float64 {
	n := float64(len(samples))
	var sx, sy, sxx, sxy float64
	for i, s := range samples {
		x, y := float64(i), value(s)
		sx, sy, sxx, sxy = sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}
