// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/deadletter"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/metrics"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// BroadcastPeriods are how often a broadcasting Consumer looks after its receivers' groups. Zero fields are defaults.
type BroadcastPeriods struct {
	// Sweep is the time between two looks for receivers that have gone; Linger is how long what one used stays open behind it. 30 s and 60 s.
	Sweep, Linger time.Duration
	// Mark is how often a group in use is marked at the brokers. 10 min.
	Mark time.Duration
	// Measure is the time between two looks at what waits for the receivers that are here. 1 min.
	Measure time.Duration
	// Expire is the time between two looks for groups that nobody has used for ConsumerSpec.ReceiverExpiry. 1 h.
	Expire time.Duration
	// Listed is how long a list of groups is believed when a new receiver comes. 30 s.
	Listed time.Duration
}

func (p BroadcastPeriods) withDefaults() BroadcastPeriods {
	for _, f := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{{&p.Sweep, 30 * time.Second}, {&p.Linger, time.Minute}, {&p.Mark, 10 * time.Minute}, {&p.Measure, time.Minute}, {&p.Expire, time.Hour}, {&p.Listed, 30 * time.Second}} {
		if *f.value <= 0 {
			*f.value = f.fallback
		}
	}
	return p
}

var (
	_ server.Broadcaster   = (*BroadcastClient)(nil)
	_ server.DeadLetterBox = (*BroadcastClient)(nil)
	_ registry.Remover     = (*BroadcastClient)(nil)
)

// BroadcastClient is what runs for a Consumer with model Broadcasting: for each receiver that is here a ConsumerClient of a group of its own, opened when
// it comes and closed a while after it has gone. A receiver is known by its client id, and where it stands is its group's position at the brokers, so that
// it goes on wherever it comes again. Without receivers there is one timer. It implements registry.Client.
//
// Locks: mu guards lockedState. Nothing is opened, closed or asked under it.
type BroadcastClient struct {
	open    func(ctx context.Context, spec registry.Spec) (*ConsumerClient, error)
	keeper  driver.GroupKeeper
	periods BroadcastPeriods
	log     logr.Logger
	drained chan struct{}
	drain   sync.Once
	untrack func() // takes the receivers out of the metrics

	// life ends with Close; work counts goroutines and the armed timer, and is added to under mu while not closed.
	life    context.Context
	endLife context.CancelFunc
	work    sync.WaitGroup

	mu sync.Mutex
	lockedState
}

type lockedState struct {
	spec registry.Spec
	// draining: no receiver is taken any more. closed: nothing is started any more.
	draining, closed bool
	receivers        map[string]*receiver // by driver.ReceiverKey
	timer            *time.Timer
	expireAt         time.Time
	// waiting is what waited at measuredAt for the receiver that was furthest behind.
	waiting    int64
	measuredAt time.Time
	// known are the keys of the groups at the brokers as they were listed at listedAt, and those that were made here since.
	known    map[string]bool
	listedAt time.Time
}

func newBroadcastClient(
	open func(context.Context, registry.Spec) (*ConsumerClient, error), keeper driver.GroupKeeper, spec registry.Spec, periods BroadcastPeriods, m *metrics.Metrics, log logr.Logger,
) *BroadcastClient {
	b := &BroadcastClient{open: open, keeper: keeper, periods: periods.withDefaults(), log: log, drained: make(chan struct{})}
	b.life, b.endLife = context.WithCancel(context.Background())
	b.spec, b.receivers = spec, map[string]*receiver{}
	b.untrack = m.TrackReceivers(spec.Namespace, spec.Name, b.count)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expireAt = time.Now().Add(b.periods.Sweep)
	b.armLocked()
	return b
}

// clients are those that are open.
func (b *BroadcastClient) clients() []*ConsumerClient {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []*ConsumerClient
	for _, r := range b.receivers {
		if r.client != nil {
			all = append(all, r.client)
		}
	}
	return all
}

