// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var groupCases = []testCase{
	{name: "two consumers of one group share its messages, none comes twice", run: caseShare},
	{name: "two groups get every message each", run: caseTwoGroups},
	{name: "a delivery is acknowledged through another member of its group", run: caseAckElsewhere},
	{name: "a dead-lettered message is in the group's dead-letter topic with its reason and does not come again", run: caseDeadLetter},
	{name: "lag counts what waits", run: caseLag},
}

func caseShare(k *kit) {
	if k.caps.SingleHost && !k.caps.AckFromAnyHost {
		k.Skip("this driver's consumers must run on one host only: two members of a group are not supported")
	}
	const n = 400
	topic, group := k.h.NewTopic(k, 4), k.h.NewGroup(k)
	p := k.producer(topic)
	members := []driver.Consumer{k.consumer(group, topic), k.consumer(group, topic)}
	sent := messages(topic, n)
	var mu sync.Mutex
	var got []*driver.Received
	ctx := k.within(k.facts.Open + 20*time.Second)
	var wg sync.WaitGroup
	for _, c := range members {
		wg.Go(func() {
			for {
				mu.Lock()
				finished := len(got) >= n
				mu.Unlock()
				if finished || ctx.Err() != nil {
					return
				}
				rs, err := c.Fetch(k.within(k.facts.Quiet), driver.FetchRequest{MaxMessages: 5, MaxBytes: 1 << 20, Lease: longLease})
				if err != nil && driver.ReasonOf(err) != driver.Timeout {
					k.Errorf("Fetch: %v", err)
					return
				}
				for _, err := range c.Ack(ctx, handles(rs)) {
					if err != nil {
						k.Errorf("ack: %v", err)
					}
				}
				mu.Lock()
				got = append(got, rs...)
				mu.Unlock()
			}
		})
	}
	for i := 0; i < n; i += 10 {
		k.sendBatch(p, sent[i:i+10]...)
	}
	wg.Wait()
	k.wantSame(sent, got)
}

func caseTwoGroups(k *kit) {
	topic := k.h.NewTopic(k, 4)
	p := k.producer(topic)
	sent := messages(topic, 30)
	consumers := []driver.Consumer{k.consumer(k.h.NewGroup(k), topic), k.consumer(k.h.NewGroup(k), topic)}
	k.send(p, sent...)
	for _, c := range consumers {
		got := k.fetch(c, len(sent), longLease)
		k.wantSame(sent, got)
		for _, r := range got {
			k.wantAttempt(r, 1)
		}
		k.ack(c, got...)
	}
}

func caseAckElsewhere(k *kit) {
	if !k.caps.AckFromAnyHost {
		k.Skip("this driver acknowledges where it fetched only")
	}
	c, r, group := k.one(longLease)
	other := k.consumer(group, r.Topic)
	h, _, err := other.Extend(k.within(k.facts.Open), r.Handle, longLease)
	if err != nil {
		k.Fatalf("extend through the other member: %v", err)
	}
	k.noErrors("Ack through the other member", other.Ack(k.within(k.facts.Open), []driver.Handle{h}), 1)
	k.closing("consumer", c)
	k.fetchNone(other, k.facts.Late+k.facts.Quiet, "the message is acknowledged")
}

func caseDeadLetter(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	sent := message(topic)
	sent.Tag, sent.Keys, sent.Properties = "tag", []string{"key"}, map[string]string{"a": "1"}
	k.send(k.producer(topic), sent)
	c := k.consumer(group, topic)
	r := k.fetch(c, 1, longLease)[0]
	if _, err := c.Nack(k.within(k.facts.Open), r.Handle, 0); err != nil {
		k.Fatal(err)
	}
	r = k.fetch(c, 1, longLease)[0]
	reason := "too many attempts: größer als 1 " + strings.Repeat("ß", driver.MaxReasonBytes)
	if err := c.DeadLetter(k.within(k.facts.Open), r, reason); err != nil {
		k.Fatalf("dead letter: %v", err)
	}
	reader := k.consumer(k.h.NewGroup(k), driver.DeadLetterTopic(group))
	letter := k.fetch(reader, 1, longLease)[0]
	k.ack(reader, letter)
	if letter.Topic != driver.DeadLetterTopic(group) {
		k.Errorf("the dead letter came from topic %q", letter.Topic)
	}
	if err := sameLetter(sent, letter, r, reason); err != nil {
		k.Errorf("the dead letter has %v", err)
	}
	// Close gives back what is still leased, so the next member would get the original if it were.
	k.closing("consumer", c)
	k.fetchNone(k.consumer(group, topic), k.facts.Late+k.facts.Quiet, "the message is in the dead-letter topic")
}

