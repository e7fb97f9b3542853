// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// keepTimeout bounds one piece of work of a sweep at the brokers.
const keepTimeout = 15 * time.Second

// armLocked sets the timer for the next sweep: soon while there are receivers, else when groups are looked at.
func (b *BroadcastClient) armLocked() {
	if b.closed || b.timer != nil {
		return
	}
	b.work.Add(1)
	b.timer = time.AfterFunc(b.periods.Sweep, b.sweep)
}

// sweep closes what receivers that have gone left open, marks the groups that are in use, and now and then deletes those that nobody has used for long.
func (b *BroadcastClient) sweep() {
	defer b.work.Done()
	now := time.Now()
	free := map[*ConsumerClient]bool{}
	for _, c := range b.clients() {
		free[c] = idle(c)
	}
	b.mu.Lock()
	var gone, unmarked []*receiver
	for key, r := range b.receivers {
		switch {
		case r.client == nil:
		case r.holders == 0 && now.Sub(r.used) >= b.periods.Linger && free[r.client]:
			delete(b.receivers, key)
			gone = append(gone, r)
		case now.Sub(r.marked) >= b.periods.Mark:
			r.marked = now
			unmarked = append(unmarked, r)
		}
	}
	spec, expire, measure := b.spec, !now.Before(b.expireAt), now.Sub(b.measuredAt) >= b.periods.Measure && len(b.receivers) > 0
	if expire {
		b.expireAt = now.Add(b.periods.Expire)
	}
	b.mu.Unlock()

	for _, r := range gone {
		b.end(r, spec)
	}
	for _, r := range unmarked {
		b.mark(r.key, spec)
	}
	if expire {
		b.expire(spec, now)
	}
	if measure {
		b.measure(now)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.timer = nil
	b.armLocked()
}

// idle reports whether nothing of the client is with an application.
func idle(c *ConsumerClient) bool {
	messages, _ := c.InFlight()
	return messages == 0
}

// end closes the client of a receiver that has gone. From now on its group's time runs.
func (b *BroadcastClient) end(r *receiver, spec registry.Spec) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.life), keepTimeout)
	defer cancel()
	b.mark(r.key, spec)
	if err := r.client.Close(ctx); err != nil {
		b.log.Info("a receiver's client did not close cleanly", "group", driver.ReceiverGroup(spec.Group, r.key), "error", err.Error())
	}
}

func (b *BroadcastClient) mark(key string, spec registry.Spec) {
	ctx, cancel := context.WithTimeout(b.life, keepTimeout)
	defer cancel()
	if err := b.keeper.MarkGroup(ctx, receiverSpec(spec, key).Consumer.Config); err != nil && b.life.Err() == nil {
		b.log.Info("could not note at RocketMQ that a receiver's group is in use; it is tried again", "group", driver.ReceiverGroup(spec.Group, key), "error", err.Error())
	}
}

// expire deletes the groups that no host has marked for ReceiverExpiry. One that was never marked is marked now: whoever made it may be about to.
func (b *BroadcastClient) expire(spec registry.Spec, now time.Time) {
	ctx, cancel := context.WithTimeout(b.life, keepTimeout)
	defer cancel()
	prefix := driver.ReceiverGroups(spec.Consumer.Config.Group)
	groups, err := b.keeper.ListGroups(ctx, spec.Consumer.Config, prefix)
	var old []string
	for _, g := range groups {
		key := g.Group[len(prefix):]
		switch {
		case g.Seen.IsZero():
			b.mark(key, spec)
		case now.Sub(g.Seen) < spec.Consumer.ReceiverExpiry || b.has(key):
		default:
			// It may have come again on another host since the list was made.
			seen, again := b.keeper.GroupSeen(ctx, receiverSpec(spec, key).Consumer.Config)
			if again == nil && now.Sub(seen) >= spec.Consumer.ReceiverExpiry {
				old = append(old, key)
			}
		}
	}
	if err == nil && len(old) > 0 {
		_, err = b.remove(ctx, spec, old)
		b.log.Info("deleted the groups of receivers that did not come for their expiry", "namespace", spec.Namespace, "name", spec.Name, "groups", len(old))
	}
	if err != nil && b.life.Err() == nil {
		b.log.Info("could not look after the groups of a broadcasting Consumer's receivers at RocketMQ; it is tried again", "namespace", spec.Namespace,
			"name", spec.Name, "error", err.Error())
	}
}

// measure asks what waits for each receiver that is here.
func (b *BroadcastClient) measure(now time.Time) {
	ctx, cancel := context.WithTimeout(b.life, keepTimeout)
	defer cancel()
	worst := int64(0)
	for _, c := range b.clients() {
		lags, err := c.Lag(ctx)
		if err != nil {
			return // the broker is away, which others tell; the last number stays
		}
		waiting := int64(0)
		for _, l := range lags {
			waiting += l.Waiting
		}
		worst = max(worst, waiting)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting, b.measuredAt = worst, now
}

// count is for the metrics.
func (b *BroadcastClient) count() (receivers int, waiting int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.receivers), b.waiting
}

func (b *BroadcastClient) has(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.receivers[key] != nil
}
