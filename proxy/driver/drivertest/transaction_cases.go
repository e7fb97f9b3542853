// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var transactionCases = []testCase{
	{name: "nobody gets a message before its commit, and one after it, however often it is ended", run: caseCommit},
	{name: "a message that was rolled back never comes", run: caseRollback},
	{name: "any client of the group ends a transaction, and many at once deliver it once", run: caseEndAnywhere},
	{name: "an undecided transaction is asked for, and the answer decides it", run: caseCheck},
	{name: "a transaction that was committed after a check is delivered once, and not asked for again", run: caseCommitAfterCheck},
	{name: "an answer to a check and an end at the same time, on two hosts, deliver once", run: caseCheckAndEnd},
	{name: "transactions under one id are different ones", run: caseOneID},
	{name: "what cannot be a transaction is refused", run: caseBadTransactions},
	{name: "a closed client begins, ends and asks nothing", run: caseClosedTransactions},
}

// transactional opens a client of group that may begin transactions.
func (k *kit) transactional(group string, topics ...string) (driver.Producer, driver.Transactional) {
	k.Helper()
	if !k.caps.Transactions {
		k.Skip("this driver has no transactions")
	}
	cfg := k.producerConfig(topics...)
	cfg.Group, cfg.Transactions = group, true
	p, err := k.d.OpenProducer(k.within(k.facts.Open), cfg)
	if err != nil {
		k.Fatalf("open a transactional producer of %q: %v", topics, err)
	}
	k.Cleanup(func() { k.closing("producer", p) })
	return p, p.(driver.Transactional)
}

func (k *kit) begin(t driver.Transactional, m *driver.Message) driver.TransactionHandle {
	k.Helper()
	got, err := t.Begin(k.within(k.facts.Open), m)
	if err != nil || got.MessageID != m.ID || got.Handle == "" {
		k.Fatalf("begin: %+v, %v", got, err)
	}
	return got.Handle
}

func (k *kit) end(t driver.Transactional, h driver.TransactionHandle, d driver.Decision) {
	k.Helper()
	if err := t.End(k.within(k.facts.Open), h, d); err != nil {
		k.Fatalf("%s: %v", d, err)
	}
}

func (k *kit) cannotEnd(t driver.Transactional, h driver.TransactionHandle, d driver.Decision, want driver.Reason) {
	k.Helper()
	if err := t.End(k.within(k.facts.Open), h, d); driver.ReasonOf(err) != want {
		k.Errorf("%s: %v, want %s", d, err, want)
	}
}

// watch collects checks.
func (k *kit) watch(t driver.Transactional) <-chan driver.Check {
	checks := make(chan driver.Check, 1000)
	k.Cleanup(t.WatchChecks(func(c driver.Check) bool {
		checks <- c
		return true
	}))
	return checks
}

// check waits for one of m.
func (k *kit) check(checks <-chan driver.Check, m *driver.Message) driver.Check {
	k.Helper()
	limit := time.After(k.facts.Check)
	for {
		select {
		case c := <-checks:
			if c.ID == m.ID {
				return c
			}
		case <-limit:
			k.Fatalf("no check of %s came within %s", m.ID, k.facts.Check)
		}
	}
}

// noCheck demands that none of m comes for d.
func (k *kit) noCheck(checks <-chan driver.Check, m *driver.Message, d time.Duration) {
	k.Helper()
	limit := time.After(d)
	for {
		select {
		case c := <-checks:
			if c.ID == m.ID {
				k.Errorf("check %d of %s came", c.Times, m.ID)
			}
		case <-limit:
			return
		}
	}
}

