// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/test/load"
)

const (
	orderKeys = 64
	// headLate is how much later than its deadline a message that nobody acknowledged may come again (tests.md D5).
	headLate = time.Second
)

// lines is what came, key by key.
type lines struct {
	mu   sync.Mutex
	keys map[string]*line
	// longest is the longest time from a delivery that was not acknowledged to the next one of the message.
	longest time.Duration
	faults  []string
	ends    time.Time // of the last message
}

type line struct {
	// next is the number that was not delivered yet; at is when each was delivered last.
	next int
	at   map[int]time.Time
}

func (l *lines) took(d *proxyv1alpha1.Delivery) {
	now := time.Now()
	parts := strings.Split(d.GetMessage().GetId(), "/")
	key := parts[1]
	n, err := strconv.Atoi(parts[2])
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keys[key]
	if k == nil {
		k = &line{at: map[int]time.Time{}}
		l.keys[key] = k
	}
	switch {
	case err != nil || d.GetMessage().GetShardingKey() != key:
		l.faults = append(l.faults, fmt.Sprintf("%s came with the sharding key %q", d.GetMessage().GetId(), d.GetMessage().GetShardingKey()))
	case n > k.next:
		l.faults = append(l.faults, fmt.Sprintf("key %s: %d came before %d", key, n, k.next))
	case n == k.next:
		k.next++
	default:
		l.longest = max(l.longest, now.Sub(k.at[n]))
	}
	k.at[n] = now
	l.ends = now
}

// order is the traffic of one ordered Consumer: two Producers on its topic, one of each driver, and receivers that can be killed.
type order struct {
	*traffic
	h     *hosts
	lines *lines
	// killing makes the receiver that gets the next delivery forget it, and what else it has, and go away.
	killing atomic.Bool
	killed  sync.WaitGroup
}

func beginOrder(t *testing.T, c *cluster, h *hosts) *order {
	t.Helper()
	o := &order{traffic: planTraffic(t, c, h.ops[0]), h: h, lines: &lines{keys: map[string]*line{}}}
	c.apply(t, producer(o.name, o.topic, "driver: Remoting"), producer(o.name+"-lib", o.topic, "driver: ClientGo"),
		consumer(o.name, "g_"+o.name, o.topic, "order: Ordered", fmt.Sprintf("ackDeadlineSeconds: %.0f", ackDeadline.Seconds())))
	c.waitReady(t, append(o.objects(), "rmqp/"+o.name+"-lib")...)
	o.traffic.connection = h.dial()
	ctx, stop := context.WithCancel(t.Context())
	o.stop, o.failed = stop, make(chan error, 1)
	for range 4 {
		o.receiver(ctx)
	}
	t.Cleanup(func() { stop(); o.receives.Wait() })
	return o
}

// receiver receives until it is killed; then another one takes its place.
func (o *order) receiver(ctx context.Context) {
	o.receives.Go(func() {
		for ctx.Err() == nil {
			o.oneReceiver(ctx)
		}
	})
}

func (o *order) oneReceiver(ctx context.Context) {
	ctx, kill := context.WithCancel(ctx)
	defer kill()
	dead := false
	err := load.Receive(ctx, o.connection, o.ledger, load.ReceiveOptions{
		Consumer: load.Object{Namespace: namespace, Name: o.name}, Outstanding: 16,
		Handle: func(d *proxyv1alpha1.Delivery) bool {
			o.lines.took(d)
			if !dead && o.killing.CompareAndSwap(true, false) {
				dead = true
				kill()
				o.killed.Done()
			}
			return !dead
		},
	})
	if err != nil {
		select {
		case o.failed <- err:
		default:
		}
	}
}

// killReceiver kills one receiver in the middle of what it has, and returns when that is done.
func (o *order) killReceiver() {
	o.killed.Add(1)
	o.killing.Store(true)
	o.killed.Wait()
}

