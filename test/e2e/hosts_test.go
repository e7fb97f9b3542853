// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

// TestAfterEachKillOfTheOperatorTheBrokerListsOneClientPerLiveObject kills the operator with SIGKILL at random moments, half of them while it
// starts clients for a new Producer and Consumer, half while it stops those of a deleted pair.
func TestAfterEachKillOfTheOperatorTheBrokerListsOneClientPerLiveObject(t *testing.T) {
	c := start(t)
	kills := 2
	if long() {
		kills = 20
	}
	// A killed host's file lock is free at once, so the next process is the same host with another incarnation.
	options := localenv.OperatorOptions{HostID: unique(t)}
	op := c.operator(t, options, "connection refused")
	options.Ports = op.Ports
	name, topic := unique(t), c.topic(t, 4)
	const library = "driver: ClientGo" // Remoting's clients are no members that a broker lists; for them see TestTwoHosts...
	c.apply(t, producer(name, topic, library), consumer(name, "g_"+name, topic, library))
	c.waitReady(t, "rmqp/"+name, "rmqc/"+name)
	var longest time.Duration
	for kill := range kills {
		other := fmt.Sprintf("%s-%d", name, kill)
		pair := []string{"rmqp/" + other, "rmqc/" + other}
		dying := kill%2 == 1
		c.apply(t, producer(other, topic, library), consumer(other, "g_"+other, topic, library))
		if dying {
			c.waitReady(t, pair...)
			must(t, c.control.Kubectl(t.Context(), discard{}, append([]string{"delete", "-n", namespace, "--wait=false"}, pair...)...))
		}
		time.Sleep(rand.N(500 * time.Millisecond)) // a random moment is the point
		must(t, op.Kill())
		op = c.operator(t, options, "connection refused")
		c.waitReady(t, "rmqp/"+name, "rmqc/"+name)
		if !dying {
			c.waitReady(t, pair...)
			c.awaitOneClientEach(t, op, other)
		}
		c.awaitOneClientEach(t, op, name)
		took := c.delete(t, pair...) // or wait for the end of the earlier delete
		c.awaitNoConsumer(t, other)
		if longest = max(longest, took); took > 40*time.Second {
			t.Errorf("delete after a kill took %s", took)
		}
	}
	took := c.delete(t, "rmqp/"+name, "rmqc/"+name)
	if longest = max(longest, took); took > 40*time.Second {
		t.Errorf("delete took %s", took)
	}
	c.awaitNoConsumer(t, name)
	t.Logf("%d kills, one client per live object after each; the longest delete took %s", kills, longest.Round(time.Millisecond))
}

// awaitOneClientEach waits until the broker lists exactly one client of the Producer's and one of the Consumer's group. A Producer's library
// announces itself with the heartbeat (every 30 s) that follows its first send.
func (c *cluster) awaitOneClientEach(t *testing.T, op *localenv.Operator, name string) {
	t.Helper()
	code, answer, err := op.Post(t.Context(), c.appToken, "/v1alpha1/namespaces/"+namespace+"/producers/"+name+":send", `{"messages":[{"text":"a"}]}`)
	must(t, err)
	if code != http.StatusOK {
		t.Fatalf("send through %s: %d %s", name, code, answer)
	}
	eventually(t, 60*time.Second, "one client per live object", func() error { return c.oneClientEach(t.Context(), name) })
}

func (c *cluster) awaitNoConsumer(t *testing.T, name string) {
	t.Helper()
	eventually(t, 30*time.Second, "no client of a deleted Consumer", func() error {
		n, err := c.consumers(t.Context(), "g_"+name)
		if err == nil && n != 0 {
			err = fmt.Errorf("%d consumer clients", n)
		}
		return err
	})
}

// oneClientEach is nil when the broker knows exactly one client of the Producer's and one of the Consumer's group.
func (c *cluster) oneClientEach(ctx context.Context, name string) error {
	consumers, err := c.consumers(ctx, "g_"+name)
	if err != nil {
		return err
	}
	producers, err := c.broker.ProducerConnections(ctx, namespace+"_"+name)
	if err != nil {
		return err
	}
	if consumers != 1 || len(producers) != 1 {
		return fmt.Errorf("%d consumer clients and %d producer clients", consumers, len(producers))
	}
	return nil
}

func (c *cluster) consumers(ctx context.Context, group string) (int, error) {
	connections, err := c.broker.ConsumerConnections(ctx, group)
	return len(connections), err
}

func TestTheAPIServerAwayTwiceEndsNoStreamAndNoSend(t *testing.T) {
	c := start(t)
	away := 12 * time.Second // twice is longer than answers about callers are kept
	if long() {
		away = 30 * time.Second
	}
	between := newLink(t, c.control.APIServerAddress())
	op := c.operator(t, localenv.OperatorOptions{APIServer: between.Listen},
		"connection refused", "connection reset", "EOF", "http2: client connection lost", "context deadline exceeded", "Client.Timeout")
	f := newTraffic(t, c, op, 3, func() *grpc.ClientConn { return c.dial(t, op) })
	finish := f.sendInBackground(f.sends(math.MaxInt, 16, 20*time.Millisecond))
	f.awaitAcked(500)
	for range 2 {
		between.Stop()
		before := f.ledger.Counts().Acked
		time.Sleep(away) // the outage's length is the test's parameter
		if during := f.ledger.Counts().Acked - before; during < 100 {
			t.Errorf("%d messages were acknowledged in the %s without an API server", during, away)
		}
		must(t, between.Start())
		time.Sleep(away / 3)
	}
	finish()
	late := f.name + "-late"
	c.apply(t, producer(late, f.topic))
	c.waitReady(t, "rmqp/"+late)
	c.delete(t, "rmqp/"+late)
	counts := f.finish()
	if counts.SendRetries != 0 {
		t.Errorf("%d sends failed while the API server was away", counts.SendRetries)
	}
	if counts.Streams != 3 {
		t.Errorf("streams ended while the API server was away: %d were opened for 3 receivers", counts.Streams)
	}
}