func caseCommit(k *kit) {
	topic, group := k.h.NewTopic(k, 2), k.h.NewGroup(k)
	p, t := k.transactional(group, topic)
	c := k.consumer(k.h.NewGroup(k), topic)
	large := &driver.Message{ID: message(topic).ID, Topic: topic, Tag: "t", Keys: []string{"k1", "k2"}, Properties: map[string]string{"a": "b"}, Body: []byte(strings.Repeat("body ", 4_000))}
	plain := message(topic)
	h1, h2 := k.begin(t, large), k.begin(t, plain)
	k.fetchNone(c, k.facts.Quiet, "nothing is committed")
	k.end(t, h1, driver.Commit)
	k.end(t, h2, driver.Commit)
	k.send(p, message(topic))
	got := k.fetch(c, 3, longLease)
	k.wantSame([]*driver.Message{large, plain}, slices.DeleteFunc(slices.Clone(got), func(r *driver.Received) bool { return r.ID != large.ID && r.ID != plain.ID }))
	for _, r := range got {
		k.wantAttempt(r, 1)
		for name := range r.Properties {
			if driver.ReservedProperty(name) {
				k.Errorf("message %s came with the property %s", r.ID, name)
			}
		}
	}
	k.ack(c, got...)
	for range 2 {
		k.end(t, h1, driver.Commit)
		k.cannotEnd(t, h1, driver.Rollback, driver.TransactionEnded)
	}
	k.h.Settle(k)
	_, other := k.transactional(group, topic) // another host, which has no memory of it
	k.end(other, h2, driver.Commit)
	k.cannotEnd(other, h2, driver.Rollback, driver.TransactionEnded)
	k.end(other, h2, driver.Commit)
	k.fetchNone(c, k.facts.Quiet, "both were delivered")
}

func caseRollback(k *kit) {
	topic := k.h.NewTopic(k, 1)
	_, t := k.transactional(k.h.NewGroup(k), topic)
	c := k.consumer(k.h.NewGroup(k), topic)
	h := k.begin(t, message(topic))
	for range 2 {
		k.end(t, h, driver.Rollback)
	}
	k.cannotEnd(t, h, driver.Commit, driver.TransactionEnded)
	k.end(t, h, driver.Rollback)
	k.fetchNone(c, k.facts.Quiet, "it was rolled back")
}

func caseEndAnywhere(k *kit) {
	const transactions, callers = 8, 4
	topic, group := k.h.NewTopic(k, 2), k.h.NewGroup(k)
	_, first := k.transactional(group, topic)
	_, second := k.transactional(group, topic)
	c := k.consumer(k.h.NewGroup(k), topic)
	var sent []*driver.Message
	var calls sync.WaitGroup
	for range transactions {
		m := message(topic)
		sent = append(sent, m)
		h := k.begin(first, m)
		for i := range callers {
			calls.Go(func() {
				t := []driver.Transactional{first, second}[i%2]
				ctx, cancel := context.WithTimeout(context.Background(), k.facts.Open)
				defer cancel()
				if err := t.End(ctx, h, driver.Commit); err != nil {
					k.Errorf("commit by caller %d: %v", i, err)
				}
			})
		}
	}
	calls.Wait()
	got := k.fetch(c, transactions, longLease)
	k.wantSame(sent, got)
	k.ack(c, got...)
	k.h.Settle(k)
	k.fetchNone(c, k.facts.Quiet, "each was delivered")
}

