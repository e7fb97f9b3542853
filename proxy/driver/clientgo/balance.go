// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"slices"
	"sync"
	"time"

	library "github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// balance is what the rebalances of the library have said.
type balance struct {
	mu      sync.Mutex
	missing map[string]bool // topics without a first assignment
	done    chan struct{}   // closed when missing is empty
	last    map[string][]*primitive.MessageQueue
}

func (b *balance) init(cfg driver.ConsumerConfig, p *prover) {
	b.missing, b.done, b.last = make(map[string]bool), make(chan struct{}), make(map[string][]*primitive.MessageQueue)
	for _, s := range cfg.Subscriptions {
		b.missing[p.Name(s.Topic)] = true
	}
	b.missing[wire.RetryTopic(p.Name(cfg.Group))] = true
}

// nudgeEvery is how long a first assignment may take before another rebalance is asked for.
const nudgeEvery = time.Second

// await waits until the queues of every topic, that of the retries included, have been assigned once: from then on the client receives. The library
// rebalances once at its start and then every 20 s; one request that fails in the first one would cost that long, so nudge asks for another.
func (b *balance) await(ctx context.Context, nudge func()) error {
	again := time.NewTicker(nudgeEvery)
	defer again.Stop()
	for {
		select {
		case <-b.done:
			return nil
		case <-again.C:
			nudge()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// allocate decides which queues of a topic are this client's. The library calls it in each rebalance, one at a time, and acts on the answer when it
// returns: queues that are not in it are dropped, with everything in flight.
func (c *consumer) allocate(group, self string, all []*primitive.MessageQueue, members []string) []*primitive.MessageQueue {
	if len(all) == 0 {
		return nil
	}
	topic := all[0].Topic
	queues := library.AllocateByAveragely(group, self, all, members)
	c.balance.mu.Lock()
	defer c.balance.mu.Unlock()
	b := &c.balance
	if len(members) == 0 {
		// A broker that was just restarted knows no member until the next heartbeat, and says "none" rather than an error. Dropping our queues
		// for that would have everything in flight delivered again.
		queues = intersection(b.last[topic], all)
	}
	b.last[topic] = queues
	keys := make([]queueKey, len(queues))
	for i, q := range queues {
		keys[i] = keyOf(q)
	}
	c.leases.assigned(topic, keys)
	if b.missing[topic] {
		if delete(b.missing, topic); len(b.missing) == 0 {
			close(b.done)
		}
	}
	return queues
}

func intersection(some, all []*primitive.MessageQueue) []*primitive.MessageQueue {
	var both []*primitive.MessageQueue
	for _, q := range some {
		if slices.ContainsFunc(all, func(a *primitive.MessageQueue) bool { return *a == *q }) {
			both = append(both, q)
		}
	}
	return both
}
