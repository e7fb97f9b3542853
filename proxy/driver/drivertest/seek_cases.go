// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"context"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var seekCases = []testCase{
	{name: "a group that cannot be moved says so, and a target that is none is Invalid", run: caseSeekRefused},
	{name: "a seek to Earliest brings everything again, acknowledged or not, as new", run: caseSeekEarliest},
	{name: "a seek to Latest leaves everything behind, on every queue, and brings what is sent after it", run: caseSeekLatest},
	{name: "a seek to a time brings exactly what was stored then or later, on every queue", run: caseSeekTime},
	{name: "a seek to Latest brings no retries: not what was nacked, not what expires, not what was given back", run: caseSeekLeavesRetries},
	{name: "what is handed out when a group is moved stays leased, its ack is OK, and it does not come again from its old place", run: caseSeekKeepsLeases},
	{name: "another member lets go of what it fetched before a seek when it is told, and gets what the seek brings", run: caseSeekOtherMember},
	{name: "a seek of a group that nobody reads counts when somebody does", run: caseSeekOffline},
	{name: "a seek of an ordered group frees the queue that is held back, and brings its line from the new place on in order", run: caseSeekOrdered},
}

func (k *kit) seek(c driver.Consumer, to driver.Target) string {
	k.Helper()
	mark, err := c.Seek(k.within(k.facts.Open+10*time.Second), to)
	if err != nil {
		k.Fatalf("seek to %s: %v", to, err)
	}
	return mark
}

func (k *kit) needsSeek() {
	k.Helper()
	if !k.caps.Seek {
		k.Skip("this driver moves no group")
	}
}

var (
	toEarliest = driver.Target{To: driver.Earliest}
	toLatest   = driver.Target{To: driver.Latest}
)

