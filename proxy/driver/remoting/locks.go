// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

const (
	// unlockAtOnce is how many locks go back in one request.
	unlockAtOnce = 500
	// questionsAtOnce is how many questions a round may cost a broker.
	questionsAtOnce = 100
	// unlockLimit bounds the requests of one round, lastRoundLimit those of the last one, when the producer closes.
	unlockLimit    = 5 * time.Second
	lastRoundLimit = 2 * time.Second
)

// heldLock is a lock that goes back later: of a commit, when the index surely has its message.
type heldLock struct {
	lock                    wire.Lock
	holder, broker, address string
	half                    wire.Half
	// asked is when the commit was sent, since when it was answered.
	asked, since time.Time
	// keepUntil is set when the commit got no answer: the lock goes back then, whatever the index has.
	keepUntil time.Time
}

// done is told of a decision that the broker confirmed, under a lock.
func (t *transactions) done(e *ending, asked time.Time) {
	if e.d == driver.Rollback {
		e.unlock()
		return
	}
	t.hold(e, asked, time.Time{})
}

// hold keeps the lock of a commit for now.
func (t *transactions) hold(e *ending, asked, keepUntil time.Time) {
	holder := t.holderFor(e.o)
	e.o.locks++
	t.state.Lock()
	defer t.state.Unlock()
	t.state.held = append(t.state.held, heldLock{
		lock: e.lock, holder: holder, broker: e.h.Broker, address: e.address, half: e.h, asked: asked, since: time.Now(), keepUntil: keepUntil,
	})
}

// unlock gives the lock back without waiting for the answer. If it fails the broker forgets the lock after a minute.
func (e *ending) unlock() {
	t := e.p.transactions
	back := heldLock{lock: e.lock, holder: t.holderFor(e.o), broker: e.h.Broker, address: e.address}
	e.o.locks++
	t.p.cluster.start(func() {
		ctx, cancel := context.WithTimeout(t.p.cluster.life, unlockLimit)
		defer cancel()
		t.giveBack(ctx, []heldLock{back})
	})
}

// giveBack gives locks of one broker back.
func (t *transactions) giveBack(ctx context.Context, all []heldLock) {
	byHolder := make(map[string][]wire.Lock) // nearly always one
	for _, l := range all {
		byHolder[l.holder] = append(byHolder[l.holder], l.lock)
	}
	for holder, locks := range byHolder {
		t.unlockNow(ctx, all[0].broker, all[0].address, holder, locks)
	}
}

func (t *transactions) unlockNow(ctx context.Context, broker, address, holder string, locks []wire.Lock) {
	for some := range slices.Chunk(locks, unlockAtOnce) {
		if err := t.p.cluster.wire.Unlock(ctx, address, t.p.group(), holder, some); err != nil {
			t.p.cluster.driver.log.V(verbose).Info("Locks of transactions were not given back; the broker forgets them after a minute",
				"group", t.p.cfg.Group, "broker", broker, "locks", len(some), "reason", err.Error())
			return
		}
	}
}

// release gives back what may go, within limit.
func (t *transactions) release(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for address, held := range t.ripe(time.Now()) {
		free, kept := t.proven(ctx, address, held)
		t.putBack(kept)
		t.giveBack(ctx, free)
	}
}

// proven parts the locks whose commits the index has from the others. The broker builds the index in the order of its log: when it has a commit, it has all
// that were answered before that one was sent. So one question is enough for nearly all, however many there are.
func (t *transactions) proven(ctx context.Context, address string, held []heldLock) (free, kept []heldLock) {
	var open []heldLock
	for _, l := range held {
		if l.keepUntil.IsZero() {
			open = append(open, l)
		} else {
			free = append(free, l)
		}
	}
	slices.SortFunc(open, func(a, b heldLock) int { return b.asked.Compare(a.asked) }) // the one that was sent last comes first
	for questions := 0; len(open) > 0 && questions < questionsAtOnce; questions++ {
		last := open[0]
		n, err := t.p.cluster.wire.Copies(ctx, address, last.half.Topic, last.half.ID, last.half.Born)
		if err != nil {
			break
		}
		open = open[1:]
		if n == 0 {
			kept = append(kept, last)
			continue
		}
		free = append(free, last)
		open = slices.DeleteFunc(open, func(l heldLock) bool {
			before := !l.since.After(last.asked)
			if before {
				free = append(free, l)
			}
			return before
		})
	}
	return t.expired(free, append(kept, open...))
}

// expired moves those that the broker has forgotten itself by now. That its index does not have a commit for so long is worth a word: it may be switched off
// (messageIndexEnable), and without it a transaction that is ended again is delivered again.
func (t *transactions) expired(free, kept []heldLock) (all, left []heldLock) {
	now := time.Now()
	left = slices.DeleteFunc(kept, func(l heldLock) bool {
		old := now.Sub(l.since) > wire.LockLife
		if old {
			free = append(free, l)
		}
		return old
	})
	if n := len(kept) - len(left); n > 0 {
		t.p.cluster.driver.log.Info("Committed messages are not in the broker's index after a minute: transactions need it (messageIndexEnable=true)",
			"group", t.p.cfg.Group, "messages", n)
	}
	return free, left
}

// ripe takes out the locks that have been held for long enough, by address.
func (t *transactions) ripe(now time.Time) map[string][]heldLock {
	t.state.Lock()
	defer t.state.Unlock()
	ripe := make(map[string][]heldLock)
	t.state.held = slices.DeleteFunc(t.state.held, func(l heldLock) bool {
		if now.Before(l.keepUntil) || now.Sub(l.since) < heldAtLeast {
			return false
		}
		ripe[l.address] = append(ripe[l.address], l)
		return true
	})
	return ripe
}

func (t *transactions) putBack(locks []heldLock) {
	t.state.Lock()
	defer t.state.Unlock()
	t.state.held = append(locks, t.state.held...)
}