// Drain drains every receiver's client; see registry.Client.
func (b *BroadcastClient) Drain(ctx context.Context) registry.DrainReport {
	b.mu.Lock()
	b.draining = true
	b.mu.Unlock()
	all := b.clients()
	reports := make([]registry.DrainReport, len(all))
	var group sync.WaitGroup
	for i, c := range all {
		group.Go(func() { reports[i] = c.Drain(ctx) })
	}
	group.Wait()
	b.drain.Do(func() { close(b.drained) })
	var sum registry.DrainReport
	for _, r := range reports {
		sum.InFlight += r.InFlight
		sum.Drained += r.Drained
		sum.GivenBack += r.GivenBack
		sum.LeftLeased += r.LeftLeased
	}
	return sum
}

// Close closes every receiver's client and joins what runs; see registry.Client. What is at the brokers stays, see Remove.
func (b *BroadcastClient) Close(ctx context.Context) error {
	// 1. Nothing is started from here on, and what is under way ends.
	b.mu.Lock()
	b.draining, b.closed = true, true
	if b.timer != nil && b.timer.Stop() {
		b.work.Done()
	}
	b.timer = nil
	b.mu.Unlock()
	b.endLife()
	b.untrack()
	b.drain.Do(func() { close(b.drained) })
	// 2. Joined: whoever was opening a client has put it where it is found, or closed it.
	joined := make(chan struct{})
	go func() {
		b.work.Wait()
		close(joined)
	}()
	select {
	case <-joined:
	case <-ctx.Done():
		return fmt.Errorf("close the receivers' clients: work at RocketMQ has not ended: %w", ctx.Err())
	}
	all := b.clients()
	errs := make([]error, len(all))
	var group sync.WaitGroup
	for i, c := range all {
		group.Go(func() { errs[i] = c.Close(ctx) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// Err is a receiver's trouble; see registry.Client.
func (b *BroadcastClient) Err() error {
	for _, c := range b.clients() {
		if err := c.Err(); err != nil {
			return err
		}
	}
	return nil
}

// Update takes over what a window can; see registry.Client.
func (b *BroadcastClient) Update(spec registry.Spec) bool {
	b.mu.Lock()
	if spec.Consumer == nil || spec.Driver != b.spec.Driver || !spec.Consumer.Broadcast || !sameConsumer(b.spec.Consumer.Config, spec.Consumer.Config) {
		b.mu.Unlock()
		return false
	}
	b.spec = spec
	open := make(map[string]*ConsumerClient, len(b.receivers))
	for key, r := range b.receivers {
		if r.client != nil {
			open[key] = r.client
		}
	}
	b.mu.Unlock()
	for key, client := range open {
		client.Update(receiverSpec(spec, key))
	}
	return true
}

// errOwnDeadLetters: what is asked for the Consumer is each receiver's own.
func (b *BroadcastClient) errOwnDeadLetters() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return driver.Errorf(driver.Unsupported, "", "with model Broadcasting each receiver has dead letters of its own, in topics that begin with %s: receive them by another Consumer",
		driver.DeadLetterTopic(driver.ReceiverGroups(b.spec.Consumer.Config.Group)))
}

// ListDeadLetters is refused; see server.DeadLetterBox.
func (b *BroadcastClient) ListDeadLetters(context.Context, deadletter.Query) (deadletter.Page, error) {
	return deadletter.Page{}, b.errOwnDeadLetters()
}

// RedriveDeadLetters is refused; see server.DeadLetterBox.
func (b *BroadcastClient) RedriveDeadLetters(context.Context, deadletter.Order) (deadletter.Progress, error) {
	return deadletter.Progress{}, b.errOwnDeadLetters()
}

// Lag is of the receiver that is furthest behind, for each topic.
func (b *BroadcastClient) Lag(ctx context.Context) ([]driver.Lag, error) {
	var worst []driver.Lag
	for _, c := range b.clients() {
		lags, err := c.Lag(ctx)
		if err != nil {
			return nil, err
		}
		worst = worseOf(worst, lags)
	}
	return worst, nil
}

func worseOf(worst, lags []driver.Lag) []driver.Lag {
next:
	for _, l := range lags {
		for i := range worst {
			if worst[i].Topic == l.Topic {
				worst[i].Waiting = max(worst[i].Waiting, l.Waiting)
				continue next
			}
		}
		worst = append(worst, l)
	}
	return worst
}
