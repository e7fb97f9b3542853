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

// Brokers commit what they are told to commit, as often as they are told: a second commit, through the same handle or through that of a check, delivers a
// second time. So who commits makes sure that nobody has, and that nobody does:
//
//  1. In this process one call at a time ends a transaction (claim in fates.go). One that knows the outcome is answered from memory.
//  2. The broker lends a lock of the transaction's name, and tells from its index whether the message is in its topic. Both are asked for at once.
//  3. In the topic: it was committed. The place at hand is rolled back if it is that of a check, which only ends the asking.
//  4. Not there, and the lock is ours: commit. The lock is given back when the index surely has the message (locks.go), so that who gets it next finds
//     it. After a commit without an answer it is kept until that can have no effect any more.
//
// What is left: a broker that restarts forgets its locks. When it does between (2) and (4) of one host, and another host ends the same transaction at that
// time, it may be delivered twice. So may one whose host is stopped (SIGSTOP) for more than half a minute right before it writes the commit.
const (
	// lockPatience is how long a call waits for the lock that another host has.
	lockPatience = 10 * time.Second
	// lockTurn is the pause between two tries to get it.
	lockTurn = 100 * time.Millisecond
	// endLimit bounds a commit; commitBy is how long after the lock was asked for it may begin. Together with a request's longest wait at the broker (3 s,
	// waitTimeMillsInTransactionQueue) they are far below wire.LockLife.
	endLimit = 10 * time.Second
	commitBy = 20 * time.Second
	// unclearFor is how long a commit without an answer may still have an effect.
	unclearFor = 30 * time.Second
	// heldAtLeast is how long a lock is held after a commit, and with it how old the index's answer may be when the lock's comes; see inspect.
	heldAtLeast = time.Second
)

// End implements driver.Transactional.
func (p *producer) End(ctx context.Context, handle driver.TransactionHandle, d driver.Decision) error {
	switch {
	case p.transactions == nil:
		return driver.ErrNoTransactions()
	case d != driver.Commit && d != driver.Rollback:
		return driver.Errorf(driver.InvalidMessage, "decision", "%q is neither %s nor %s", d, driver.Commit, driver.Rollback)
	case !p.gate.Enter():
		return errClosed()
	}
	defer p.gate.Leave()
	h, err := parseHalf(handle)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.gate.Life(), cancel)()
	if err = p.end(ctx, h, d); err != nil && p.gate.Shut() && driver.Retryable(err) {
		return errClosed()
	}
	return err
}

func (p *producer) end(ctx context.Context, h wire.Half, d driver.Decision) error {
	o, err := p.transactions.claim(ctx, fateKey(h))
	if err != nil {
		return wire.Errorf(err, "wait for another call that ends the transaction")
	}
	defer p.transactions.unclaim(o)
	switch {
	case o.decision == "":
	case o.decision != d:
		return errEnded(o.decision)
	case !h.Checked:
		return nil
	}
	e := ending{p: p, h: h, d: d, o: o, lock: wire.Lock{Topic: h.Topic, Name: halfKey(h)}}
	if e.address, err = p.halfAddress(ctx, h); err != nil {
		return err
	}
	return e.run(ctx)
}

// ending is one call on its way to the broker. It has the claim.
type ending struct {
	p       *producer
	h       wire.Half
	d       driver.Decision
	o       *fate
	address string
	lock    wire.Lock
}

func (e *ending) run(ctx context.Context) error {
	until := time.Now().Add(lockPatience)
	for {
		asked := time.Now()
		// While a commit of ours may not be in the index yet, its lock is ours as well and would prove nothing.
		unclear, fresh := e.o.unclear(asked), e.o.fresh(asked)
		there, locked, err := e.inspect(ctx, !unclear && !fresh)
		switch {
		case err != nil:
			return e.judge(ctx, err)
		case there:
			if locked {
				e.unlock()
			}
			return e.committedBefore(ctx)
		case locked:
			return e.decide(ctx, asked)
		case time.Now().After(until):
			what := "another host is ending this transaction, or stopped while it did"
			if fresh {
				what = "it was committed, and the broker's index does not have it yet"
			}
			if unclear {
				what = "a commit of this transaction got no answer, and whether it had an effect is not known yet"
			}
			return driver.Errorf(driver.Unavailable, "", "%s; try again: within a minute it is known", what)
		}
		if !e.p.sleep(ctx, lockTurn) {
			return e.judge(ctx, context.Cause(ctx))
		}
	}
}