func sameLetter(sent *driver.Message, letter, last *driver.Received, reason string) error {
	if letter.ID != sent.ID || string(letter.Body) != string(sent.Body) || letter.Tag != sent.Tag || fmt.Sprint(letter.Keys) != fmt.Sprint(sent.Keys) {
		return fmt.Errorf("id %q, tag %q, keys %q and %d bytes; the original %q, %q, %q and %d",
			letter.ID, letter.Tag, letter.Keys, len(letter.Body), sent.ID, sent.Tag, sent.Keys, len(sent.Body))
	}
	for name, want := range map[string]string{
		"a": "1", driver.PropertyDeadLetterAttempts: fmt.Sprint(last.Attempt), driver.PropertyDeadLetterTopic: sent.Topic,
		driver.PropertyDeadLetterMessageID: sent.ID,
	} {
		if letter.Properties[name] != want {
			return fmt.Errorf("property %s = %q, want %q", name, letter.Properties[name], want)
		}
	}
	kept := letter.Properties[driver.PropertyDeadLetterReason]
	if len(kept) < driver.MaxReasonBytes/2 || len(kept) > driver.MaxReasonBytes || !strings.HasPrefix(reason, kept) {
		return fmt.Errorf("a reason of %d bytes that is not the start of the %d given", len(kept), len(reason))
	}
	return nil
}

func caseLag(k *kit) {
	topic, quiet, group := k.h.NewTopic(k, 4), k.h.NewTopic(k, 1), k.h.NewGroup(k)
	cfg := k.consumerConfig(group, driver.Earliest, driver.Subscription{Topic: topic}, driver.Subscription{Topic: quiet})
	c := k.consumerOf(cfg)
	var oldest time.Time
	check := func(want int64, read func() ([]driver.Lag, error)) func() error {
		return func() error {
			lags, err := read()
			if err != nil {
				return err
			}
			for _, l := range lags {
				if (l.Waiting > 0) != !l.Oldest.IsZero() || l.Waiting > 0 && l.Oldest.UnixMilli() != oldest.UnixMilli() {
					return fmt.Errorf("of %d that wait in %s the oldest was stored at %s, want %s", l.Waiting, l.Topic, l.Oldest, oldest)
				}
			}
			byTopic := map[string]int64{}
			for _, l := range lags {
				byTopic[l.Topic] += l.Waiting
			}
			if len(byTopic) != 2 || byTopic[topic] != want || byTopic[quiet] != 0 {
				return fmt.Errorf("lag is %v, want %d in %s and 0 in %s", lags, want, topic, quiet)
			}
			return nil
		}
	}
	lag := func(want int64) func() error {
		return check(want, func() ([]driver.Lag, error) { return c.Lag(k.within(k.facts.Open)) })
	}
	k.eventually(2*k.facts.Open, lag(0))
	k.closing("consumer", c)
	sent := messages(topic, 12)
	k.send(k.producer(topic), sent...)
	oldest = k.storeTimes(topic, sent)[sent[0].ID]
	if reader, ok := k.d.(driver.LagReader); ok { // nobody has the group open
		k.eventually(2*k.facts.Open, check(12, func() ([]driver.Lag, error) { return reader.ReadLag(k.within(k.facts.Open), cfg) }))
	} else if k.caps.IdleConsumers {
		k.Error("a driver whose Consumers may be idle must tell what waits for them")
	}
	cfg.ClientID = clientID()
	c = k.consumerOf(cfg)
	if k.caps.Prefetch == "" {
		k.eventually(2*k.facts.Open, lag(12))
	}
	got := k.fetch(c, 12, longLease)
	k.ack(c, got...)
	k.eventually(2*k.facts.Open, lag(0))
}
