// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/deadletter"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
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

// Bounds of one piece of work at the brokers.
const (
	receiverOpenTimeout = 15 * time.Second
	keepTimeout         = 15 * time.Second
	// removing is how many groups are deleted at a time.
	removing = 8
	// removeTries is how often the groups of a deleted object are deleted, removePause how long something has to make them anew before the next look: longer
	// than a broker holds a request for messages (5 s), of any host, which it carries out when that time is over and then makes the group.
	removeTries = 3
	removePause = 5500 * time.Millisecond
)

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

// receiver is one client id's part. ready is closed when client or err is set.
type receiver struct {
	key     string
	ready   chan struct{}
	client  *ConsumerClient
	err     error
	holders int
	used    time.Time
	marked  time.Time
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

// ReceiverWindow is Receiver; see server.Broadcaster.
func (b *BroadcastClient) ReceiverWindow(ctx context.Context, clientID string, mayBeNew bool) (server.Window, func(), error) {
	client, release, err := b.Receiver(ctx, clientID, mayBeNew)
	if err != nil {
		return nil, nil, err
	}
	return client, release, nil
}

// Receiver answers the window of the receiver with that client id, and what lets it go again. It opens the receiver's client when there is none, and blocks
// for at most ctx. One that was never here, or has expired, is refused unless it may be new. Several calls may have one receiver: they share its messages.
func (b *BroadcastClient) Receiver(ctx context.Context, clientID string, mayBeNew bool) (window *ConsumerClient, release func(), err error) {
	for {
		window, release, err = b.receiver(ctx, driver.ReceiverKey(clientID), mayBeNew)
		if !mayBeNew || !errors.Is(err, errUnknownReceiver) {
			return window, release, err
		} // It was an acknowledgement that looked for the receiver first.
	}
}

// errUnknownReceiver: only who receives makes a receiver, not who acknowledges under a wrong name.
var errUnknownReceiver = driver.Errorf(driver.InvalidHandle, "client_id", "no receiver of this name has been here, or it has expired: acknowledge under the client_id that received")

func (b *BroadcastClient) receiver(ctx context.Context, key string, mayBeNew bool) (window *ConsumerClient, release func(), err error) {
	b.mu.Lock()
	r, err := b.receiverLocked(key, mayBeNew)
	b.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	select {
	case <-r.ready:
	case <-ctx.Done():
		b.release(r)
		return nil, nil, ctx.Err()
	}
	if r.err != nil {
		b.release(r)
		return nil, nil, r.err
	}
	return r.client, sync.OnceFunc(func() { b.release(r) }), nil
}

func (b *BroadcastClient) receiverLocked(key string, mayBeNew bool) (*receiver, error) {
	r := b.receivers[key]
	if r == nil && b.draining {
		return nil, delivery.ErrDraining // those that are here acknowledge until the end
	}
	if r == nil {
		if n := len(b.receivers); n >= b.spec.Consumer.MaxReceivers {
			return nil, tooManyReceivers(n, "on this host", b.spec.Consumer.MaxReceivers)
		}
		r = &receiver{key: key, ready: make(chan struct{})}
		b.receivers[key] = r
		b.work.Add(1)
		go b.openReceiver(r, b.spec, mayBeNew)
	}
	r.holders++
	return r, nil
}

func tooManyReceivers(n int, where string, limit int) error {
	return driver.Errorf(driver.Throttled, "client_id",
		"this Consumer has %d receivers %s, which is all it may have (maxReceivers is %d): use the client ids that there are, or wait until one has expired", n, where, limit)
}

func (b *BroadcastClient) release(r *receiver) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.holders--
	r.used = time.Now()
}

// openReceiver opens r's client. It does not belong to the caller that came first: one that gives up spoils nothing for the others.
func (b *BroadcastClient) openReceiver(r *receiver, spec registry.Spec, mayBeNew bool) {
	defer b.work.Done()
	ctx, cancel := context.WithTimeout(b.life, receiverOpenTimeout)
	defer cancel()
	own := receiverSpec(spec, r.key)
	err := b.admit(ctx, r.key, spec, mayBeNew)
	var client *ConsumerClient
	if err == nil {
		client, err = b.open(ctx, own)
	}
	if err == nil {
		// Before the first fetch: of two that write a group's first position at once, a broker may lose one.
		if err = b.keeper.MarkGroup(ctx, own.Consumer.Config); err != nil {
			err = errors.Join(err, client.Close(context.WithoutCancel(ctx)))
		}
	}
	latest, late := b.settle(r, client, err)
	switch {
	case late:
		if err := client.Close(context.WithoutCancel(ctx)); err != nil {
			b.log.Info("a receiver's client did not close cleanly", "group", own.Group, "error", err.Error())
		}
	case err == nil:
		client.Update(receiverSpec(latest, r.key)) // it may have changed meanwhile
	}
	close(r.ready)
}

// settle keeps what an opening brought. late: the drain has begun, and nobody shall have the client any more.
func (b *BroadcastClient) settle(r *receiver, client *ConsumerClient, err error) (latest registry.Spec, late bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if late = err == nil && b.draining; late {
		err = delivery.ErrDraining
	}
	if r.err = err; err != nil {
		delete(b.receivers, r.key)
		return b.spec, late
	}
	r.client, r.marked, r.used = client, time.Now(), time.Now()
	if b.known != nil {
		b.known[r.key] = true
	}
	return b.spec, false
}

// receiverSpec is spec for the client of one receiver. Its tokens are its own: those of another receiver are not accepted.
func receiverSpec(spec registry.Spec, key string) registry.Spec {
	own := *spec.Consumer
	own.Config.Group = driver.ReceiverGroup(own.Config.Group, key)
	spec.Consumer, spec.Group, spec.UID = &own, own.Config.Group, receiverUID(spec.UID, key)
	return spec
}

func receiverUID(uid, key string) string { return uid + "/" + key }

// admit refuses a receiver that is new when there are as many groups at the brokers as there may be, wherever their receivers are.
func (b *BroadcastClient) admit(ctx context.Context, key string, spec registry.Spec, mayBeNew bool) error {
	b.mu.Lock()
	known, n, age := b.known[key], len(b.known), time.Since(b.listedAt)
	b.mu.Unlock()
	if known {
		return nil
	}
	if !mayBeNew {
		seen, err := b.keeper.GroupSeen(ctx, receiverSpec(spec, key).Consumer.Config)
		if err == nil && seen.IsZero() {
			err = errUnknownReceiver
		}
		return err
	}
	// Before one is refused the brokers are asked again, but not for each: another host may have made its group, or groups may have expired.
	if age > b.periods.Listed || n >= spec.Consumer.MaxReceivers && age > b.periods.Listed/10 {
		groups, err := b.list(ctx, spec)
		if err != nil {
			return err
		}
		known, n = groups[key], len(groups)
	}
	if !known && n >= spec.Consumer.MaxReceivers {
		return tooManyReceivers(n, "on all hosts", spec.Consumer.MaxReceivers)
	}
	return nil
}

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

// Window is the window of the receiver that has this UID (see delivery.Origin), for what another host asks of it. False when it is not here.
func (b *BroadcastClient) Window(uid string) (*ConsumerClient, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, r := range b.receivers {
		if receiverUID(b.spec.UID, key) == uid && r.client != nil {
			return r.client, true
		}
	}
	return nil, false
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