func caseCheck(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	_, t := k.transactional(group, topic)
	c := k.consumer(k.h.NewGroup(k), topic)
	yes, no := message(topic), message(topic)
	yes.Tag, yes.Keys, yes.Properties = "t", []string{"k"}, map[string]string{"a": "b"}
	k.begin(t, yes)
	k.begin(t, no)
	checks := k.watch(t)
	found := k.check(checks, yes)
	if found.Times < 1 || found.Topic != topic || found.Tag != "t" || !slices.Equal(found.Keys, yes.Keys) || found.Properties["a"] != "b" ||
		len(found.Properties) != 1 || string(found.Body) != string(yes.Body) || found.Handle == "" || time.Since(found.BornTime) > time.Hour {
		k.Errorf("the check is %+v", found)
	}
	// What was not answered is asked again.
	if again := k.check(checks, yes); again.Times <= found.Times {
		k.Errorf("check %d came after check %d", again.Times, found.Times)
	}
	found = k.check(checks, yes)
	k.end(t, found.Handle, driver.Commit)
	k.end(t, k.check(checks, no).Handle, driver.Rollback)
	got := k.fetch(c, 1, longLease)
	k.wantSame([]*driver.Message{yes}, got)
	k.ack(c, got...)
	k.end(t, found.Handle, driver.Commit)
	k.cannotEnd(t, found.Handle, driver.Rollback, driver.TransactionEnded)
	k.noCheck(checks, yes, k.facts.Check/2)
	k.fetchNone(c, k.facts.Quiet, "one was delivered, the other one rolled back")
}

func caseCommitAfterCheck(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	_, t := k.transactional(group, topic)
	c := k.consumer(k.h.NewGroup(k), topic)
	m := message(topic)
	h := k.begin(t, m)
	checks := k.watch(t)
	late := k.check(checks, m)
	k.end(t, h, driver.Commit) // through the handle of the begin, which the broker does not connect with the check's
	k.wantSame([]*driver.Message{m}, k.fetch(c, 1, longLease))
	k.h.Settle(k)
	k.noCheck(checks, m, k.facts.Check/2)
	// An answer to the check that comes now, here or on a host without memory, changes nothing.
	_, other := k.transactional(group, topic)
	for _, who := range []driver.Transactional{t, other} {
		k.end(who, late.Handle, driver.Commit)
		k.cannotEnd(who, late.Handle, driver.Rollback, driver.TransactionEnded)
	}
	k.fetchNone(c, k.facts.Quiet, "it was delivered")
}

func caseCheckAndEnd(k *kit) {
	const transactions = 6
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	_, first := k.transactional(group, topic)
	_, second := k.transactional(group, topic)
	c := k.consumer(k.h.NewGroup(k), topic)
	sent := messages(topic, transactions)
	handles := make([]driver.TransactionHandle, transactions)
	for i, m := range sent {
		handles[i] = k.begin(first, m)
	}
	checks := k.watch(second)
	var calls sync.WaitGroup
	limit := time.After(k.facts.Check)
	for range sent { // in the order in which they are asked for
		var asked driver.Check
		select {
		case asked = <-checks:
		case <-limit:
			k.Fatalf("no check came within %s", k.facts.Check)
		}
		i := slices.IndexFunc(sent, func(m *driver.Message) bool { return m.ID == asked.ID })
		if i < 0 || handles[i] == "" {
			continue
		}
		for t, h := range map[driver.Transactional]driver.TransactionHandle{first: handles[i], second: asked.Handle} {
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), k.facts.Open)
				defer cancel()
				if err := t.End(ctx, h, driver.Commit); err != nil {
					k.Errorf("commit: %v", err)
				}
			})
		}
		handles[i] = ""
	}
	calls.Wait()
	for _, h := range handles {
		if h != "" {
			k.end(first, h, driver.Commit) // it was asked for less often than another one
		}
	}
	got := k.fetch(c, transactions, longLease)
	k.wantSame(sent, got)
	k.ack(c, got...)
	k.h.Settle(k)
	k.fetchNone(c, k.facts.Quiet, "each was delivered")
}

func caseOneID(k *kit) {
	topic := k.h.NewTopic(k, 1)
	p, t := k.transactional(k.h.NewGroup(k), topic)
	c := k.consumer(k.h.NewGroup(k), topic)
	m := message(topic)
	k.send(p, m)
	first := k.begin(t, m)
	time.Sleep(2 * time.Millisecond) // begun at the same millisecond they would be one
	second := k.begin(t, m)
	k.end(t, first, driver.Rollback)
	k.end(t, second, driver.Commit)
	got := k.fetch(c, 2, longLease)
	for _, r := range got {
		if r.ID != m.ID {
			k.Errorf("message %s came, want %s twice", r.ID, m.ID)
		}
	}
	k.ack(c, got...)
	k.fetchNone(c, k.facts.Quiet, "the other one was rolled back")
}