// sendKeys sends each messages for each key, half of the keys through each Producer.
func (o *order) sendKeys(each int, pause time.Duration) (finish func()) {
	o.t.Helper()
	ended := make(chan error, 2)
	var keys [2][]string
	for i := range orderKeys {
		keys[i%2] = append(keys[i%2], fmt.Sprint("order-", i))
	}
	for i, name := range []string{o.name, o.name + "-lib"} {
		s := o.sends(each, 8, pause)
		s.Producer.Name, s.Bytes = name, 256
		go func() { ended <- load.SendInOrder(o.t.Context(), o.connection, o.ledger, s, keys[i]) }()
	}
	return func() {
		o.t.Helper()
		must(o.t, <-ended)
		must(o.t, <-ended)
	}
}

// finishOrder settles and checks. Times are those of a broker that lives: late is how much later than the deadline the head of a queue may come again.
func (o *order) finishOrder(each int, late time.Duration) load.Counts {
	o.t.Helper()
	counts := o.finish()
	o.lines.mu.Lock()
	defer o.lines.mu.Unlock()
	for i, fault := range o.lines.faults {
		if i < 10 {
			o.t.Error(fault)
		}
	}
	for key, k := range o.lines.keys {
		if k.next != each {
			o.t.Errorf("key %s: %d of %d came", key, k.next, each)
		}
	}
	if n := len(o.lines.keys); n != orderKeys {
		o.t.Errorf("%d of %d keys came", n, orderKeys)
	}
	o.t.Logf("%d keys with %d messages each: %d out of order, the longest wait of a queue's head was %s (deadline %s)",
		len(o.lines.keys), each, len(o.lines.faults), o.lines.longest.Round(time.Millisecond), ackDeadline)
	if o.lines.longest > ackDeadline+late {
		o.t.Errorf("a message that nobody acknowledged came again after %s; its deadline was %s", o.lines.longest, ackDeadline)
	}
	o.c.delete(o.t, "rmqp/"+o.name+"-lib")
	return counts
}

// TestEachKeyKeepsItsOrderThroughKilledReceiversAndHosts is tests.md D5: 64 keys, sent by both drivers through two hosts; receivers are killed in the middle
// of what they have, and a host with all its receivers. The long form also restarts and kills the broker, again and again. Once what came again is left out
// every key rises without a gap; nothing is lost; what was at the head of a queue comes again when its deadline has passed.
func TestEachKeyKeepsItsOrderThroughKilledReceiversAndHosts(t *testing.T) {
	c := start(t)
	h := startHosts(t, c)
	o := beginOrder(t, c, h)
	each, rounds, pause := 25, 1, 100*time.Millisecond
	if long() {
		each, rounds, pause = 2000, 4, 60*time.Millisecond
	}
	finish := o.sendKeys(each, pause)
	for round := range rounds {
		o.awaitAcked(200)
		o.killReceiver()
		o.awaitAcked(100)
		o.killReceiver()
		must(t, h.ops[round%2].Kill())
		h.again(round % 2)
	}
	finish()
	counts := o.finishOrder(each, headLate)
	if counts.AfterAck > counts.SendRetries { // a send that is repeated may be stored twice
		t.Errorf("%d came again after an acknowledgement that was OK; %d sends were repeated", counts.AfterAck, counts.SendRetries)
	}
	if counts.Duplicates == 0 {
		t.Error("nothing came again although receivers and a host were killed")
	}
}

// TestEachKeyKeepsItsOrderThroughBrokerRestarts: as above, with the broker stopped and started, and killed and started. A broker that was killed forgets the
// acknowledgements of its last seconds, and that anything was lent: it delivers again at once.
func TestEachKeyKeepsItsOrderThroughBrokerRestarts(t *testing.T) {
	if !long() {
		t.Skip("restarts take long; run with LONG=1")
	}
	c := start(t)
	h := startHosts(t, c)
	o := beginOrder(t, c, h)
	const each = 1500
	finish := o.sendKeys(each, 60*time.Millisecond)
	for round := range 4 {
		o.awaitAcked(2000)
		o.killReceiver()
		if round%2 == 0 {
			must(t, c.broker.StopBroker(t.Context()))
		} else {
			must(t, c.broker.KillBroker())
		}
		must(t, c.broker.StartBroker(t.Context()))
	}
	finish()
	counts := o.finishOrder(each, time.Minute) // while the broker is away nothing comes
	t.Logf("the broker was stopped and killed twice each: %d came again, %d of them after their acknowledgement", counts.Duplicates, counts.AfterAck)
}
