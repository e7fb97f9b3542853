// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// walkSteps is how many random operations a walk makes.
const walkSteps = 64

var walkCases = []testCase{
	{name: "a random walk over all operations agrees with a ledger, seed 1", long: true, run: func(k *kit) { newWalk(k, 1).run() }},
	{name: "a random walk over all operations agrees with a ledger, seed 2", long: true, run: func(k *kit) { newWalk(k, 2).run() }},
	{name: "a random walk over all operations agrees with a ledger, seed 3", long: true, run: func(k *kit) { newWalk(k, 3).run() }},
}

// entry is what the ledger knows of a message.
type entry struct {
	// attempts is how often it was delivered, without what was given back.
	attempts int
	// leased is the delivery whose lease runs until free; nil = none.
	leased *driver.Received
	// free is the earliest time at which it may come again.
	free time.Time
	// loose: the last lease ended about when the consumer closed, so whether that delivery counts is open.
	loose bool
	// done: acknowledged or dead-lettered, so it must not come.
	done bool
}

// walk is a model of the broker beside the real one.
type walk struct {
	*kit
	random   *rand.Rand
	topic    string
	group    string
	p        driver.Producer
	c        driver.Consumer
	ledger   map[string]*entry
	order    []string
	lastStep string
}

func newWalk(k *kit, seed uint64) *walk {
	w := &walk{kit: k, random: rand.New(rand.NewPCG(seed, 0)), topic: k.h.NewTopic(k, 3), group: k.h.NewGroup(k), ledger: map[string]*entry{}}
	w.p, w.c = k.producer(w.topic), k.consumer(w.group, w.topic)
	return w
}

func (w *walk) run() {
	steps := []struct {
		name   string
		weight int
		do     func()
	}{
		{"send", 4, w.sendSome}, {"fetch", 6, w.fetchSome}, {"ack", 4, w.ackOne}, {"nack", 3, w.nackOne}, {"extend", 2, w.extendOne},
		{"give back", 2, w.giveBackOne}, {"dead letter", 1, w.deadLetterOne}, {"reopen", 1, w.reopen}, {"wait", 1, func() { time.Sleep(w.facts.Lease / 2) }},
	}
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	for i := range walkSteps {
		n := w.random.IntN(total)
		for _, s := range steps {
			if n -= s.weight; n < 0 {
				w.lastStep = fmt.Sprintf("step %d, %s", i, s.name)
				s.do()
				break
			}
		}
	}
	w.lastStep = "the end"
	w.finish()
}

func (w *walk) sendSome() {
	msgs := messages(w.topic, 1+w.random.IntN(3))
	for _, m := range msgs {
		w.ledger[m.ID] = &entry{}
		w.order = append(w.order, m.ID)
	}
	w.sendBatch(w.p, msgs...)
}

// fetchSome takes up to three with a short or a long lease, and compares each with the ledger.
func (w *walk) fetchSome() {
	lease := longLease
	if w.random.IntN(3) == 0 {
		lease = w.facts.Lease
	}
	w.fetchFor(w.facts.Quiet, 3, lease)
}

func (w *walk) fetchFor(limit time.Duration, n int, lease time.Duration) {
	rs, err := w.c.Fetch(w.within(limit), driver.FetchRequest{MaxMessages: n, MaxBytes: 1 << 20, Lease: lease})
	if err != nil && (len(rs) > 0 || driver.ReasonOf(err) != driver.Timeout) {
		w.Fatalf("%s: Fetch answered %d messages and %v", w.lastStep, len(rs), err)
	}
	for _, r := range rs {
		w.delivered(r)
	}
}

func (w *walk) delivered(r *driver.Received) {
	e := w.ledger[r.ID]
	switch {
	case e == nil:
		w.Fatalf("%s: message %s was never sent", w.lastStep, r.ID)
	case e.done:
		w.Fatalf("%s: message %s came again after it was acknowledged or dead-lettered", w.lastStep, r.ID)
	case time.Until(e.free) > w.facts.Early:
		w.Fatalf("%s: message %s came %v before its lease or delay ended", w.lastStep, r.ID, time.Until(e.free))
	}
	if e.loose && r.Attempt == e.attempts {
		e.attempts--
	}
	e.attempts++
	w.wantAttempt(r, e.attempts)
	e.loose = false
	e.leased, e.free = r, r.Deadline
}

// margin is how near to a lease's end nothing is asked of it.
func (w *walk) margin() time.Duration { return w.facts.Early + w.facts.Lease/4 }

