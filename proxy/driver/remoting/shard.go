// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"slices"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Lane implements driver.Producer.
func (p *producer) Lane(topic, key string) int {
	p.cluster.state.Lock()
	var v *view
	if t := p.cluster.state.topics[p.name(topic)]; t != nil {
		v = t.view
	}
	p.cluster.state.Unlock()
	if v == nil || len(v.sharded) == 0 {
		return 0
	}
	return driver.Shard(key, len(v.sharded))
}

// shard finds the queues of messages with a sharding key, by one view for the whole call: a route that changes meanwhile must not part messages of one key.
// Where no queue can be found those messages are answered and left out.
func (p *producer) shard(ctx context.Context, name string, entries []entry) []entry {
	if !slices.ContainsFunc(entries, func(e entry) bool { return e.message.ShardingKey != "" }) {
		return entries
	}
	queues, err := p.shards(ctx, name)
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

func (p *producer) shards(ctx context.Context, name string) ([]wire.Queue, error) {
	limit, cancel := context.WithTimeout(ctx, p.cfg.SendTimeout)
	defer cancel()
	v, err := p.cluster.writable(limit, name)
	if err == nil && len(v.sharded) == 0 {
		err = driver.Errorf(driver.Unavailable, "", "no broker that topic %q names for ordered messages has a master at present", name)
	}
	if err != nil {
		return nil, p.judge(ctx, "", name, wire.Errorf(err, "find the queue of a sharding key"))
	}
	return v.sharded, nil
}

// without answers the messages that would overtake a failed one of their key, and leaves them out.
func (r request) without(failed *driver.FailedKeys) request {
	if r.shard == nil || !slices.ContainsFunc(r.entries, func(e entry) bool { return failed.Behind(e.message) != nil }) {
		return r
	}
	kept := request{sysFlag: r.sysFlag, born: r.born, shard: r.shard}
	for i, e := range r.entries {
		if err := failed.Behind(e.message); err != nil {
			e.result.Err = err
			continue
		}
		kept.entries, kept.messages = append(kept.entries, e), append(kept.messages, r.messages[i])
	}
	return kept
}
