// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"context"
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var laterCases = []testCase{
	{name: "a message that is delivered later comes when it is due, and others overtake it", run: caseLater},
	{name: "a time that has passed is at once", run: caseDuePassed},
	{name: "a delay beyond the broker's limit is refused alone, and nothing of it is stored", run: caseTooFarAhead},
	{name: "brokers with some delays only refuse others, unless they may be rounded up", run: caseRounding},
	{name: "a message that was recalled never comes, and its answer can be repeated", run: caseRecall},
	{name: "a recall that comes too late, or of nothing, says so", run: caseRecallInVain},
}

const (
	// ahead is a delay that every broker knows.
	ahead = 5 * time.Second
	// timerLate is how much later than it is due a broker's timer may deliver: it works in steps of a second.
	timerLate = 3 * time.Second
)

// later gives a message its time; round where the broker needs it.
func (k *kit) later(m *driver.Message, w driver.When) *driver.Message {
	m.When, m.When.Round = w, k.facts.DelayLevels
	return m
}

func caseLater(k *kit) {
	topic, group := k.h.NewTopic(k, 2), k.h.NewGroup(k)
	p, c := k.producer(topic), k.consumer(group, topic)
	began := time.Now()
	late := []*driver.Message{
		k.later(message(topic), driver.When{Delay: ahead}),
		k.later(message(topic), driver.When{At: began.Add(ahead)}),
		k.later(&driver.Message{ID: message(topic).ID, Topic: topic, Tag: "t", Keys: []string{"k"}, Properties: map[string]string{"a": "b"}, Body: make([]byte, 20_000)}, driver.When{Delay: ahead}),
	}
	// In one Send with others: what is kept back must not be gathered with what is not.
	plain := messages(topic, 5)
	all := slices.Concat(plain[:2], late, plain[2:])
	for i, r := range p.Send(k.within(30*time.Second), topic, all) {
		if r.Err != nil || r.MessageID != all[i].ID {
			k.Fatalf("message %d: %+v", i, r)
		}
		if want := k.caps.Recall && all[i].When.Later(); (r.RecallHandle != "") != want {
			k.Errorf("message %d has the recall handle %q", i, r.RecallHandle)
		}
	}
	k.h.Settle(k) // what is shown while a broker is about to make a request wait may be found up to 5 s later
	got := k.fetch(c, len(plain), longLease)
	k.wantSame(plain, got)
	k.ack(c, got...)
	if took := time.Since(began); took > ahead-k.facts.Early {
		k.Fatalf("the machine took %s for what should come at once", took)
	}
	got = k.fetch(c, len(late), longLease)
	k.wantSame(late, got)
	for _, r := range got {
		k.wantAttempt(r, 1)
		for name := range r.Properties {
			if driver.ReservedProperty(name) {
				k.Errorf("message %s came with the property %s", r.ID, name)
			}
		}
	}
	if took := time.Since(began); took < ahead-k.facts.Early-time.Second || took > 2*ahead+timerLate {
		k.Errorf("messages with a delay of %s came after %s", ahead, took)
	}
	k.ack(c, got...)
	k.fetchNone(c, k.facts.Quiet, "everything is acknowledged")
}

func caseDuePassed(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	m := k.later(message(topic), driver.When{At: time.Now().Add(-time.Hour)})
	k.send(k.producer(topic), m)
	c := k.consumer(group, topic)
	began := time.Now()
	k.ack(c, k.fetch(c, 1, longLease)...)
	if took := time.Since(began); took > 2*timerLate {
		k.Errorf("it came after %s", took)
	}
}

func caseTooFarAhead(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	good := messages(topic, 2)
	far := k.later(message(topic), driver.When{Delay: k.facts.MaxDelay + time.Hour})
	farther := k.later(message(topic), driver.When{At: time.Now().Add(k.facts.MaxDelay + time.Hour)})
	negative := k.later(message(topic), driver.When{Delay: -time.Second})
	both := k.later(message(topic), driver.When{Delay: time.Second, At: time.Now().Add(time.Second)})
	results := k.producer(topic).Send(k.within(30*time.Second), topic, []*driver.Message{good[0], far, farther, negative, both, good[1]})
	for i, r := range results {
		bad := i > 0 && i < len(results)-1
		if reason := driver.ReasonOf(r.Err); bad && (r.Err == nil || reason != driver.InvalidMessage) || !bad && r.Err != nil {
			k.Errorf("message %d: %v", i, r.Err)
		}
	}
	c := k.consumer(group, topic)
	got := k.fetch(c, len(good), longLease)
	k.wantSame(good, got)
	k.ack(c, got...)
	k.fetchNone(c, 2*time.Second, "the others were refused")
}