// pick chooses a delivery whose lease surely still runs.
func (w *walk) pick() *entry {
	var running []*entry
	for _, id := range w.order {
		if e := w.ledger[id]; e.leased != nil && time.Until(e.free) > w.margin() {
			running = append(running, e)
		}
	}
	if len(running) == 0 {
		return nil
	}
	return running[w.random.IntN(len(running))]
}

// changed looks at the answer for a lease that should run. On a slow machine a short one may have ended meanwhile; then it counts as ended.
func (w *walk) changed(e *entry, err error) bool {
	if err == nil {
		return true
	}
	if driver.ReasonOf(err) != driver.LeaseExpired || time.Until(e.free) > w.facts.Early {
		w.Fatalf("%s: %v, the lease ends in %v", w.lastStep, err, time.Until(e.free))
	}
	e.leased = nil
	return false
}

func (w *walk) ackOne() {
	if e := w.pick(); e != nil && w.changed(e, w.c.Ack(w.within(w.facts.Open), []driver.Handle{e.leased.Handle})[0]) {
		e.done, e.leased = true, nil
	}
}

func (w *walk) nackOne() {
	e := w.pick()
	if e == nil {
		return
	}
	before := time.Now()
	effective, err := w.c.Nack(w.within(w.facts.Open), e.leased.Handle, time.Duration(w.random.IntN(2))*w.facts.Nack)
	if w.changed(e, err) {
		e.leased, e.free = nil, before.Add(effective)
	}
}

func (w *walk) extendOne() {
	e := w.pick()
	if e == nil {
		return
	}
	lease := []time.Duration{w.facts.Lease, longLease}[w.random.IntN(2)]
	h, deadline, err := w.c.Extend(w.within(w.facts.Open), e.leased.Handle, lease)
	if w.changed(e, err) {
		e.leased.Handle, e.free = h, deadline
	}
}

func (w *walk) giveBackOne() {
	if e := w.pick(); e != nil && w.changed(e, w.c.GiveBack(w.within(w.facts.Open), []driver.Handle{e.leased.Handle})[0]) {
		w.returned(e)
	}
}

// returned is the model of a message that is back as if it had not been delivered.
func (w *walk) returned(e *entry) {
	e.attempts--
	e.leased, e.free = nil, time.Time{}
}

func (w *walk) deadLetterOne() {
	if e := w.pick(); e != nil && w.changed(e, w.c.DeadLetter(w.within(w.facts.Open), e.leased, "random walk")) {
		e.done, e.leased = true, nil
	}
}

// reopen closes the consumer in order, which gives back what it has leased unless the driver keeps leases, and opens the next member.
func (w *walk) reopen() {
	for _, e := range w.ledger {
		if e.leased == nil || w.caps.KeepsLeases {
			continue
		}
		if rest := time.Until(e.free); rest > w.margin() {
			w.returned(e)
		} else {
			e.leased, e.loose, e.free = nil, rest > -w.margin(), time.Time{}
		}
	}
	w.closing("consumer", w.c)
	w.c = w.consumer(w.group, w.topic)
}

// finish acknowledges everything; what is not done must come.
func (w *walk) finish() {
	for {
		e := w.pick()
		if e == nil {
			break
		}
		if w.changed(e, w.c.Ack(w.within(w.facts.Open), []driver.Handle{e.leased.Handle})[0]) {
			e.done, e.leased = true, nil
		}
	}
	var last time.Time
	for _, e := range w.ledger {
		if !e.done && e.free.After(last) {
			last = e.free
		}
	}
	for deadline := time.Now().Add(max(0, time.Until(last)) + w.facts.Late + w.facts.Open); w.open() > 0; {
		if time.Now().After(deadline) {
			w.Fatalf("%d of %d messages did not come again", w.open(), len(w.ledger))
		}
		w.fetchFor(w.facts.Quiet, 32, longLease)
		for e := w.pick(); e != nil; e = w.pick() {
			if w.changed(e, w.c.Ack(w.within(w.facts.Open), []driver.Handle{e.leased.Handle})[0]) {
				e.done, e.leased = true, nil
			}
		}
	}
	w.fetchNone(w.c, w.facts.Quiet+w.facts.Late, "everything is acknowledged or dead-lettered")
}

func (w *walk) open() int {
	n := 0
	for _, e := range w.ledger {
		if !e.done {
			n++
		}
	}
	return n
}
