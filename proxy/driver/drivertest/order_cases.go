// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var orderedSendCases = []testCase{
	{name: "equal sharding keys go to the queue that the Java proxy would choose, in their order", run: caseShards},
	{name: "after a failed message the later ones of its sharding key are not stored", run: caseBehind},
	{name: "calls side by side keep the order of their own keys", run: caseShardsSideBySide},
}

// keyed is a message with a sharding key, whose body is n of its key.
func keyed(topic, key string, n int) *driver.Message {
	m := message(topic)
	m.ShardingKey, m.Body = key, fmt.Appendf(nil, "%s/%d", key, n)
	return m
}

const shardQueues = 5

// caseShards mixes what drivers send in different requests: large bodies that are compressed, messages without a key, many keys.
func caseShards(k *kit) {
	topic, group := k.h.NewTopic(k, shardQueues), k.h.NewGroup(k)
	p, c := k.producer(topic), k.consumer(group, topic)
	var all []*driver.Message
	for n := range 12 {
		for i, key := range []string{"order-1", "order-2", "order-42", "user:1234567890", "日本語", "😀", "a b"} {
			m := keyed(topic, key, n)
			if (n+i)%3 == 0 {
				m.Body = append(m.Body, strings.Repeat(" ", 10_000)...)
			}
			all = append(all, m)
		}
		all = append(all, message(topic))
	}
	last := map[string]int64{}
	for chunk := range slices.Chunk(all, 20) {
		for i, r := range p.Send(k.within(30*time.Second), topic, chunk) {
			key := chunk[i].ShardingKey
			if r.Err != nil {
				k.Fatalf("message of key %q: %v", key, r.Err)
			}
			if key == "" {
				continue
			}
			if want := driver.Shard(key, shardQueues); r.Queue != want {
				k.Errorf("key %q was stored in queue %d, want %d", key, r.Queue, want)
			}
			if before, seen := last[key]; seen && r.Offset <= before {
				k.Errorf("key %q: offset %d comes after %d", key, r.Offset, before)
			}
			last[key] = r.Offset
		}
	}
	places := map[string][]int64{}
	for _, r := range k.consume(c, len(all)) {
		if r.ShardingKey != "" {
			places[r.ShardingKey] = append(places[r.ShardingKey], r.Offset)
		}
		if _, shown := r.Properties[driver.PropertyShardingKey]; shown {
			k.Errorf("message %s shows its sharding key as a property", r.ID)
		}
	}
	for key := range last {
		if n := len(places[key]); n != 12 {
			k.Errorf("%d of 12 messages of key %q came with it", n, key)
		}
	}
}

func caseBehind(k *kit) {
	topic, group := k.h.NewTopic(k, 2), k.h.NewGroup(k)
	p, c := k.producer(topic), k.consumer(group, topic)
	bad, later := keyed(topic, "a", 2), keyed(topic, "d", 1)
	bad.Body = nil
	later.When = driver.When{Delay: ahead}
	all := []*driver.Message{keyed(topic, "a", 1), bad, keyed(topic, "b", 1), keyed(topic, "a", 3), message(topic), later, keyed(topic, "d", 2), keyed(topic, "a", 4)}
	want := []driver.Reason{"", driver.InvalidMessage, "", driver.EarlierFailed, "", driver.InvalidMessage, driver.EarlierFailed, driver.EarlierFailed}
	for i, r := range p.Send(k.within(30*time.Second), topic, all) {
		if (r.Err == nil) != (want[i] == "") || r.Err != nil && driver.ReasonOf(r.Err) != want[i] {
			k.Errorf("message %d of key %q: %v, want reason %q", i, all[i].ShardingKey, r.Err, want[i])
		}
	}
	k.wantSame([]*driver.Message{all[0], all[2], all[4]}, k.consume(c, 3))
	k.sendBatch(p, all[3], all[7]) // sent again, they are stored
	k.wantSame([]*driver.Message{all[3], all[7]}, k.consume(c, 2))
}

func caseShardsSideBySide(k *kit) {
	const callers, rounds = 16, 20
	topic, group := k.h.NewTopic(k, 3), k.h.NewGroup(k)
	p, c := k.producer(topic), k.consumer(group, topic)
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for n := range rounds {
				for _, r := range p.Send(k.within(30*time.Second), topic, []*driver.Message{keyed(topic, fmt.Sprint(caller), 2*n), keyed(topic, fmt.Sprint(caller), 2*n+1)}) {
					if r.Err != nil {
						k.Errorf("caller %d: %v", caller, r.Err)
					}
				}
			}
		})
	}
	wg.Wait()
	byKey := map[string][]*driver.Received{}
	for _, r := range k.consume(c, 2*callers*rounds) {
		byKey[r.ShardingKey] = append(byKey[r.ShardingKey], r)
	}
	for key, rs := range byKey {
		slices.SortFunc(rs, func(a, b *driver.Received) int { return int(a.Offset - b.Offset) })
		for n, r := range rs {
			if want := fmt.Sprintf("%s/%d", key, n); string(r.Body) != want || r.Queue != rs[0].Queue {
				k.Fatalf("message %d of key %q is %q in queue %d, want %q in queue %d", n, key, r.Body, r.Queue, want, rs[0].Queue)
			}
		}
	}
}
