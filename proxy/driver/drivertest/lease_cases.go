// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"math/rand/v2"
	"strings"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var leaseCases = []testCase{
	{name: "an acknowledged message does not come again, neither after its lease nor after a reopen", run: caseAck},
	{name: "an unacknowledged message comes again after its lease, not before, with its attempt raised", run: caseExpiry},
	{name: "a nacked message comes again after the effective delay with its attempt raised", run: caseNack},
	{name: "an extended lease lasts longer and its new handle acknowledges", run: caseExtend},
	{name: "a lease that is set shorter ends sooner", run: caseShorten},
	{name: "a message given back comes again at once with its attempt unchanged", run: caseGiveBack},
	{name: "a handle whose lease has ended is LeaseExpired and has no effect", run: caseStale},
	{name: "a handle from before Extend or Nack does no harm", run: caseReplaced},
	{name: "garbage is InvalidHandle, never a panic, and spoils no other handle", run: caseGarbage},
	{name: "an Ack whose context has ended answers every handle", run: caseAckCancelled},
}

// one sends a message and leases it to a new group.
func (k *kit) one(lease time.Duration) (c driver.Consumer, r *driver.Received, group string) {
	k.Helper()
	topic := k.h.NewTopic(k, 1)
	group = k.h.NewGroup(k)
	c = k.consumer(group, topic)
	k.send(k.producer(topic), message(topic))
	r = k.fetch(c, 1, lease)[0]
	k.wantAttempt(r, 1)
	return c, r, group
}

// again fetches the same message once more.
func (k *kit) again(c driver.Consumer, r *driver.Received, lease, limit time.Duration) *driver.Received {
	k.Helper()
	next := k.fetchWithin(c, 1, lease, limit)[0]
	if next.ID != r.ID {
		k.Fatalf("message %s came, want %s again", next.ID, r.ID)
	}
	if string(next.Body) != string(r.Body) || next.Topic != r.Topic {
		k.Fatalf("message %s came again with topic %q and %d bytes, first with %q and %d", r.ID, next.Topic, len(next.Body), r.Topic, len(r.Body))
	}
	return next
}

func caseAck(k *kit) {
	c, r, group := k.one(k.facts.Lease)
	k.ack(c, r)
	k.noErrors("Ack of no handle", c.Ack(k.within(k.facts.Open), nil), 0)
	k.fetchNone(c, time.Until(r.Deadline)+k.facts.Late+k.facts.Quiet, "the message is acknowledged")
	k.closing("consumer", c)
	k.fetchNone(k.consumer(group, r.Topic), k.facts.Quiet, "the message was acknowledged before the consumer closed in order")
}

func caseExpiry(k *kit) {
	c, r, _ := k.one(k.facts.Lease)
	for attempt := 2; attempt <= 3; attempt++ {
		due := r.Deadline
		r = k.again(c, r, k.facts.Lease, time.Until(due)+k.facts.Late+time.Second)
		k.wantBetween("the end of the lease", due)
		k.wantAttempt(r, attempt)
	}
	k.ack(c, r)
}

func caseNack(k *kit) {
	c, r, _ := k.one(longLease)
	for attempt, delay := range []time.Duration{k.facts.Nack, 0} {
		effective, err := c.Nack(k.within(k.facts.Open), r.Handle, delay)
		if err != nil {
			k.Fatalf("nack with %v: %v", delay, err)
		}
		due := time.Now().Add(effective)
		if effective < delay || k.caps.ExactNackDelay && delay == k.facts.Nack && effective != delay {
			k.Fatalf("nack with %v has the effective delay %v (exact: %v)", delay, effective, k.caps.ExactNackDelay)
		}
		r = k.again(c, r, longLease, effective+k.facts.Late+time.Second)
		k.wantBetween("the delay of the nack", due)
		k.wantAttempt(r, attempt+2)
	}
	k.ack(c, r)
	k.fetchNone(c, k.facts.Quiet, "the message is acknowledged")
}

func caseExtend(k *kit) {
	c, r, _ := k.one(2 * k.facts.Lease)
	lease := 4*k.facts.Lease + k.facts.Late
	h, deadline, err := c.Extend(k.within(k.facts.Open), r.Handle, lease)
	if err != nil {
		k.Fatalf("extend: %v", err)
	}
	if off := time.Until(deadline) - lease; off > k.facts.Late || off < -k.facts.Late {
		k.Fatalf("a lease of %v ends in %v", lease, time.Until(deadline))
	}
	k.fetchNone(c, time.Until(r.Deadline)+k.facts.Late, "the lease is extended")
	second := k.again(c, r, longLease, time.Until(deadline)+k.facts.Late+time.Second)
	k.wantBetween("the end of the extended lease", deadline)
	k.wantAttempt(second, 2)
	k.want("ack with the handle of the extended lease, which has ended", c.Ack(k.within(k.facts.Open), []driver.Handle{h})[0], driver.LeaseExpired)
	if h, _, err = c.Extend(k.within(k.facts.Open), second.Handle, longLease); err != nil {
		k.Fatalf("extend: %v", err)
	}
	k.noErrors("Ack with the new handle", c.Ack(k.within(k.facts.Open), []driver.Handle{h}), 1)
	k.fetchNone(c, k.facts.Quiet, "the message is acknowledged")
}

func caseShorten(k *kit) {
	c, r, _ := k.one(longLease)
	h, deadline, err := c.Extend(k.within(k.facts.Open), r.Handle, k.facts.Lease)
	if err != nil || h == "" {
		k.Fatalf("set the lease shorter: handle %q, %v", h, err)
	}
	second := k.again(c, r, longLease, k.facts.Lease+k.facts.Late+time.Second)
	k.wantBetween("the end of the shorter lease", deadline)
	k.wantAttempt(second, 2)
	k.ack(c, second)
}

