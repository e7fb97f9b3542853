// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var startCases = []testCase{
	{name: "a new group from Earliest gets what is there already", run: caseEarliest},
	{name: "a new group from Latest gets nothing old and all that is new, on every queue", run: caseLatest},
	{name: "a group from Latest that closes at once misses nothing that is sent while it is closed", run: caseLatestReopened},
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
