// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var broadcastCases = []testCase{
	{name: "the groups of two receivers get every message each, and again what one has nacked", run: caseReceiverGroups},
	{name: "a receiver's group is listed, marked and removed, and then begins anew", run: caseGroupKeeper},
}

// keeper is the driver's, or the case ends.
func (k *kit) keeper() driver.GroupKeeper {
	k.Helper()
	keeper, is := k.d.(driver.GroupKeeper)
	if is != k.caps.Broadcast {
		k.Errorf("Broadcast is %v, and the driver keeps groups: %v", k.caps.Broadcast, is)
	}
	if !is {
		k.Skip("this driver does not broadcast")
	}
	return keeper
}

func caseReceiverGroups(k *kit) {
	k.keeper()
	topic, group := k.h.NewTopic(k, 2), k.h.NewGroup(k)
	sent := messages(topic, 6)
	k.send(k.producer(topic), sent...)
	a, b := driver.ReceiverGroup(group, driver.ReceiverKey("a")), driver.ReceiverGroup(group, driver.ReceiverKey("b"))
	first := k.consumer(a, topic)
	got := k.fetch(first, len(sent), longLease)
	k.wantSame(sent, got)
	if _, err := first.Nack(k.within(k.facts.Open), got[0].Handle, k.facts.Nack); err != nil {
		k.Fatal(err)
	}
	k.ack(first, got[1:]...)
	second := k.consumer(b, topic)
	k.wantSame(sent, k.consume(second, len(sent)))
	// Brokers make the topic for what comes again with the first of them, which takes its time.
	again := k.fetchWithin(first, 1, longLease, k.facts.Open+k.facts.Nack+3*k.facts.Late)[0]
	k.wantAttempt(again, 2)
	if again.ID != got[0].ID {
		k.Errorf("message %s came again, %s was nacked", again.ID, got[0].ID)
	}
	if err := first.DeadLetter(k.within(k.facts.Open), again, "test"); err != nil {
		k.Fatal(err)
	}
	dead := k.consumer(k.h.NewGroup(k), driver.DeadLetterTopic(a))
	k.ack(dead, k.fetch(dead, 1, longLease)...)
	k.fetchNone(first, k.facts.Quiet, "everything is acknowledged")
	k.fetchNone(second, k.facts.Quiet, "what the other one nacked is not for this one")
}

func caseGroupKeeper(k *kit) {
	keeper := k.keeper()
	topic, base := k.h.NewTopic(k, 2), k.h.NewGroup(k)
	sent := messages(topic, 3)
	k.send(k.producer(topic), sent...)
	group := driver.ReceiverGroup(base, driver.ReceiverKey("a"))
	cfg := k.consumerConfig(group, driver.Earliest, driver.Subscription{Topic: topic})
	before := time.Now().Add(-time.Minute)
	c := k.consumerOf(cfg)
	noErr := func(what string, err error) {
		k.Helper()
		if err != nil {
			k.Fatalf("%s: %v", what, err)
		}
	}
	listed := func() []string {
		k.Helper()
		all, err := keeper.ListGroups(k.within(k.facts.Open), cfg, driver.ReceiverGroups(base))
		noErr("list", err)
		names := []string{}
		for _, g := range all {
			names = append(names, g.Group)
			if g.Seen.Before(before) || g.Seen.After(time.Now()) {
				k.Errorf("group %s was seen %s", g.Group, g.Seen)
			}
		}
		return names
	}
	noErr("mark", keeper.MarkGroup(k.within(k.facts.Open), cfg))
	if got := listed(); !slices.Equal(got, []string{group}) {
		k.Errorf("listed %q, want %q", got, group)
	}
	if seen, err := keeper.GroupSeen(k.within(k.facts.Open), cfg); err != nil || seen.Before(before) {
		k.Errorf("it was seen %s, %v", seen, err)
	}
	k.wantSame(sent, k.consume(c, len(sent)))
	k.closing("consumer", c)
	// The position survives, as it does when a receiver goes to another host.
	c = k.consumerOf(cfg)
	k.fetchNone(c, k.facts.Quiet, "it goes on where it was")
	k.closing("consumer", c)
	for range 2 {
		noErr("remove", keeper.RemoveGroup(k.within(k.facts.Open), cfg))
	}
	if got := listed(); len(got) != 0 {
		k.Errorf("after it was removed %q are listed", got)
	}
	if seen, err := keeper.GroupSeen(k.within(k.facts.Open), cfg); err != nil || !seen.IsZero() {
		k.Errorf("a removed group was seen %s, %v", seen, err)
	}
	c = k.consumerOf(cfg)
	k.wantSame(sent, k.consume(c, len(sent)))
	k.closing("consumer", c)
	noErr("remove", keeper.RemoveGroup(k.within(k.facts.Open), cfg))
}
