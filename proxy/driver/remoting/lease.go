// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

const (
	// revive is how much later than a lease's end the broker delivers again, at least: PopReviveService (5.5.0) waits until it has read what was
	// stored 2 s after it. A delay is therefore asked for that much shorter, and there is none below it.
	revive = 2 * time.Second
	// returnsAtOnce bounds how many messages of one GiveBack are on their way to the broker at the same time.
	returnsAtOnce = 64
)

// Nack implements driver.Consumer. The message comes again after the delay, but not before 2 s; one that was popped in order comes when its time is over.
func (c *consumer) Nack(ctx context.Context, h driver.Handle, delay time.Duration) (time.Duration, error) {
	asked := max(delay.Truncate(time.Millisecond), 0)
	delay = max(asked, revive)
	invisible := delay - revive
	switch l, ok := parseHandle(h, c.marks); {
	case ok && c.sources[l.source].classic:
		return c.resend(ctx, h, delay)
	case ok && l.pop.Ordered():
		delay, invisible = asked, asked
	}
	if c.Superseded(h) {
		return delay, c.Ack(ctx, []driver.Handle{h})[0] // a retry of it would be dropped
	}
	_, err := c.changing(ctx, h, invisible)
	return delay, err
}

// Extend implements driver.Consumer.
func (c *consumer) Extend(ctx context.Context, h driver.Handle, d time.Duration) (driver.Handle, time.Time, error) {
	l, err := c.changing(ctx, h, min(max(d, minLease), maxLease))
	if err != nil {
		return "", time.Time{}, err
	}
	return l.handle(c.marks), l.until(c.clocks, time.Now()), nil
}

// changing enters the gate and changes the time of one message.
func (c *consumer) changing(ctx context.Context, h driver.Handle, invisible time.Duration) (lease, error) {
	if !c.gate.Enter() {
		return lease{}, errClosed()
	}
	defer c.gate.Leave()
	ctx, cancel := c.bound(ctx)
	defer cancel()
	l, address, err := c.changeable(ctx, h)
	if err != nil {
		return lease{}, err
	}
	sent := time.Now()
	answer, err := c.cluster.wire.Invoke(ctx, address, c.change(&l, invisible, false))
	if err != nil {
		if c.gate.Shut() {
			return lease{}, errClosed()
		}
		return lease{}, wire.Errorf(err, "change a lease at broker %s", l.pop.Broker)
	}
	return c.changed(l, invisible, address, answer, sent, time.Now())
}

// bound is ctx that ends with the consumer.
func (c *consumer) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.gate.Life(), cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// changeable is the lease of a handle that may be changed, and where to ask. A change after an acknowledgement makes the broker deliver the message
// again; it does not look. The window above sees to it that there is none; what this process acknowledged lately is refused here as well.
func (c *consumer) changeable(ctx context.Context, h driver.Handle) (lease, string, error) {
	l, err := c.running(h, time.Now())
	if err != nil {
		return lease{}, "", err
	}
	if c.recent.has(&l) {
		return lease{}, "", driver.Errorf(driver.LeaseExpired, "", "the message was acknowledged already")
	}
	address, err := c.cluster.address(ctx, c.sources[l.source].topic, l.pop.Broker)
	if err != nil {
		return lease{}, "", wire.Errorf(err, "change a lease at broker %s", l.pop.Broker)
	}
	return l, address, nil
}

func (c *consumer) change(l *lease, invisible time.Duration, uncounted bool) *wire.Command {
	return wire.ChangeCommand(wire.InvisibleChange{
		Group: c.group, Topic: c.sources[l.source].topic, Handle: l.pop, Invisible: invisible, Suspend: uncounted,
	})
}

// changed reads the answer to a change. It has the moment of the change by the broker's own clock, so that there is no doubt whether it came in time. One
// that came too late has an effect all the same: in the 2 s before the broker delivers again it takes the place of the old lease, and the message would
// be away for the new time although we say that it comes again. So that time is ended at once.
func (c *consumer) changed(l lease, invisible time.Duration, address string, answer *wire.Command, sent, received time.Time) (lease, error) {
	if l.pop.Ordered() {
		return c.changedInOrder(l, invisible, address, answer, sent, received)
	}
	c.heard(l.pop.Broker, answer, sent, received)
	pop, err := wire.DecodeChange(answer, l.pop)
	if err != nil {
		return lease{}, wire.Errorf(err, "read the answer of broker %s to a change of a lease", l.pop.Broker)
	}
	end := l.expires()
	l.pop, l.skew = pop, c.clocks.skew(pop.Broker, received)
	if pop.PopTime < end {
		return l, nil
	}
	if pop.Invisible > 0 {
		c.endAgain(&l, address)
	}
	return lease{}, driver.Errorf(driver.LeaseExpired, "", "the lease had ended by the clock of broker %s when the change arrived", l.pop.Broker)
}

