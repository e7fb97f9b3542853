// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// receiverOpenTimeout bounds the opening of a receiver's client.
const receiverOpenTimeout = 15 * time.Second

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
