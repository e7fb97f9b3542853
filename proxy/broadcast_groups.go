// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

const (
	// removing is how many groups are deleted at a time.
	removing = 8
	// removeTries is how often the groups of a deleted object are deleted, removePause how long something has to make them anew before the next look: longer
	// than a broker holds a request for messages (at most 5 s), of any host, which it carries out when that time is over and then makes the group.
	removeTries = 3
	removePause = 5500 * time.Millisecond
)

// list asks the brokers for the receivers that have groups.
func (b *BroadcastClient) list(ctx context.Context, spec registry.Spec) (map[string]bool, error) {
	known, err := b.atBrokers(ctx, spec)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, r := range b.receivers {
		if r.client != nil {
			known[key] = true
		}
	}
	b.known, b.listedAt = known, time.Now()
	return known, nil
}

// atBrokers are the keys of the receivers' groups that the brokers have.
func (b *BroadcastClient) atBrokers(ctx context.Context, spec registry.Spec) (map[string]bool, error) {
	prefix := driver.ReceiverGroups(spec.Consumer.Config.Group)
	groups, err := b.keeper.ListGroups(ctx, spec.Consumer.Config, prefix)
	if err != nil {
		return nil, err
	}
	keys := make(map[string]bool, len(groups))
	for _, g := range groups {
		keys[g.Group[len(prefix):]] = true
	}
	return keys, nil
}

// Remove deletes the receivers' groups at the brokers, for an object that is deleted; see registry.Remover. It is called after Close. It looks again until
// it finds none: a request that a broker was still at makes its group anew.
func (b *BroadcastClient) Remove(ctx context.Context) error {
	b.mu.Lock()
	spec := b.spec
	b.mu.Unlock()
	for try := 1; ; try++ {
		groups, err := b.atBrokers(ctx, spec)
		switch {
		case err != nil:
			return fmt.Errorf("list the groups of receivers at RocketMQ: %w", err)
		case len(groups) == 0:
			return nil
		case try > removeTries:
			return fmt.Errorf("%d groups of receivers came back at RocketMQ each time they were deleted", len(groups))
		}
		if n, err := b.remove(ctx, spec, slices.Collect(maps.Keys(groups))); err != nil {
			return fmt.Errorf("delete the groups of receivers at RocketMQ, of which %d of %d are left: %w", n, len(groups), err)
		}
		select {
		case <-time.After(removePause):
		case <-ctx.Done():
			return nil // they were deleted; nobody looked again
		}
	}
}

// remove deletes groups, a few at a time, and answers how many are left.
func (b *BroadcastClient) remove(ctx context.Context, spec registry.Spec, keys []string) (left int, first error) {
	errs := make([]error, len(keys))
	slots := make(chan struct{}, removing)
	var group sync.WaitGroup
	for i, key := range keys {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			errs[i] = b.keeper.RemoveGroup(ctx, receiverSpec(spec, key).Consumer.Config)
		})
	}
	group.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, err := range errs {
		if err == nil {
			delete(b.known, keys[i])
			continue
		}
		left++
		if first == nil {
			first = err
		}
	}
	return left, first
}
