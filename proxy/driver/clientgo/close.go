// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Close implements driver.Consumer.
func (c *consumer) Close(ctx context.Context) error {
	if err := c.gate.Close(ctx, c.shutdown); err != nil {
		return wire.Errorf(err, "close the consumer of group %q", c.cfg.Group)
	}
	return nil
}

// shutdown stops the consumer. The order is what keeps the library from ending the whole process: its Shutdown closes the channel of each queue in its
// table while a pull loop may be sending to it, in a goroutine without a recover (upstream #1051). Here nothing is sent by then, and the
// table is empty; each alone would do. It waits for no poll: loops in a poll are left alone and end by themselves, up to 30 s later.
func (c *consumer) shutdown() error {
	// 1. No new leases; Fetch and everything with a handle answer ErrClosed. Nothing passes the inlet any more: pull loops that come with
	// messages park there, before the channel.
	c.leases.close()
	// 2. Nacks and dead letters under way were cancelled when the gate was shut; each has its answer when this returns.
	c.gate.Wait()
	c.watching.Wait()
	var failed []error
	// 3. A rebalance under way ends, and none begins until the library is stopped: it could make a queue that nobody drops.
	resumeRebalances := hold(c.rebalancing)
	// 4. The library forgets its queues: it drops each one, which wakes its loops, and writes its position without waiting for an answer. The
	// blocked callbacks' return means nothing from here on.
	failed = append(failed, guarded("forget the queues", c.forgetQueues))
	// 5. What was acknowledged is committed, with an answer, before the broker learns that this member has gone.
	failed = append(failed, c.commit())
	// 6. A heartbeat under way ends before timers end and broker connections close: one that went on would connect again and leave a member in the
	// group that takes queues and never reads them, for a minute or two.
	resumeHeartbeats := hold(c.beating)
	failed = append(failed, guarded("shut the consumer down", c.stopLibrary))
	resumeHeartbeats()
	resumeRebalances()
	// 7. Parked loops and blocked callbacks leave.
	c.leases.release()
	c.wire.Close()
	c.driver.delist(c.label)
	return errors.Join(failed...)
}

const (
	holdLimit = 10 * time.Second
	holdLook  = 2 * time.Millisecond
)

// hold takes a lock that the library holds while it does something, and returns what gives it back. What it does may be asking brokers that are dead,
// so the wait is bounded; without the lock something may stay behind, nothing worse.
func hold(lock *sync.Mutex) (release func()) {
	look := time.NewTicker(holdLook)
	defer look.Stop()
	for limit := time.Now().Add(holdLimit); time.Now().Before(limit); <-look.C {
		if lock.TryLock() {
			return lock.Unlock
		}
	}
	return func() {}
}

// forgetQueues ends all subscriptions and makes the library act on it.
func (c *consumer) forgetQueues() error {
	for _, s := range c.cfg.Subscriptions {
		if err := c.library.Unsubscribe(c.prover.Name(s.Topic)); err != nil {
			return err
		}
	}
	for _, topic := range c.retries.known() {
		if err := c.library.Unsubscribe(topic); err != nil {
			return err
		}
	}
	if err := c.library.Unsubscribe(wire.RetryTopic(c.group)); err != nil {
		return err
	}
	c.library.Rebalance()
	return nil
}

func (c *consumer) stopLibrary() error {
	err := c.library.Shutdown()
	if err := closeNameServer(c.library, nameServerOfConsumer...); err != nil {
		c.driver.log.V(verboseError).Info("The library's connection to the name server stays open", "reason", err.Error())
	}
	return err
}

// commit writes the position of each queue that is still ours. Messages that are open below one that was acknowledged would hold the position down,
// and with it bring back what was acknowledged; they are given back to the broker by another way, the group's retry topic, as they were.
func (c *consumer) commit() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	open := c.leases.leftOpen()
	return proof.All(ctx, len(open), func(ctx context.Context, i int) error { return c.commitQueue(ctx, open[i]) })
}

func (c *consumer) commitQueue(ctx context.Context, q *queue) error {
	address, ok := (*c.masters.Load())[q.key.broker]
	if !ok {
		return driver.Errorf(driver.Unavailable, "", "commit queue %d of %q: broker %q has no master at present", q.key.id, q.key.topic, q.key.broker)
	}
	for _, a := range c.leases.holes(q) {
		if _, err := c.wire.Send(ctx, address, c.copyOf(a)); err != nil {
			return wire.Errorf(err, "give message %q back to broker %s", a.content.ID, q.key.broker)
		}
		c.leases.givenAway(a)
	}
	to := c.leases.committable(q)
	target := wire.Queue{Topic: q.key.topic, Broker: q.key.broker, Address: address, ID: q.key.id}
	// Never back: another member may have gone on from here.
	at, err := c.wire.ConsumerOffset(ctx, target, c.group)
	if err == nil && (!at.Known || at.Offset < to) {
		err = c.wire.SetConsumerOffset(ctx, target, c.group, to)
	}
	if err != nil {
		return wire.Errorf(err, "commit offset %d of queue %d of %q", to, q.key.id, q.key.topic)
	}
	return nil
}
