// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"context"
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	clientgate "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/gate"
)

// watcher is one WatchChecks.
type watcher struct {
	group string
	take  func(driver.Check) bool
	gate  *clientgate.Gate
}

// question is a check on its way to those who may be asked, in turn.
type question struct {
	check    driver.Check
	watchers []*watcher
}

// WatchChecks implements driver.Transactional. While nobody watches, nobody is asked and nothing is given up.
func (p *producer) WatchChecks(take func(driver.Check) bool) (stop func()) {
	if !p.transactional || !p.enter() {
		return func() {}
	}
	defer p.inside.Done()
	w := &watcher{group: withNamespace(p.namespace, p.group), take: take, gate: clientgate.New()}
	b := p.broker
	b.mu.Lock()
	b.state.transactions.watchers = append(b.state.transactions.watchers, w)
	p.watchers = append(p.watchers, w)
	b.armChecks()
	b.mu.Unlock()
	return func() { p.unwatch(w) }
}

// unwatch joins calls of take.
func (p *producer) unwatch(w *watcher) {
	b := p.broker
	b.mu.Lock()
	all := &b.state.transactions
	isIt := func(other *watcher) bool { return other == w }
	all.watchers, p.watchers = slices.DeleteFunc(slices.Clone(all.watchers), isIt), slices.DeleteFunc(slices.Clone(p.watchers), isIt)
	b.armChecks()
	b.mu.Unlock()
	// The context has no end, so that there is no error.
	_ = w.gate.Close(context.Background(), func() error {
		w.gate.Wait()
		return nil
	})
}

// armChecks sets the timer for the next check, or stops it when there is nobody to ask or nothing to ask for. Called under mu.
func (b *Broker) armChecks() {
	all := &b.state.transactions
	if all.timer != nil {
		all.timer.Stop()
		all.timer = nil
	}
	if len(all.watchers) == 0 || len(all.undecided) == 0 {
		return
	}
	next := slices.MinFunc(all.undecided, func(x, y *half) int { return int(x.next - y.next) }).next
	all.timer = time.AfterFunc(max(0, next-b.now()), b.ask)
}

// ask asks for everything that is due. It runs in the timer's goroutine.
func (b *Broker) ask() {
	for _, q := range b.due() {
		for _, w := range q.watchers {
			if !w.gate.Enter() {
				continue
			}
			taken := w.take(q.check)
			w.gate.Leave()
			if taken {
				break
			}
		}
	}
}

// due counts the checks that are due, gives up what was asked for too often, and sets the timer anew.
func (b *Broker) due() []question {
	b.mu.Lock()
	defer b.mu.Unlock()
	all, now := &b.state.transactions, b.now()
	var asked []question
	for _, h := range slices.Clone(all.undecided) {
		if h.next > now {
			continue
		}
		if h.times++; h.times > b.options.TransactionCheckMax {
			h.gaveUp = true
			b.ended(h)
			b.dismiss(h)
			continue
		}
		h.next = now + b.options.TransactionCheckInterval
		asked = append(asked, question{
			check: driver.Check{
				Message: cloneMessage(&h.Message), Handle: b.halfHandle(h.number), Times: h.times, BornTime: h.born,
			},
			watchers: all.of(h.group),
		})
	}
	b.armChecks()
	return asked
}

// of are the watchers of group, another one first each time.
func (all *transactions) of(group string) []*watcher {
	var found []*watcher
	for _, w := range all.watchers {
		if w.group == group {
			found = append(found, w)
		}
	}
	if len(found) == 0 {
		return nil
	}
	all.turn++
	first := all.turn % len(found)
	return append(slices.Clone(found[first:]), found[:first]...)
}