func caseGiveBack(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	sent := messages(topic, 5)
	k.send(k.producer(topic), sent...)
	c := k.consumer(group, topic)
	for range 3 {
		got := k.fetch(c, 3, longLease)
		for _, r := range got {
			k.wantAttempt(r, 1)
		}
		back := time.Now()
		k.noErrors("GiveBack", c.GiveBack(k.within(k.facts.Open), handles(got)), 3)
		// With what is given back there are five again; all of them come in time.
		all := k.fetch(c, 5, longLease)
		k.wantSame(sent, all)
		k.wantBetween("what was given back", back)
		k.noErrors("GiveBack", c.GiveBack(k.within(k.facts.Open), handles(all)), 5)
	}
	got := k.fetch(c, 5, longLease)
	k.wantSame(sent, got)
	for _, r := range got {
		k.wantAttempt(r, 1)
	}
	k.ack(c, got...)
}

func caseStale(k *kit) {
	c, r, _ := k.one(k.facts.Lease)
	second := k.again(c, r, longLease, time.Until(r.Deadline)+k.facts.Late+time.Second)
	stale := []driver.Handle{r.Handle}
	k.want("Ack", c.Ack(k.within(k.facts.Open), stale)[0], driver.LeaseExpired)
	k.want("GiveBack", c.GiveBack(k.within(k.facts.Open), stale)[0], driver.LeaseExpired)
	_, err := c.Nack(k.within(k.facts.Open), r.Handle, 0)
	k.want("Nack", err, driver.LeaseExpired)
	_, _, err = c.Extend(k.within(k.facts.Open), r.Handle, longLease)
	k.want("Extend", err, driver.LeaseExpired)
	k.want("DeadLetter", c.DeadLetter(k.within(k.facts.Open), r, "stale"), driver.LeaseExpired)
	k.fetchNone(c, k.facts.Late+k.facts.Quiet, "the second lease runs, and stale handles have no effect on it")
	k.ack(c, second)
}

// caseReplaced allows both answers, because a driver whose handles live in the broker cannot know what replaced them, but never a lost message.
func caseReplaced(k *kit) {
	c, r, _ := k.one(longLease)
	h, _, err := c.Extend(k.within(k.facts.Open), r.Handle, 3*k.facts.Lease)
	if err != nil {
		k.Fatal(err)
	}
	if _, err := c.Nack(k.within(k.facts.Open), h, k.facts.Nack); err != nil {
		k.Fatal(err)
	}
	for _, old := range []driver.Handle{r.Handle, h} {
		if err := c.GiveBack(k.within(k.facts.Open), []driver.Handle{old})[0]; err != nil {
			k.want("GiveBack with a replaced handle", err, driver.LeaseExpired)
		}
	}
	second := k.again(c, r, longLease, k.facts.Nack+2*k.facts.Late+3*k.facts.Lease+20*time.Second)
	k.ack(c, second)
}

func caseGarbage(k *kit) {
	c, r, _ := k.one(longLease)
	other := k.consumer(k.h.NewGroup(k), r.Topic)
	foreign := k.fetch(other, 1, longLease)[0]
	valid := string(r.Handle)
	garbage := []string{
		"", " ", "x", ".", "....", "\x00\xff", strings.Repeat("9 ", 40), strings.Repeat("a", 100_000), valid + "x", valid[:len(valid)/2], string(foreign.Handle),
	}
	random := rand.New(rand.NewPCG(5, 6))
	for range 50 {
		b := make([]byte, random.IntN(60))
		for i := range b {
			b[i] = byte(random.IntN(256))
		}
		garbage = append(garbage, string(b))
	}
	for _, g := range garbage {
		h := driver.Handle(g)
		k.want("Ack of garbage", c.Ack(k.within(k.facts.Open), []driver.Handle{h})[0], driver.InvalidHandle)
		k.want("GiveBack of garbage", c.GiveBack(k.within(k.facts.Open), []driver.Handle{h})[0], driver.InvalidHandle)
		_, err := c.Nack(k.within(k.facts.Open), h, 0)
		k.want("Nack of garbage", err, driver.InvalidHandle)
		_, _, err = c.Extend(k.within(k.facts.Open), h, longLease)
		k.want("Extend of garbage", err, driver.InvalidHandle)
		bad := *r
		bad.Handle = h
		k.want("DeadLetter of garbage", c.DeadLetter(k.within(k.facts.Open), &bad, "garbage"), driver.InvalidHandle)
	}
	errs := c.Ack(k.within(k.facts.Open), []driver.Handle{"x", r.Handle, "y"})
	if len(errs) != 3 || errs[1] != nil {
		k.Fatalf("a good handle between two bad ones: %v", errs)
	}
	k.want("the first bad handle", errs[0], driver.InvalidHandle)
	k.want("the last bad handle", errs[2], driver.InvalidHandle)
	k.ack(other, foreign)
}

func caseAckCancelled(k *kit) {
	c, r, _ := k.one(longLease)
	ctx := k.ended()
	for _, err := range append(c.Ack(ctx, []driver.Handle{r.Handle}), c.GiveBack(ctx, []driver.Handle{"x"})...) {
		if err != nil {
			k.want("with an ended context", err, driver.Timeout, driver.InvalidHandle)
		}
	}
	// The effect of an Ack without an answer is not known; the lease still holds either way.
	k.fetchNone(c, k.facts.Quiet, "the lease runs")
}
