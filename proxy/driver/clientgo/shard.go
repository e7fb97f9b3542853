// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"slices"
	"sync"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// shards are the queues among which sharding keys choose, by topic, as they were last seen: when the producer was opened, and at each of its checks. The
// library's own list leaves out nothing but has no order that others share.
type shards struct {
	mu     sync.Mutex
	queues map[string][]wire.Queue // mu guards it
}

// learn takes a topic's route. name has the namespace.
func (s *shards) learn(topic string, route *wire.Route, name string) {
	if route == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queues == nil {
		s.queues = make(map[string][]wire.Queue)
	}
	s.queues[topic] = route.Sharded(name)
}

func (s *shards) of(topic string) []wire.Queue {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queues[topic]
}

// Lane implements driver.Producer.
func (p *producer) Lane(topic, key string) int {
	queues := p.shards.of(topic)
	if len(queues) == 0 {
		return 0
	}
	return driver.Shard(key, len(queues))
}

// shard finds the queues of messages with a sharding key. Where none is known those messages are answered and left out.
func (p *producer) shard(ctx context.Context, topic string, entries []entry) []entry {
	if !slices.ContainsFunc(entries, func(e entry) bool { return e.message.ShardingKey != "" }) {
		return entries
	}
	queues, err := p.shardsOf(ctx, topic)
	kept := entries[:0]
	for _, e := range entries {
		if key := e.message.ShardingKey; key != "" {
			if err != nil {
				e.result.Err = err
				continue
			}
			e.shard = &queues[driver.Shard(key, len(queues))]
		}
		kept = append(kept, e)
	}
	return kept
}

// autoQueues is how many queues a broker gives a topic that it makes by itself.
const autoQueues = 4

// shardsOf asks for a topic that did not exist at the last look. One that the broker makes with its first message has the queues of the default topic.
func (p *producer) shardsOf(ctx context.Context, topic string) ([]wire.Queue, error) {
	if known := p.shards.of(topic); len(known) > 0 {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.SendTimeout)
	defer cancel()
	w := wire.New(p.cfg.Connection, wire.Options{})
	defer w.Close()
	pr := newProver(w, p.cfg.Connection)
	route, err := pr.Route(ctx, "", topic)
	var queues []wire.Queue
	switch {
	case err == nil:
		p.shards.learn(topic, route, pr.Name(topic))
		queues = p.shards.of(topic)
	case driver.ReasonOf(err) == driver.TopicNotFound:
		makers, unknown := pr.Routes.Route(ctx, wire.DefaultTopic)
		if unknown != nil {
			return nil, err
		}
		queues = slices.DeleteFunc(makers.Writable(wire.DefaultTopic), func(q wire.Queue) bool { return q.ID >= autoQueues })
	default:
		return nil, err
	}
	if len(queues) == 0 {
		return nil, driver.Errorf(driver.Unavailable, "", "topic %q has no queue for messages with a sharding key: no master is up, or the topic is read-only", topic)
	}
	return queues, nil
}

// without leaves out the messages that would overtake a failed one of their key, and answers them.
func without(request []entry, failed *driver.FailedKeys) []entry {
	if !slices.ContainsFunc(request, func(e entry) bool { return failed.Behind(e.message) != nil }) {
		return request
	}
	var kept []entry
	for _, e := range request {
		if err := failed.Behind(e.message); err != nil {
			e.result.Err = err
			continue
		}
		kept = append(kept, e)
	}
	return kept
}
