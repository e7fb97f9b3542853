// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// maxFates bounds the memory of what was decided: 32,768 transactions, about 6 MB. What is forgotten the broker's index tells, but for rollbacks.
const maxFates = 32 << 10

// transactions is what a transactional producer has beside a plain one. It is safe for concurrent use.
type transactions struct {
	p *producer
	// holder is what the broker's locks know us by.
	holder string

	// state is guarded by its mutex; nothing is asked and nobody waits under it.
	state struct {
		sync.Mutex
		fates map[string]*fate
		// order has the keys of fates, the oldest first.
		order    []string
		held     []heldLock
		watchers []*watcher
		turn     int
	}
}

// fate is what this process knows of one transaction. Whoever has claimed it reads and writes everything but busy.
type fate struct {
	// decision is what the broker confirmed, at that time; empty = nothing is known.
	decision driver.Decision
	at       time.Time
	// unclearUntil: a commit got no answer and may have an effect until then.
	unclearUntil time.Time
	// locks counts the locks of this transaction that are on their way back or held for later; see holderFor.
	locks int
	// busy is closed when the claim ends; nil = nobody has it. It is guarded by transactions.state.
	busy chan struct{}
}

func newTransactions(p *producer) *transactions {
	t := &transactions{p: p, holder: string(p.cfg.ClientID) + "_" + uuid.NewString()[:8]}
	t.state.fates = make(map[string]*fate)
	return t
}

// holderFor is what the next lock for o is taken by. Each gives back what it took: a request of an earlier call that gives a lock back, and comes late, leaves
// the later one alone.
func (t *transactions) holderFor(o *fate) string {
	if o.locks == 0 {
		return t.holder
	}
	return t.holder + "_" + strconv.Itoa(o.locks)
}

func (o *fate) unclear(now time.Time) bool { return now.Before(o.unclearUntil) }

// fresh: it was committed so short a time ago that the index need not have it, and that its lock may still be held.
func (o *fate) fresh(now time.Time) bool {
	return o.decision == driver.Commit && now.Sub(o.at) < unclearFor
}

func (o *fate) decide(d driver.Decision) {
	o.decision, o.at, o.unclearUntil = d, time.Now(), time.Time{}
}

// claim waits until no other call of this process ends the transaction. The caller owes an unclaim.
func (t *transactions) claim(ctx context.Context, key string) (*fate, error) {
	for {
		o, wait := t.tryClaim(key)
		if wait == nil {
			return o, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (t *transactions) tryClaim(key string) (o *fate, wait <-chan struct{}) {
	t.state.Lock()
	defer t.state.Unlock()
	o = t.state.fates[key]
	switch {
	case o == nil:
		t.makeRoomLocked()
		o = &fate{}
		t.state.fates[key] = o
		t.state.order = append(t.state.order, key)
	case o.busy != nil:
		return nil, o.busy
	}
	o.busy = make(chan struct{})
	return o, nil
}

func (t *transactions) unclaim(o *fate) {
	t.state.Lock()
	defer t.state.Unlock()
	close(o.busy)
	o.busy = nil
}

// makeRoomLocked forgets the oldest. One that is being ended, or whose commit is unclear, goes to the end of the line.
func (t *transactions) makeRoomLocked() {
	now := time.Now()
	for n := len(t.state.order); n >= maxFates; n-- {
		key := t.state.order[0]
		t.state.order = t.state.order[1:]
		if o := t.state.fates[key]; o.busy != nil || o.unclear(now) {
			t.state.order = append(t.state.order, key)
			continue
		}
		delete(t.state.fates, key)
		return
	}
}

// known is what was decided, empty when that is not known; it waits for nobody.
func (t *transactions) known(h wire.Half) driver.Decision {
	t.state.Lock()
	defer t.state.Unlock()
	if o := t.state.fates[fateKey(h)]; o != nil && o.busy == nil {
		return o.decision
	}
	return ""
}