// endAgain ends a lease that was changed after its end.
func (c *consumer) endAgain(l *lease, address string) {
	ends := l.pop.Expires()
	c.cluster.wire.Go(address, c.change(l, 0, false), wire.RequestTimeout, func(answer *wire.Command, err error) {
		if err != nil || answer.Code != wire.CodeSuccess {
			c.driver.log.Info("A lease was changed after its end and could not be ended again; the message comes when the changed lease ends",
				"group", c.cfg.Group, "ends", ends)
		}
	})
}

// GiveBack implements driver.Consumer: the messages come again after about 2 s, uncounted.
func (c *consumer) GiveBack(ctx context.Context, handles []driver.Handle) []error {
	errs := make([]error, len(handles))
	if !c.gate.Enter() {
		return fill(errs, errClosed())
	}
	defer c.gate.Leave()
	ctx, cancel := c.bound(ctx)
	defer cancel()
	c.giveBack(ctx, handles, errs)
	return errs
}

// giveBack asks for all handles, many at a time, and waits for the answers or ctx's end.
func (c *consumer) giveBack(ctx context.Context, handles []driver.Handle, errs []error) {
	type result struct {
		place int
		err   error
	}
	results := make(chan result, len(handles)) // there is room for all, also when nobody waits any more
	open := 0
	take := func() bool {
		select {
		case r := <-results:
			errs[r.place] = r.err
			open--
			return true
		case <-ctx.Done():
			return false
		}
	}
	for i, h := range handles {
		l, address, err := c.changeable(ctx, h)
		if err == nil && c.superseded(&l) {
			c.drop(l, address)
			continue
		}
		if err == nil && open == returnsAtOnce && !take() {
			err = wire.Errorf(ctx.Err(), "give a message back to broker %s", l.pop.Broker)
		}
		if err != nil {
			errs[i] = err
			continue
		}
		open++
		errs[i] = driver.Errorf(driver.Timeout, "", "no answer of broker %s in time; whether the message is given back is unknown", l.pop.Broker)
		sent := time.Now()
		c.cluster.wire.Go(address, c.change(&l, 0, true), wire.RequestTimeout, func(answer *wire.Command, err error) {
			results <- result{i, c.returned(l, address, answer, err, sent)}
		})
	}
	for open > 0 && take() {
	}
}

// returned judges the answer to one give-back.
func (c *consumer) returned(l lease, address string, answer *wire.Command, err error, sent time.Time) error {
	if err == nil && answer.Code != wire.CodeSuccess {
		err = &wire.AnswerError{Address: l.pop.Broker, Code: answer.Code, Remark: answer.Remark}
	}
	if err != nil {
		return wire.Errorf(err, "give a message back to broker %s", l.pop.Broker)
	}
	if _, err = c.changed(l, 0, address, answer, sent, time.Now()); err == nil {
		c.countReturned(&l)
	}
	return err
}

// giveBackLater sends give-backs and waits for nothing. Those that fail come again at their lease's end, counted.
func (c *consumer) giveBackLater(handles []driver.Handle) {
	now := time.Now()
	for _, h := range handles {
		l, err := c.running(h, now)
		if err != nil {
			continue // it has expired by itself
		}
		address, ok := c.addressOf(l.pop.Broker)
		if !ok {
			continue
		}
		if c.superseded(&l) {
			c.drop(l, address)
			continue
		}
		sent := time.Now()
		c.cluster.wire.Go(address, c.change(&l, 0, true), wire.RequestTimeout, func(answer *wire.Command, err error) {
			if err := c.returned(l, address, answer, err, sent); err != nil {
				c.driver.log.V(verbose).Info("A message was not given back and comes again when its lease ends", "group", c.cfg.Group, "reason", err.Error())
			}
		})
	}
}

// addressOf is where a broker was last polled; it asks nobody.
func (c *consumer) addressOf(broker string) (string, bool) {
	c.state.Lock()
	defer c.state.Unlock()
	for _, p := range c.state.pairs {
		if p.broker == broker {
			return p.address, true
		}
	}
	return "", false
}

// recentAcks remembers the last acknowledgements of this process, for changeable. The zero value is ready; memory is taken with the first.
type recentAcks struct {
	mu   sync.Mutex
	keys []ackedKey // mu guards it and next
	next int
}

const recentMost = 512

type ackedKey struct {
	broker          string
	kind            wire.RetryKind
	source, queue   int
	offset, popTime int64
}

func (l *lease) key() ackedKey {
	return ackedKey{l.pop.Broker, l.pop.Kind, l.source, l.pop.Queue, l.pop.Offset, l.pop.PopTime}
}

func (r *recentAcks) add(l *lease) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.keys) < recentMost {
		r.keys = append(r.keys, l.key())
		return
	}
	r.keys[r.next] = l.key()
	r.next = (r.next + 1) % recentMost
}

func (r *recentAcks) has(l *lease) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := l.key()
	for i := range r.keys {
		if r.keys[i] == key {
			return true
		}
	}
	return false
}