func caseBadTransactions(k *kit) {
	topic, other := k.h.NewTopic(k, 1), k.h.NewTopic(k, 1)
	if !k.caps.Transactions {
		cfg := k.producerConfig(topic)
		cfg.Transactions = true
		p, err := k.d.OpenProducer(k.within(k.facts.Open), cfg)
		if driver.ReasonOf(err) != driver.Unsupported {
			k.Errorf("a producer with transactions: %v, want %s", err, driver.Unsupported)
		}
		if err == nil {
			k.closing("producer", p)
		}
		return
	}
	_, t := k.transactional(k.h.NewGroup(k), topic)
	_, stranger := k.transactional(k.h.NewGroup(k), topic)
	later, elsewhere, empty, sharded := message(topic), message(other), message(topic), message(topic)
	later.When.Delay, empty.Body, sharded.ShardingKey = time.Minute, nil, "k"
	for name, c := range map[string]struct {
		m    *driver.Message
		want driver.Reason
	}{
		"of later": {later, driver.InvalidMessage}, "of another topic": {elsewhere, driver.TopicNotFound}, "without a body": {empty, driver.InvalidMessage},
		"with a sharding key": {sharded, driver.InvalidMessage},
		"that is none":        {nil, driver.InvalidMessage},
	} {
		if _, err := t.Begin(k.within(k.facts.Open), c.m); driver.ReasonOf(err) != c.want {
			k.Errorf("a message %s: %v, want %s", name, err, c.want)
		}
	}
	h := k.begin(t, message(topic))
	for name, bad := range map[string]driver.TransactionHandle{"nothing": "", "nonsense": "nonsense", "too long": h + " more", "too short": h[:len(h)/2]} {
		if err := t.End(k.within(k.facts.Open), bad, driver.Commit); driver.ReasonOf(err) != driver.InvalidHandle {
			k.Errorf("a handle that is %s: %v", name, err)
		}
	}
	k.cannotEnd(stranger, h, driver.Commit, driver.InvalidHandle)
	k.cannotEnd(t, h, "MAYBE", driver.InvalidMessage)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := t.End(ended, h, driver.Commit); err == nil {
		k.Error("an end whose context has ended is answered")
	}
	k.end(t, h, driver.Rollback)
	plain, asked := k.producer(topic).(driver.Transactional)
	if !asked {
		return
	}
	if _, err := plain.Begin(k.within(k.facts.Open), message(topic)); driver.ReasonOf(err) != driver.Unsupported {
		k.Errorf("begin by a producer that was not made for it: %v", err)
	}
	k.cannotEnd(plain, h, driver.Rollback, driver.Unsupported)
	plain.WatchChecks(func(driver.Check) bool { return true })()
}

func caseClosedTransactions(k *kit) {
	topic := k.h.NewTopic(k, 1)
	p, t := k.transactional(k.h.NewGroup(k), topic)
	m := message(topic)
	h := k.begin(t, m)
	var mu sync.Mutex
	closed := false
	stop := t.WatchChecks(func(driver.Check) bool {
		mu.Lock()
		defer mu.Unlock()
		if closed {
			k.Error("a check came after Close")
		}
		return false
	})
	k.closing("producer", p)
	mu.Lock()
	closed = true
	mu.Unlock()
	if _, err := t.Begin(k.within(k.facts.Open), message(topic)); driver.ReasonOf(err) != driver.Closed {
		k.Errorf("begin after Close: %v", err)
	}
	k.cannotEnd(t, h, driver.Commit, driver.Closed)
	stop()
	stop()
	t.WatchChecks(func(driver.Check) bool { return true })()
}
