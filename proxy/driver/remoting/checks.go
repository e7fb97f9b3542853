// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/gate"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

const (
	// checkQueue is how many checks may wait here for their turn; what is above comes again. checkWorkers look after them, while there are any.
	checkQueue   = 4096
	checkWorkers = 16
	// settleLimit bounds what is done for one check.
	settleLimit = 15 * time.Second
)

// checks are the brokers' questions about transactions, of all producers of a cluster. The connections' readers put them in.
type checks struct {
	mu sync.Mutex // guards what follows
	// producers watch their groups, which have their namespace. Of two of one group, an old client and its successor, either will do.
	producers map[string][]*producer
	waiting   []*wire.Command
	workers   int
}

// onRequest takes what brokers ask. It is called by a connection's reader and waits for nobody.
func (cl *cluster) onRequest(_ string, cmd *wire.Command) *wire.Command {
	if wire.IsTransactionCheck(cmd) && cl.checks.put(cmd) && !cl.start(cl.workOnChecks) {
		cl.checks.workerLeft()
	}
	return nil
}

// put answers whether one more worker is to be started.
func (c *checks) put(cmd *wire.Command) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.producers) == 0 || len(c.waiting) >= checkQueue {
		return false // it comes again
	}
	c.waiting = append(c.waiting, cmd)
	more := c.workers < checkWorkers
	if more {
		c.workers++
	}
	return more
}

func (c *checks) workerLeft() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.workers--
}

// next is a check to work on; nil = there is none, and the worker has left.
func (c *checks) next() *wire.Command {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 {
		c.waiting = nil
		c.workers--
		return nil
	}
	cmd := c.waiting[0]
	c.waiting[0] = nil
	c.waiting = c.waiting[1:]
	return cmd
}

func (c *checks) producer(group string) *producer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if all := c.producers[group]; len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

func (cl *cluster) workOnChecks() {
	for cmd := cl.checks.next(); cmd != nil; cmd = cl.checks.next() {
		check, err := wire.DecodeTransactionCheck(cmd)
		if err != nil {
			cl.driver.log.Info("A check of a transaction could not be read; it comes again", "reason", err.Error())
			continue
		}
		if p := cl.checks.producer(check.Group); p != nil && p.gate.Enter() {
			p.check(cl.life, check)
			p.gate.Leave()
		}
	}
}

// check settles a check without the application where that is possible, and hands it on otherwise. A commit is believed only when the message is in its
// topic: a broker whose machine lost power may have lost it, and asks because of that.
func (p *producer) check(ctx context.Context, check wire.TransactionCheck) {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	defer context.AfterFunc(p.gate.Life(), cancel)()
	e := ending{p: p, h: check.Half, d: driver.Commit}
	var err error
	n := 0
	if e.address, err = p.halfAddress(ctx, check.Half); err == nil {
		n, err = e.copies(ctx)
	}
	known := p.transactions.known(check.Half)
	switch {
	case err != nil:
	case n > 0:
		e.settle(ctx)
		return
	case known != "":
		err = p.end(ctx, check.Half, known)
	default:
		p.transactions.ask(driver.Check{Message: p.checked(check), Handle: halfHandle(check.Half), Times: check.Times, BornTime: check.Message.Born})
		return
	}
	if err != nil {
		p.cluster.driver.log.V(verbose).Info("A check of a transaction was not settled and comes again", "group", p.cfg.Group, "broker", check.Broker,
			"reason", err.Error())
	}
}

// checked is the message of a check as its sender wrote it.
func (p *producer) checked(check wire.TransactionCheck) driver.Message {
	m := &check.Message
	return driver.Message{
		ID: check.ID, Topic: wire.WithoutNamespace(p.cfg.Connection.Namespace, check.Topic), Tag: m.Properties[driver.PropertyTag],
		Keys: driver.SplitKeys(m.Properties[driver.PropertyKeys]), Properties: driver.OrdinaryProperties(m.Properties), Body: m.Body,
	}
}

// watcher is one WatchChecks.
type watcher struct {
	take func(driver.Check) bool
	gate *gate.Gate
}

// WatchChecks implements driver.Transactional.
func (p *producer) WatchChecks(take func(driver.Check) bool) (stop func()) {
	if p.transactions == nil || !p.gate.Enter() {
		return func() {}
	}
	defer p.gate.Leave()
	w := &watcher{take: take, gate: gate.New()}
	if p.transactions.add(w) {
		p.cluster.watch(p)
	}
	return func() {
		if p.transactions.remove(w) {
			p.cluster.unwatch(p)
		}
		w.end()
	}
}

// end joins calls of take.
func (w *watcher) end() {
	// The context has no end, so that there is no error.
	_ = w.gate.Close(context.Background(), func() error {
		w.gate.Wait()
		return nil
	})
}

// add reports whether w is the first.
func (t *transactions) add(w *watcher) bool {
	t.state.Lock()
	defer t.state.Unlock()
	t.state.watchers = append(t.state.watchers, w)
	return len(t.state.watchers) == 1
}

// remove reports whether w was the last.
func (t *transactions) remove(w *watcher) bool {
	t.state.Lock()
	defer t.state.Unlock()
	for i, known := range t.state.watchers {
		if known == w {
			t.state.watchers = append(t.state.watchers[:i:i], t.state.watchers[i+1:]...)
			return len(t.state.watchers) == 0
		}
	}
	return false
}

// ask hands a check to the watchers, in turn, until one takes it.
func (t *transactions) ask(check driver.Check) {
	t.state.Lock()
	watchers, turn := t.state.watchers, t.state.turn
	t.state.turn++
	t.state.Unlock()
	for i := range watchers {
		w := watchers[(turn+i)%len(watchers)]
		if !w.gate.Enter() {
			continue
		}
		taken := w.take(check)
		w.gate.Leave()
		if taken {
			return
		}
	}
}

// close ends the watching, and gives back what may go.
func (t *transactions) close() {
	t.state.Lock()
	watchers := t.state.watchers
	t.state.watchers = nil
	t.state.Unlock()
	if len(watchers) > 0 {
		t.p.cluster.unwatch(t.p)
	}
	for _, w := range watchers {
		w.end()
	}
	t.p.cluster.forgetTransactions(t)
	t.release(t.p.cluster.life, lastRoundLimit)
}