// inspect asks whether the message is in its topic, and for the lock unless lock is false, both at once. The index's answer counts if the lock's came
// soon: locks are held for heldAtLeast after the index had the message, so a lock that was free had been given back since only if its answer took longer.
func (e *ending) inspect(ctx context.Context, lock bool) (there, locked bool, err error) {
	asked := time.Now()
	var lockErr error
	var both sync.WaitGroup
	if lock {
		both.Go(func() {
			locked, lockErr = e.p.cluster.wire.Lock(ctx, e.address, e.p.group(), e.p.transactions.holderFor(e.o), e.lock)
		})
	}
	n, err := e.copies(ctx)
	both.Wait()
	if err == nil {
		err = lockErr
	}
	if err == nil && n == 0 && locked && time.Since(asked) >= heldAtLeast {
		n, err = e.copies(ctx)
	}
	if err != nil {
		if locked {
			e.unlock()
		}
		return false, false, err
	}
	return n > 0, locked, nil
}

func (e *ending) copies(ctx context.Context) (int, error) {
	return e.p.cluster.wire.Copies(ctx, e.address, e.h.Topic, e.h.ID, e.h.Born)
}

// committedBefore answers for a transaction whose message is in its topic.
func (e *ending) committedBefore(ctx context.Context) error {
	e.o.decide(driver.Commit)
	e.settle(ctx)
	if e.d == driver.Rollback {
		return errEnded(driver.Commit)
	}
	return nil
}

// settle ends the asking for the place at hand, of a transaction that was committed at another one. When that fails the broker asks again.
func (e *ending) settle(ctx context.Context) {
	if !e.h.Checked {
		return
	}
	if err := e.p.cluster.wire.EndTransaction(ctx, e.address, e.p.group(), e.h, false); err != nil {
		e.p.cluster.driver.log.V(verbose).Info("A check of a committed transaction was not settled and comes again", "group", e.p.cfg.Group,
			"broker", e.h.Broker, "reason", err.Error())
	}
}

// decide sends the decision; the lock is ours and was asked for at that time.
func (e *ending) decide(ctx context.Context, asked time.Time) error {
	t := e.p.transactions
	limit, cancel := context.WithTimeout(ctx, min(e.p.cfg.SendTimeout, endLimit))
	defer cancel()
	if time.Since(asked) > commitBy {
		e.unlock()
		return driver.Errorf(driver.Unavailable, "", "broker %s is too slow to end a transaction safely; try again", e.h.Broker)
	}
	sent := time.Now()
	err := e.p.cluster.wire.EndTransaction(limit, e.address, e.p.group(), e.h, e.d == driver.Commit)
	e.p.note(noteOf(err))
	switch {
	case err == nil:
		e.o.decide(e.d)
		t.done(e, sent)
		return nil
	case e.d == driver.Rollback || surelyRefused(err):
		e.unlock()
		return e.judge(ctx, err)
	default:
		e.o.unclearUntil = time.Now().Add(unclearFor)
		t.hold(e, sent, e.o.unclearUntil)
		return e.await(ctx, err)
	}
}

// await looks for the effect of a commit that got no answer.
func (e *ending) await(ctx context.Context, cause error) error {
	for until := time.Now().Add(lockPatience); time.Now().Before(until); {
		if there, _, err := e.inspect(ctx, false); err == nil && there {
			return e.committedBefore(ctx)
		}
		if !e.p.sleep(ctx, lockTurn) {
			break
		}
	}
	return e.judge(ctx, cause)
}
