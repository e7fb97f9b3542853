// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"sync"
	"testing"
	"time"

	"github.com/apache/rocketmq-client-go/v2/rlog"
	"github.com/go-logr/logr/funcr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// TestTheLibraryIsTheOneThatWeKnow fails when a field that this driver reaches for is gone in another version of the library.
func TestTheLibraryIsTheOneThatWeKnow(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	topic := h.NewTopic(t, 1)
	p, c := h.openProducer(t, h.producerConfig(topic)), h.openConsumer(t, h.consumerConfig(h.NewGroup(t), topic))
	if err := c.reach(c.library); err != nil {
		t.Error(err)
	}
	if _, err := fieldAs[*sync.Map](c.library, "defaultConsumer", "processQueueTable"); err != nil {
		t.Error(err)
	}
	if err := p.learnRoutes(t.Context()); err != nil {
		t.Error(err)
	}
	// On clients that run: closing the name server's connection must do no harm, the library makes a new one.
	if err := closeNameServer(p.library, "client"); err != nil {
		t.Error(err)
	}
	if err := closeNameServer(c.library, nameServerOfConsumer...); err != nil {
		t.Error(err)
	}
	sendSome(t, p, topic, 3)
	acknowledge(t, c, receive(t, c, 3, time.Minute)...)
}

func TestFieldSaysWhatIsMissing(t *testing.T) {
	type inner struct{ N int }
	outer := &struct{ in *inner }{&inner{N: 7}}
	if n, err := fieldAs[int](outer, "in", "N"); err != nil || n != 7 {
		t.Errorf("got %d, %v", n, err)
	}
	for _, path := range [][]string{{"gone"}, {"in", "gone"}, {"in", "N", "deeper"}} {
		if v, err := field(outer, path...); err == nil {
			t.Errorf("%v: got %v", path, v)
		}
	}
	if _, err := fieldAs[string](outer, "in", "N"); err == nil {
		t.Error("an int was taken for a string")
	}
}

// TestForgettingLeavesTheLibraryNoQueue is why a stop cannot panic (upstream #1051): Shutdown closes the channels of the queues in this table.
func TestForgettingLeavesTheLibraryNoQueue(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	topic := h.NewTopic(t, 8)
	c := h.openConsumer(t, h.consumerConfig(h.NewGroup(t), topic))
	table, err := fieldAs[*sync.Map](c.library, "defaultConsumer", "processQueueTable")
	if err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		table.Range(func(any, any) bool { n++; return true })
		return n
	}
	for limit := time.Now().Add(30 * time.Second); count() < 9; { // eight and the retry topic's
		if time.Now().After(limit) {
			t.Fatalf("the library has %d queues, want 9", count())
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.leases.close()
	resume := hold(c.rebalancing)
	if err := c.forgetQueues(); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 0 {
		t.Errorf("%d queues are left: Shutdown will close their channels", n)
	}
	resume()
}

func TestAPanicOfTheLibraryIsAnError(t *testing.T) {
	err := guarded("test", func() error { panic("oops") })
	wantReason(t, "a panic", err, driver.Unavailable)
	_, err = call(t.Context(), "label", "test", func() error { panic("oops") })
	wantReason(t, "a panic in a call", err, driver.Unavailable)
}

func TestTheLibrarysLogKeepsMessagesOut(t *testing.T) {
	var lines []string
	log := funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{Verbosity: verboseInfo})
	q := quiet{log}
	for _, write := range []func(string, map[string]interface{}){q.Info, q.Warning, q.Error, q.Fatal} {
		write("text", map[string]interface{}{rlog.LogKeyMessages: "secret body", "message": "secret body", rlog.LogKeyTopic: "T"})
	}
	if len(lines) != 4 {
		t.Fatalf("%d lines: %q", len(lines), lines)
	}
	for _, line := range lines {
		if want := `"topic"="T"`; !contains(line, want) || contains(line, "secret") {
			t.Errorf("line %q", line)
		}
	}
}

// TestAHeartbeatDuringCloseLeavesNoGhost: the library sends heartbeats beside its Shutdown, on a new connection if need be. The member that such a one
// registers takes its share of the queues and reads none of them.
func TestAHeartbeatDuringCloseLeavesNoGhost(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	topic, group := h.NewTopic(t, 4), h.NewGroup(t)
	asker := wire.New(h.Connection(), wire.Options{})
	t.Cleanup(asker.Close)
	for range 20 {
		c := h.openConsumer(t, h.consumerConfig(group, topic))
		stop := make(chan struct{})
		var beating sync.WaitGroup
		beating.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Microsecond): // Close must get its turn
					c.client.SendHeartbeatToAllBrokerWithLock()
				}
			}
		})
		mustClose(t, c)
		close(stop)
		beating.Wait()
		for limit := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			members, err := asker.Members(t.Context(), h.cluster.BrokerAddr(), group)
			if err != nil {
				t.Fatal(err)
			}
			if len(members) == 0 {
				break
			}
			if time.Now().After(limit) {
				t.Fatalf("members of the group after its only consumer was closed: %q", members)
			}
		}
	}
}