func caseSeekRefused(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	c := k.consumer(group, topic)
	for _, to := range []driver.Target{{}, {To: driver.Timestamp}, {To: "Middle"}, {To: driver.Timestamp, Time: time.Unix(-1, 0)}} {
		if _, err := c.Seek(k.within(k.facts.Open), to); driver.ReasonOf(err) != driver.Invalid {
			k.Errorf("seek to %+v: %v", to, err)
		}
	}
	if !k.caps.Seek {
		if _, err := c.Seek(k.within(k.facts.Open), toLatest); driver.ReasonOf(err) != driver.Unsupported {
			k.Errorf("seek without the capability: %v", err)
		}
		return
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Seek(ended, toLatest); err == nil {
		k.Error("a seek whose context has ended is answered")
	}
	k.closing("consumer", c)
	if _, err := c.Seek(k.within(k.facts.Open), toLatest); driver.ReasonOf(err) != driver.Closed {
		k.Errorf("seek after Close: %v", err)
	}
}

func caseSeekEarliest(k *kit) {
	k.needsSeek()
	topic := k.h.NewTopic(k, 4)
	p, c := k.producer(topic), k.consumer(k.h.NewGroup(k), topic)
	sent := messages(topic, 20)
	k.send(p, sent...)
	got := k.fetch(c, len(sent), longLease)
	k.ack(c, got[:12]...)
	k.seek(c, toEarliest)
	again := k.fetch(c, len(sent), longLease)
	k.wantSame(sent, again)
	for _, r := range again {
		k.wantAttempt(r, 1)
	}
	k.ack(c, again...)
	k.ack(c, got[12:]...) // harmless
	k.fetchNone(c, k.facts.Quiet, "everything is acknowledged")
}

func caseSeekLatest(k *kit) {
	k.needsSeek()
	topic := k.h.NewTopic(k, 8)
	p, c := k.producer(topic), k.consumer(k.h.NewGroup(k), topic)
	sent := messages(topic, 30)
	k.send(p, sent...)
	k.ack(c, k.fetch(c, 10, longLease)...)
	k.h.Settle(k)
	k.seek(c, toLatest)
	k.fetchNone(c, k.facts.Quiet, "it was sent before the seek to Latest")
	fresh := messages(topic, 24)
	k.send(p, fresh...)
	got := k.fetch(c, len(fresh), longLease)
	k.wantSame(fresh, got)
	k.ack(c, got...)
	k.fetchNone(c, k.facts.Quiet, "everything is acknowledged")
}

func caseSeekTime(k *kit) {
	k.needsSeek()
	topic, other := k.h.NewTopic(k, 4), k.h.NewTopic(k, 1)
	p := k.producer(topic, other)
	sent, beside := messages(topic, 30), messages(other, 1)
	k.send(p, sent...)
	k.send(p, beside...)
	stored := k.storeTimes(topic, sent)
	maps.Copy(stored, k.storeTimes(other, beside))
	all := append(slices.Clone(sent), beside...)
	cfg := k.consumerConfig(k.h.NewGroup(k), driver.Latest, driver.Subscription{Topic: topic}, driver.Subscription{Topic: other})
	k.h.Settle(k)
	c := k.consumerOf(cfg)
	k.fetchNone(c, k.facts.Quiet, "the group begins at the latest")
	for _, t := range []time.Time{stored[sent[20].ID], stored[sent[3].ID], stored[sent[25].ID].Add(time.Millisecond)} {
		k.seek(c, driver.Target{To: driver.Timestamp, Time: t})
		want := since(all, stored, t)
		got := k.fetch(c, len(want), longLease)
		k.wantSame(want, got)
		k.ack(c, got...)
		k.fetchNone(c, k.facts.Quiet, "the rest is older than the time")
	}
}

func caseSeekLeavesRetries(k *kit) {
	k.needsSeek()
	topic := k.h.NewTopic(k, 2)
	p, c := k.producer(topic), k.consumer(k.h.NewGroup(k), topic)
	k.send(p, messages(topic, 3)...)
	k.fetch(c, 3, k.facts.Lease) // they come again as retries
	again := k.fetchWithin(c, 3, longLease, k.facts.Lease+k.facts.Late+k.facts.Open)
	k.ack(c, again[0])
	k.send(p, messages(topic, 9)...)
	for _, r := range again[1:] {
		if _, err := c.Nack(k.within(k.facts.Open), r.Handle, k.facts.Nack); err != nil {
			k.Fatalf("nack: %v", err)
		}
	}
	k.fetch(c, 2, k.facts.Lease) // these expire
	given := k.fetch(c, 2, longLease)
	k.noErrors("GiveBack", c.GiveBack(k.within(k.facts.Open), handles(given)), len(given))
	held := k.fetch(c, 1, longLease)
	k.h.Settle(k)
	k.seek(c, toLatest)
	if delay, err := c.Nack(k.within(k.facts.Open), held[0].Handle, 0); err != nil {
		k.Errorf("a nack after the seek: %s, %v", delay, err)
	}
	k.fetchNone(c, max(k.facts.Lease, k.facts.Nack)+k.facts.Late+k.facts.Quiet, "the group was moved to Latest")
	fresh := message(topic)
	k.send(p, fresh)
	got := k.fetch(c, 1, longLease)
	k.wantSame([]*driver.Message{fresh}, got)
	if _, err := c.Nack(k.within(k.facts.Open), got[0].Handle, k.facts.Nack); err != nil {
		k.Fatalf("nack: %v", err)
	}
	got = k.fetchWithin(c, 1, longLease, k.facts.Nack+k.facts.Late+k.facts.Open) // a retry of what is new comes
	k.wantSame([]*driver.Message{fresh}, got)
	k.wantAttempt(got[0], 2)
	k.ack(c, got...)
}

func caseSeekKeepsLeases(k *kit) {
	k.needsSeek()
	topic := k.h.NewTopic(k, 2)
	p, c := k.producer(topic), k.consumer(k.h.NewGroup(k), topic)
	k.send(p, messages(topic, 4)...)
	held := k.fetch(c, 4, longLease)
	k.h.Settle(k)
	k.seek(c, toLatest)
	for _, r := range held {
		if !c.Superseded(r.Handle) {
			k.Errorf("the message %s was fetched before the seek, and it is not known", r.ID)
		}
	}
	k.ack(c, held[0], held[1])
	h, deadline, err := c.Extend(k.within(k.facts.Open), held[2].Handle, k.facts.Lease+10*time.Second)
	if err != nil || time.Until(deadline) < k.facts.Lease {
		k.Fatalf("extend what was handed out before the seek: %s, %v", deadline, err)
	}
	k.noErrors("Ack", c.Ack(k.within(k.facts.Open), []driver.Handle{h}), 1)
	k.fetchNone(c, k.facts.Quiet, "nothing is new")
	fresh := message(topic)
	k.send(p, fresh)
	got := k.fetch(c, 1, longLease)
	k.wantSame([]*driver.Message{fresh}, got)
	if c.Superseded(got[0].Handle) {
		k.Error("a message that was fetched after the seek counts as older")
	}
	k.ack(c, got...)
}

func caseSeekOtherMember(k *kit) {
	k.needsSeek()
	topic, group := k.h.NewTopic(k, 2), k.h.NewGroup(k)
	p, mover, member := k.producer(topic), k.consumer(group, topic), k.consumer(group, topic)
	sent := messages(topic, 8)
	k.send(p, sent...)
	unseen := k.fetch(member, 8, longLease)
	mark := k.seek(mover, toEarliest)
	member.SetMark("")
	member.SetMark("of somebody else")
	member.SetMark(mark)
	member.SetMark(mark)
	for _, r := range unseen {
		if !member.Superseded(r.Handle) {
			k.Fatalf("the message %s was fetched before the seek, and the other member does not know after it was told", r.ID)
		}
	}
	// Nobody has seen them: what a window gives back now must not come beside what the seek brings.
	k.noErrors("GiveBack", member.GiveBack(k.within(k.facts.Open), handles(unseen)), len(unseen))
	var got []*driver.Received
	for ctx := k.within(k.facts.Open + k.facts.Late); len(got) < len(sent); {
		for _, c := range []driver.Consumer{mover, member} {
			turn, cancel := context.WithTimeout(ctx, k.facts.Quiet)
			rs, err := c.Fetch(turn, driver.FetchRequest{MaxMessages: 2, MaxBytes: math.MaxInt32, Lease: longLease})
			cancel()
			if err != nil && ctx.Err() != nil {
				k.Fatalf("Fetch after %d of %d messages: %v", len(got), len(sent), err)
			}
			got = append(got, rs...)
			if len(rs) > 0 {
				k.ack(c, rs...)
			}
		}
	}
	k.wantSame(sent, got)
	k.fetchNone(mover, k.facts.Late+k.facts.Quiet, "each came once")
	k.fetchNone(member, k.facts.Quiet, "each came once")
}

func caseSeekOffline(k *kit) {
	k.needsSeek()
	topic, group := k.h.NewTopic(k, 4), k.h.NewGroup(k)
	p := k.producer(topic)
	sent := messages(topic, 12)
	k.send(p, sent...)
	c := k.consumer(group, topic)
	k.ack(c, k.fetch(c, 12, longLease)...)
	k.closing("consumer", c)
	c = k.consumer(group, topic)
	mark := k.seek(c, toEarliest) // nobody has fetched through this client
	k.closing("consumer", c)
	cfg := k.consumerConfig(group, driver.Latest, driver.Subscription{Topic: topic})
	c = k.consumerOf(cfg)
	c.SetMark(mark)
	got := k.fetch(c, len(sent), longLease)
	k.wantSame(sent, got)
	k.ack(c, got...)
	k.fetchNone(c, k.facts.Quiet, "everything is acknowledged")
}

func caseSeekOrdered(k *kit) {
	k.needsSeek()
	topic, group, c, sent := k.line(6)
	other := k.ordered(group, topic)
	held := k.fetchOnce(c, 3, longLease, k.facts.Open+k.facts.Late)
	k.wantLine(held, sent[:3], 1)
	k.ack(c, held[0])
	other.SetMark(k.seek(c, toEarliest))
	again := k.fetchOnce(other, 4, longLease, k.facts.Open+k.facts.Late)
	k.wantLine(again, sent[:4], 1)
	k.ack(c, held[1:]...) // harmless: it does not move the line
	k.fetchNone(c, k.facts.Quiet, "the queue is held back anew")
	k.ack(other, again...)
	rest := k.fetchOnce(c, 10, longLease, k.facts.Open+k.facts.Late)
	k.wantLine(rest, sent[4:], 0) // a poll that was left at the broker may have brought it before
	other.SetMark(k.seek(c, toLatest))
	fresh := []*driver.Message{keyed(topic, "k", 6), keyed(topic, "k", 7)}
	k.sendBatch(k.producer(topic), fresh...)
	k.h.Settle(k)
	last := k.fetchOnce(other, 10, longLease, k.facts.Open+k.facts.Late)
	k.wantLine(last, fresh, 0)
	k.ack(other, last...)
	for _, member := range []driver.Consumer{c, other} {
		k.fetchNone(member, k.facts.Quiet, "everything is acknowledged or left behind")
	}
}