func caseRounding(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	p, c := k.producer(topic), k.consumer(group, topic)
	m := message(topic)
	m.When = driver.When{Delay: ahead + time.Second}
	err := p.Send(k.within(30*time.Second), topic, []*driver.Message{m})[0].Err
	if !k.facts.DelayLevels {
		if err != nil {
			k.Errorf("a delay of %s: %v", m.When.Delay, err)
		}
		return
	}
	if driver.ReasonOf(err) != driver.Unsupported {
		k.Errorf("a delay that the broker does not know: %v, want %s", err, driver.Unsupported)
	}
	began := time.Now()
	m.When.Round = true
	k.send(p, m)
	k.ack(c, k.fetch(c, 1, longLease)...)
	if took := time.Since(began); took < 2*ahead-time.Second {
		k.Errorf("it came after %s; the next longer delay is %s", took, 2*ahead)
	}
}

func caseRecall(k *kit) {
	if !k.caps.Recall {
		p := k.producer(k.h.NewTopic(k, 1))
		if _, err := p.Recall(k.within(10*time.Second), "anything"); driver.ReasonOf(err) != driver.Unsupported {
			k.Errorf("recall without the capability: %v", err)
		}
		return
	}
	topic, group := k.h.NewTopic(k, 2), k.h.NewGroup(k)
	p, c := k.producer(topic), k.consumer(group, topic)
	keep, cancel := k.later(message(topic), driver.When{Delay: 2 * ahead}), k.later(message(topic), driver.When{Delay: 2 * ahead})
	results := p.Send(k.within(30*time.Second), topic, []*driver.Message{keep, cancel})
	for i := range 2 {
		if id, err := p.Recall(k.within(10*time.Second), results[1].RecallHandle); err != nil || id != cancel.ID {
			k.Errorf("recall %d: %q, %v", i, id, err)
		}
	}
	got := k.fetch(c, 1, longLease)
	k.wantSame([]*driver.Message{keep}, got)
	k.ack(c, got...)
	k.fetchNone(c, timerLate, "it was recalled")
}

func caseRecallInVain(k *kit) {
	if !k.caps.Recall {
		k.Skip("this driver recalls nothing")
	}
	topic, other, group := k.h.NewTopic(k, 1), k.h.NewTopic(k, 1), k.h.NewGroup(k)
	p, stranger, c := k.producer(topic), k.producer(other), k.consumer(group, topic)
	handle := p.Send(k.within(30*time.Second), topic, []*driver.Message{k.later(message(topic), driver.When{Delay: ahead})})[0].RecallHandle
	for name, try := range map[string]func() error{
		"nonsense":            func() error { _, err := p.Recall(k.within(10*time.Second), "nonsense"); return err },
		"nothing":             func() error { _, err := p.Recall(k.within(10*time.Second), ""); return err },
		"of another producer": func() error { _, err := stranger.Recall(k.within(10*time.Second), handle); return err },
	} {
		if err := try(); driver.ReasonOf(err) != driver.InvalidHandle {
			k.Errorf("a handle that is %s: %v", name, err)
		}
	}
	k.ack(c, k.fetch(c, 1, longLease)...)
	if _, err := p.Recall(k.within(10*time.Second), handle); driver.ReasonOf(err) != driver.TooLate {
		k.Errorf("recall after the delivery: %v", err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.Recall(ended, handle); err == nil {
		k.Error("a recall whose context has ended is answered")
	}
	k.closing("producer", p)
	if _, err := p.Recall(k.within(10*time.Second), handle); driver.ReasonOf(err) != driver.Closed {
		k.Errorf("recall after Close: %v", err)
	}
}
