// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Brokers send checks on connections whose heartbeat has named the producer group, in turn among all of them. So a producer group is named while somebody
// here can be asked, and only then: a check that reached this process for nothing would have reached another one.
const (
	// beatEvery is how often groups are named. A broker forgets them when the connection ends, and after two minutes.
	beatEvery = 10 * time.Second
	// groupsAtOnce is how many groups one heartbeat names: a broker takes 0.6 ms for 100.
	groupsAtOnce = 100
)

// watch names p's group at once, and from then on until unwatch.
func (cl *cluster) watch(p *producer) {
	cl.checks.mu.Lock()
	if cl.checks.producers == nil {
		cl.checks.producers = make(map[string][]*producer)
	}
	cl.checks.producers[p.group()] = append(cl.checks.producers[p.group()], p)
	cl.checks.mu.Unlock()
	cl.start(func() { cl.beat(cl.life, p) })
}

// unwatch takes p's group back, unless another client of it watches.
func (cl *cluster) unwatch(p *producer) {
	group := p.group()
	cl.checks.mu.Lock()
	left := slices.DeleteFunc(slices.Clone(cl.checks.producers[group]), func(other *producer) bool { return other == p })
	if cl.checks.producers[group] = left; len(left) == 0 {
		delete(cl.checks.producers, group)
	}
	cl.checks.mu.Unlock()
	if len(left) > 0 {
		return
	}
	cl.start(func() {
		ctx, cancel := context.WithTimeout(cl.life, checkLimit)
		defer cancel()
		for address := range cl.groupsOf(ctx, p) {
			if err := cl.wire.UnregisterProducer(ctx, address, cl.clientID, group); err != nil {
				cl.driver.log.V(verbose).Info("A producer group was not taken back; checks that come for nothing come again", "group", group, "reason", err.Error())
			}
		}
	})
}

// beatAll names every group that is watched, for the keeper.
func (cl *cluster) beatAll() {
	cl.checks.mu.Lock()
	all := slices.Concat(slices.Collect(maps.Values(cl.checks.producers))...)
	cl.checks.mu.Unlock()
	if len(all) > 0 {
		cl.beat(cl.life, all...)
	}
}

// beat names the groups of producers at the brokers of their topics. What fails is done again with the next beat.
func (cl *cluster) beat(ctx context.Context, producers ...*producer) {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	type heartbeat struct {
		address string
		groups  []string
	}
	var all []heartbeat
	for address, groups := range cl.groupsOf(ctx, producers...) {
		for some := range slices.Chunk(slices.Sorted(maps.Keys(groups)), groupsAtOnce) {
			all = append(all, heartbeat{address, some})
		}
	}
	// Each failure is told here; the error is that of the closing cluster at most.
	_ = proof.All(ctx, len(all), func(ctx context.Context, i int) error {
		h := wire.Heartbeat{ClientID: cl.clientID}
		for _, group := range all[i].groups {
			h.Producers = append(h.Producers, wire.ProducerMember{Group: group})
		}
		if err := cl.wire.HeartBeat(ctx, all[i].address, h); err != nil {
			cl.driver.log.V(verbose).Info("Producer groups were not named; no check of their transactions comes from that broker until they are",
				"address", all[i].address, "groups", len(all[i].groups), "reason", err.Error())
		}
		return nil
	})
}

// groupsOf is the groups of producers by the address of each broker of their topics.
func (cl *cluster) groupsOf(ctx context.Context, producers ...*producer) map[string]map[string]bool {
	all := make(map[string]map[string]bool)
	for _, p := range producers {
		for _, topic := range p.names() {
			v, err := cl.viewOf(ctx, topic)
			if err != nil {
				continue // the cluster's check reports it
			}
			for _, address := range v.masters {
				if all[address] == nil {
					all[address] = make(map[string]bool)
				}
				all[address][p.group()] = true
			}
		}
	}
	return all
}

// rememberTransactions has the keeper give back their locks.
func (cl *cluster) rememberTransactions(t *transactions) {
	cl.state.Lock()
	defer cl.state.Unlock()
	if cl.state.transactions == nil {
		cl.state.transactions = make(map[*transactions]struct{})
	}
	cl.state.transactions[t] = struct{}{}
}

func (cl *cluster) forgetTransactions(t *transactions) {
	cl.state.Lock()
	defer cl.state.Unlock()
	delete(cl.state.transactions, t)
}

// releaseAll gives back the locks of all producers that may go, within limit for all: the keeper waits for it.
func (cl *cluster) releaseAll(limit time.Duration) {
	cl.state.Lock()
	all := slices.Collect(maps.Keys(cl.state.transactions))
	cl.state.Unlock()
	ctx, cancel := context.WithTimeout(cl.life, limit)
	defer cancel()
	// There is no error: what fails is done again in the next round.
	_ = proof.All(ctx, len(all), func(ctx context.Context, i int) error {
		if ctx.Err() == nil {
			all[i].release(ctx, limit)
		}
		return nil
	})
}
