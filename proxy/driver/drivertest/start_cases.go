// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var startCases = []testCase{
	{name: "a new group from Earliest gets what is there already", run: caseEarliest},
	{name: "a new group from Latest gets nothing old and all that is new, on every queue", run: caseLatest},
	{name: "a group from Latest that closes at once misses nothing that is sent while it is closed", run: caseLatestReopened},
	{name: "a new group from a time gets exactly what was stored then or later, on every queue", run: caseStartTime},
	{name: "a group from a time that closes at once begins there all the same", run: caseStartTimeReopened},
	{name: "a group with a position continues there, whatever startFrom says", run: caseContinue},
}

func caseEarliest(k *kit) {
	topic, group := k.h.NewTopic(k, 4), k.h.NewGroup(k)
	p := k.producer(topic)
	sent := messages(topic, 24)
	k.send(p, sent[:16]...)
	c := k.consumer(group, topic)
	k.send(p, sent[16:]...)
	got := k.fetch(c, len(sent), longLease)
	k.wantSame(sent, got)
	k.ack(c, got...)
}

func caseLatest(k *kit) {
	topic, group := k.h.NewTopic(k, 8), k.h.NewGroup(k)
	p := k.producer(topic)
	// Few old messages: some queues have one, some are quiet. The new ones reach all.
	k.send(p, messages(topic, 5)...)
	k.h.Settle(k)
	c := k.consumerOf(k.consumerConfig(group, driver.Latest, driver.Subscription{Topic: topic}))
	k.fetchNone(c, k.facts.Quiet, "the messages are older than the group")
	fresh := messages(topic, 40)
	k.send(p, fresh...)
	got := k.fetch(c, len(fresh), longLease)
	k.wantSame(fresh, got)
	k.ack(c, got...)
}

func caseLatestReopened(k *kit) {
	topic, group := k.h.NewTopic(k, 8), k.h.NewGroup(k)
	p := k.producer(topic)
	k.send(p, messages(topic, 5)...)
	k.h.Settle(k)
	cfg := k.consumerConfig(group, driver.Latest, driver.Subscription{Topic: topic})
	k.closing("consumer", k.consumerOf(cfg))
	fresh := messages(topic, 40)
	k.send(p, fresh[:20]...)
	cfg.ClientID = clientID()
	c := k.consumerOf(cfg)
	k.send(p, fresh[20:]...)
	got := k.fetch(c, len(fresh), longLease)
	k.wantSame(fresh, got)
	k.ack(c, got...)
	k.fetchNone(c, k.facts.Quiet, "everything is acknowledged")
}

func caseContinue(k *kit) {
	topic, group := k.h.NewTopic(k, 4), k.h.NewGroup(k)
	p := k.producer(topic)
	sent := messages(topic, 24)
	k.send(p, sent[:12]...)
	c := k.consumer(group, topic)
	got := k.fetch(c, 12, longLease)
	k.ack(c, got...)
	k.closing("consumer", c)
	k.send(p, sent[12:]...)
	c = k.consumerOf(k.consumerConfig(group, driver.Latest, driver.Subscription{Topic: topic}))
	rest := k.fetch(c, 12, longLease)
	k.wantSame(sent[12:], rest)
	k.ack(c, rest...)
}

// storeTimes reads all of sent with a group of its own, and answers when each was stored, by id.
func (k *kit) storeTimes(topic string, sent []*driver.Message) map[string]time.Time {
	k.Helper()
	c := k.consumer(k.h.NewGroup(k), topic)
	got := k.fetch(c, len(sent), longLease)
	k.wantSame(sent, got)
	k.ack(c, got...)
	k.closing("consumer", c)
	stored := make(map[string]time.Time, len(got))
	for _, r := range got {
		stored[r.ID] = r.StoreTime
	}
	return stored
}

// since are those of sent that were stored at t or later, to the millisecond.
func since(sent []*driver.Message, stored map[string]time.Time, t time.Time) []*driver.Message {
	return slices.DeleteFunc(slices.Clone(sent), func(m *driver.Message) bool { return stored[m.ID].UnixMilli() < t.UnixMilli() })
}

func (k *kit) consumerFrom(group, topic string, t time.Time) driver.ConsumerConfig {
	cfg := k.consumerConfig(group, driver.Timestamp, driver.Subscription{Topic: topic})
	cfg.StartTime = t
	return cfg
}

func caseStartTime(k *kit) {
	topic := k.h.NewTopic(k, 4)
	p := k.producer(topic)
	sent := messages(topic, 30)
	k.send(p, sent...)
	stored := k.storeTimes(topic, sent)
	first, middle, last := stored[sent[0].ID], stored[sent[15].ID], stored[sent[29].ID]
	times := []time.Time{first.Add(-time.Hour), middle, middle.Add(time.Millisecond), last, last.Add(time.Millisecond)}
	for i, t := range times {
		c := k.consumerOf(k.consumerFrom(k.h.NewGroup(k), topic, t))
		want := since(sent, stored, t)
		got := k.fetch(c, len(want), longLease)
		k.wantSame(want, got)
		k.ack(c, got...)
		if i == len(times)-1 { // all messages are older
			k.fetchNone(c, k.facts.Quiet, "everything is older than the group's start")
			fresh := messages(topic, 20)
			k.send(p, fresh...)
			k.wantSame(fresh, k.fetch(c, len(fresh), longLease))
		}
		k.closing("consumer", c)
	}
}

func caseStartTimeReopened(k *kit) {
	topic, group := k.h.NewTopic(k, 8), k.h.NewGroup(k)
	p := k.producer(topic)
	sent := messages(topic, 12)
	k.send(p, sent...)
	stored := k.storeTimes(topic, sent)
	t := stored[sent[8].ID]
	k.closing("consumer", k.consumerOf(k.consumerFrom(group, topic, t)))
	fresh := messages(topic, 16)
	k.send(p, fresh...)
	c := k.consumerOf(k.consumerFrom(group, topic, t))
	want := append(since(sent, stored, t), fresh...)
	got := k.fetch(c, len(want), longLease)
	k.wantSame(want, got)
	k.ack(c, got...)
	k.fetchNone(c, k.facts.Quiet, "everything is acknowledged")
	k.closing("consumer", c)
	// The group has its positions now: another start time moves nothing.
	c = k.consumerOf(k.consumerFrom(group, topic, t.Add(-time.Hour)))
	k.fetchNone(c, k.facts.Quiet, "the group continues where it was")
}
