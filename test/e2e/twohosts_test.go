// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/test/load"
)

// hosts are two operator processes on one API server and one broker.
type hosts struct {
	t       *testing.T
	c       *cluster
	options [2]localenv.OperatorOptions
	ops     [2]*localenv.Operator
}

func startHosts(t *testing.T, c *cluster) *hosts {
	t.Helper()
	h := &hosts{t: t, c: c}
	for i := range h.ops {
		h.options[i].HostID = fmt.Sprintf("%s-%c", unique(t), 'a'+i)
		h.ops[i] = c.operator(t, h.options[i])
		h.options[i].Ports = h.ops[i].Ports
	}
	return h
}

// again starts a host that has ended: the same host, another incarnation, the same addresses.
func (h *hosts) again(i int) {
	h.t.Helper()
	h.ops[i] = h.c.operator(h.t, h.options[i])
}

// dial makes a connection on which every call and stream goes to the next host, and waits until both hosts have it.
func (h *hosts) dial() *grpc.ClientConn {
	h.t.Helper()
	connection, err := localenv.DialHosts(h.c.appToken, h.ops[:]...)
	must(h.t, err)
	h.t.Cleanup(func() { _ = connection.Close() })
	connection.Connect()
	for _, op := range h.ops {
		eventually(h.t, 30*time.Second, "the connection reaches both hosts", func() error {
			samples, err := op.Metrics(h.t.Context(), h.c.monToken)
			if err == nil && samples[`rocketmq_proxy_connections{protocol="grpc"}`] < 1 {
				err = errors.New("no connection")
			}
			return err
		})
	}
	return connection
}

// deliveries counts what each host has written to receivers of a Consumer since it started.
func (h *hosts) deliveries(consumer string) (n [2]float64) {
	h.t.Helper()
	for i, op := range h.ops {
		samples, err := op.Metrics(h.t.Context(), h.c.monToken)
		must(h.t, err)
		n[i] = samples[fmt.Sprintf("rocketmq_proxy_deliveries_total{name=%q,namespace=%q}", consumer, namespace)]
	}
	return n
}

// begin starts a load on both hosts without sticky connections: two streams on each host, and two callers of Pull and Ack whose calls go to the hosts
// in turns, so that half of what they take is acknowledged through the host that did not deliver it.
func (h *hosts) begin() *traffic {
	h.t.Helper()
	f := planTraffic(h.t, h.c, h.ops[0])
	f.connection = h.dial()
	f.begin(4, func() *grpc.ClientConn { return f.connection })
	ctx, stop := context.WithCancel(h.t.Context())
	for range 2 {
		f.receive(ctx, load.Pull, f.connection)
	}
	stopStreams := f.stop
	f.stop = func() { stop(); stopStreams() }
	h.t.Cleanup(stop)
	return f
}

// shared waits until both hosts had a fair part of so many more deliveries.
func (h *hosts) shared(f *traffic, more int) {
	h.t.Helper()
	before := h.deliveries(f.name)
	f.awaitAcked(more)
	after := h.deliveries(f.name)
	a, b := after[0]-before[0], after[1]-before[1]
	if least := min(a, b); least < (a+b)/5 {
		h.t.Errorf("the hosts' parts are %.0f and %.0f deliveries; each should have a fifth at least", a, b)
	}
	h.t.Logf("the hosts' parts: %.0f and %.0f deliveries", a, b)
}

// TestTwoHostsShareAConsumerAndEitherMayBeKilled: both serve one Consumer; each in turn is killed with SIGKILL under load, and comes back; then both are
// replaced in turn with a drain, as a rolling update does (tests.md D2). What a dead or draining host had delivered is acknowledged through the other one.
// Nothing that was acknowledged to a sender is lost, nothing that was acknowledged comes again, and objects can be deleted all the while.
func TestTwoHostsShareAConsumerAndEitherMayBeKilled(t *testing.T) {
	c := start(t)
	h := startHosts(t, c)
	f := h.begin()
	const messages = 1000
	rounds := 1
	if long() {
		rounds = 10
	}
	finish := f.sendInBackground(f.sends(math.MaxInt, 16, 10*time.Millisecond))
	h.shared(f, messages)
	for round := range rounds {
		for i := range h.ops {
			must(t, h.ops[i].Kill())
			f.awaitAcked(messages)
			h.again(i)
		}
		f.awaitAcked(messages)
		h.comesAndGoes(fmt.Sprintf("%s-%d", f.name, round), f.topic)
		for i := range h.ops {
			must(t, h.ops[i].Stop())
			h.again(i)
			f.awaitAcked(messages / 2)
		}
		t.Logf("round %d: each host was killed and drained once: %+v", round+1, f.ledger.Counts())
	}
	finish()
	f.nothingAgain()
	f.finish()
}

// comesAndGoes creates and deletes a pair of objects while both hosts run; a delete needs the word of both.
func (h *hosts) comesAndGoes(name, topic string) {
	h.t.Helper()
	h.c.apply(h.t, producer(name, topic), consumer(name, "g_"+name, topic))
	h.c.waitReady(h.t, "rmqp/"+name, "rmqc/"+name)
	if took := h.c.delete(h.t, "rmqp/"+name, "rmqc/"+name); took > 20*time.Second {
		h.t.Errorf("a delete took %s while two hosts run", took)
	}
}
