// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var sendCases = []testCase{
	{name: "a message arrives as it was sent, whatever its body, keys, tag and properties", run: caseRoundTrip},
	{name: "a batch answers one result per message in order and keeps their ids", run: caseBatch},
	{name: "a batch larger than the limits of one request is stored whole", run: caseLargeBatch},
	{name: "a bad message fails alone, names its field, and the others are stored", run: caseBadMessages},
	{name: "a body near the limit passes, compressed or not", run: caseNearLimit},
	{name: "an unknown topic is TopicNotFound, or is created where the broker does that", run: caseUnknownTopic},
	{name: "sends from 32 goroutines are all stored, each once", run: caseConcurrentSends},
	{name: "a Send whose context has ended answers every message at once", run: caseSendCancelled},
	{name: "what the caller does to its message after Send changes nothing", run: caseNoAliasing},
	{name: "messages survive a restart of the broker, and the clients find it again", alone: true, long: true, run: caseRestart},
}

func caseRoundTrip(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	binary := make([]byte, 10_000)
	if _, err := rand.Read(binary); err != nil {
		k.Fatal(err)
	}
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	sent := []*driver.Message{
		{Body: []byte("plain")},
		{Body: []byte{0}},
		{Body: every, Tag: "tag-1"},
		{Body: binary, Keys: []string{"key-1", "order:2/3"}},
		{Body: []byte("grüße 你好 🚀"), Tag: "grün", Keys: []string{"schlüssel"}, Properties: map[string]string{"größe": "你好 🚀"}},
		{Body: []byte(strings.Repeat("x", 20_000)), Properties: map[string]string{"a": "1", "b": "two words", "c": "=;,|&%\"'\\{}"}},
		{Body: []byte("p"), Properties: map[string]string{"lines": "one\ntwo\r\n\tthree", "spaces": "  both  "}},
		{Body: []byte("last"), Tag: "t", Keys: []string{"k"}, Properties: map[string]string{"long": strings.Repeat("v", 10_000)}},
	}
	for i, m := range sent {
		m.Topic, m.ID = topic, fmt.Sprintf("%s-%d", topic, i)
	}
	k.send(k.producer(topic), sent...)
	byID := map[string]*driver.Received{}
	c := k.consumer(group, topic)
	before := time.Now().Add(-time.Hour)
	for _, r := range k.fetch(c, len(sent), longLease) {
		byID[r.ID] = r
		k.wantAttempt(r, 1)
		if r.BornTime.Before(before) || r.StoreTime.Before(before) || r.Queue < 0 || r.Offset < 0 {
			k.Errorf("message %s: born %v, stored %v, queue %d, offset %d", r.ID, r.BornTime, r.StoreTime, r.Queue, r.Offset)
		}
		k.ack(c, r)
	}
	for i, m := range sent {
		if byID[m.ID] == nil {
			k.Errorf("message %d did not come under its id", i)
		} else if err := sameMessage(m, byID[m.ID]); err != nil {
			k.Errorf("message %d came with %v", i, err)
		}
	}
}

func caseBatch(k *kit) {
	topic, group := k.h.NewTopic(k, 4), k.h.NewGroup(k)
	p := k.producer(topic)
	sent := messages(topic, 20)
	for i, m := range sent {
		m.Tag, m.Keys, m.Properties = fmt.Sprintf("tag%d", i), []string{fmt.Sprintf("key%d", i)}, map[string]string{"i": fmt.Sprint(i)}
	}
	k.sendBatch(p, sent...)
	c := k.consumer(group, topic)
	got := k.fetch(c, len(sent), longLease)
	k.wantSame(sent, got)
	byID := map[string]*driver.Message{}
	for _, m := range sent {
		byID[m.ID] = m
	}
	for _, r := range got {
		if err := sameMessage(byID[r.ID], r); err != nil {
			k.Errorf("message %s came with %v", r.ID, err)
		}
	}
	k.ack(c, got...)
}

func caseLargeBatch(k *kit) {
	topic, group := k.h.NewTopic(k, 4), k.h.NewGroup(k)
	p := k.producer(topic)
	limits := p.Limits()
	if limits.Messages < 1 || limits.Bytes < 1 {
		k.Fatalf("Limits() = %+v; one message must fit", limits)
	}
	sent := messages(topic, min(limits.Messages+7, 2000))
	body := strings.Repeat("b", min(limits.Bytes/len(sent)*2, 8<<10)+1)
	for _, m := range sent {
		m.Body = []byte(body)
	}
	k.sendBatch(p, sent...)
	c := k.consumer(group, topic)
	k.wantSame(sent, k.consume(c, len(sent)))
}

// badMessages maps the field that the error must name to what spoils the message.
func badMessages(limit int) map[string][]func(*driver.Message) {
	property := func(name, value string) func(*driver.Message) {
		return func(m *driver.Message) { m.Properties = map[string]string{name: value} }
	}
	return map[string][]func(*driver.Message){
		"body": {
			func(m *driver.Message) { m.Body = nil },
			func(m *driver.Message) { m.Body = []byte{} },
			func(m *driver.Message) { m.Body = make([]byte, limit+1) },
		},
		"tag":                {func(m *driver.Message) { m.Tag = "a||b" }, func(m *driver.Message) { m.Tag = "a\x01" }},
		"keys[1]":            {func(m *driver.Message) { m.Keys = []string{"good", "two words"} }},
		"properties[KEYS]":   {property("KEYS", "x")},
		"properties[DELAY]":  {property("DELAY", "3")},
		"properties[POP_CK]": {property("POP_CK", "0 1 2")},
		"properties[a]":      {property("a", "x\x01y"), property("a", "x\x02y"), property("a", "")},
		"properties[a\x01]":  {property("a\x01", "x")},
		"properties":         {property("", "x"), property("large", strings.Repeat("x", driver.MaxPropertyBytes))},
	}
}

func caseBadMessages(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	p := k.producer(topic)
	var batch, good []*driver.Message
	var fields []string
	add := func(field string, m *driver.Message) { batch, fields = append(batch, m), append(fields, field) }
	for field, spoils := range badMessages(k.facts.MaxMessageBytes) {
		for _, spoil := range spoils {
			bad, fine := message(topic), message(topic)
			spoil(bad)
			add(field, bad)
			add("", fine)
			good = append(good, fine)
		}
	}
	results := p.Send(k.within(k.facts.Open), topic, batch)
	if len(results) != len(batch) {
		k.Fatalf("%d messages, %d results", len(batch), len(results))
	}
	for i, r := range results {
		if fields[i] == "" {
			if r.Err != nil || r.MessageID != batch[i].ID {
				k.Errorf("good message %d beside bad ones: id %q, error %v", i, r.MessageID, r.Err)
			}
			continue
		}
		k.want(fmt.Sprintf("message with a bad %s", fields[i]), r.Err, driver.InvalidMessage)
		var e *driver.Error
		if !errors.As(r.Err, &e) || e.Field != fields[i] {
			k.Errorf("the error must name field %q: %v", fields[i], r.Err)
		}
	}
	c := k.consumer(group, topic)
	got := k.fetch(c, len(good), longLease)
	k.wantSame(good, got)
	k.ack(c, got...)
	k.fetchNone(c, k.facts.Quiet, "refused messages must not be stored")
}

func caseNearLimit(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	cfg := k.producerConfig(topic)
	for _, compressAbove := range []int{0, 4096} {
		cfg.ClientID, cfg.CompressAbove, cfg.Group = clientID(), compressAbove, fmt.Sprintf("%s_%d", cfg.Group, compressAbove)
		p, err := k.d.OpenProducer(k.within(k.facts.Open), cfg)
		if err != nil {
			k.Fatal(err)
		}
		k.Cleanup(func() { k.closing("producer", p) })
		random := message(topic)
		random.Body = make([]byte, k.facts.MaxMessageBytes-2048)
		if _, err := rand.Read(random.Body); err != nil {
			k.Fatal(err)
		}
		even := message(topic)
		even.Body = []byte(strings.Repeat("a", k.facts.MaxMessageBytes-2048))
		k.send(p, random, even)
		c := k.consumer(group, topic)
		for range 2 {
			r := k.fetch(c, 1, longLease)[0]
			sent := random
			if r.ID == even.ID { // no driver promises an order
				sent = even
			}
			if err := sameMessage(sent, r); err != nil {
				k.Fatalf("compressing above %d bytes: came with %v", compressAbove, err)
			}
			k.ack(c, r)
		}
		k.fetchNone(c, k.facts.Quiet, "both have come")
		k.closing("consumer", c)
	}
}

func caseUnknownTopic(k *kit) {
	known := k.h.NewTopic(k, 1)
	unknown := known + "_unknown"
	p, err := k.d.OpenProducer(k.within(k.facts.Open), k.producerConfig(unknown))
	if err == nil {
		k.closing("producer", p)
	}
	if !k.facts.CreatesTopics {
		k.want("open a producer of an unknown topic", err, driver.TopicNotFound)
	} else if err != nil {
		k.want("open a producer of an unknown topic", err, driver.TopicNotFound)
	}
	c, err := k.d.OpenConsumer(k.within(k.facts.Open), k.consumerConfig(k.h.NewGroup(k), driver.Earliest, driver.Subscription{Topic: unknown + "2"}))
	if err == nil {
		k.closing("consumer", c)
	}
	if err != nil || !k.facts.CreatesTopics {
		k.want("open a consumer of an unknown topic", err, driver.TopicNotFound)
	}
	result := k.producer(known).Send(k.within(k.facts.Open), unknown+"3", []*driver.Message{message(unknown + "3")})
	if len(result) != 1 {
		k.Fatalf("one message, %d results", len(result))
	}
	if result[0].Err != nil || !k.facts.CreatesTopics {
		k.want("send to an unknown topic", result[0].Err, driver.TopicNotFound)
	}
}

func caseConcurrentSends(k *kit) {
	const senders, each = 32, 30
	topic, group := k.h.NewTopic(k, 4), k.h.NewGroup(k)
	p := k.producer(topic)
	sent := messages(topic, senders*each)
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for _, m := range sent[s*each : (s+1)*each] {
				if r := p.Send(k.within(k.facts.Open), topic, []*driver.Message{m}); len(r) != 1 || r[0].Err != nil || r[0].MessageID != m.ID {
					k.Errorf("send %s: %+v", m.ID, r)
				}
			}
		})
	}
	wg.Wait()
	c := k.consumer(group, topic)
	k.wantSame(sent, k.consume(c, len(sent)))
}

func caseSendCancelled(k *kit) {
	topic := k.h.NewTopic(k, 1)
	p := k.producer(topic)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	start := time.Now()
	results := p.Send(ctx, topic, messages(topic, 3))
	if took := time.Since(start); took > time.Second {
		k.Errorf("took %v", took)
	}
	if len(results) != 3 {
		k.Fatalf("three messages, %d results", len(results))
	}
	for _, r := range results {
		k.want("send with an ended context", r.Err, driver.Timeout)
	}
	k.send(p, message(topic))
}

func caseNoAliasing(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	m := message(topic)
	m.Properties, m.Keys = map[string]string{"a": "1"}, []string{"key"}
	sent := *m
	sent.Body, sent.Properties, sent.Keys = []byte(string(m.Body)), map[string]string{"a": "1"}, []string{"key"}
	k.send(k.producer(topic), m)
	spoil := func(m *driver.Message) { m.Body[0], m.Keys[0], m.Properties["a"] = '!', "!", "!" }
	spoil(m)
	c := k.consumer(group, topic)
	first := k.fetch(c, 1, longLease)[0]
	if err := sameMessage(&sent, first); err != nil {
		k.Fatalf("after the sender changed its own: came with %v", err)
	}
	spoil(&first.Message)
	k.noErrors("GiveBack", c.GiveBack(k.within(k.facts.Open), handles([]*driver.Received{first})), 1)
	second := k.fetch(c, 1, longLease)[0]
	if err := sameMessage(&sent, second); err != nil {
		k.Fatalf("after the first receiver changed its own: came with %v", err)
	}
	k.ack(c, second)
}

func caseRestart(k *kit) {
	if k.facts.RestartBroker == nil {
		k.Skip("the harness cannot restart the broker")
	}
	topic, group := k.h.NewTopic(k, 2), k.h.NewGroup(k)
	p, c := k.producer(topic), k.consumer(group, topic)
	sent := messages(topic, 40)
	k.send(p, sent[:20]...)
	acked := k.fetch(c, 10, longLease)
	k.ack(c, acked...)
	k.facts.RestartBroker(k)
	k.eventually(time.Minute, func() error {
		return p.Send(k.within(k.facts.Open), topic, sent[20:21])[0].Err
	})
	k.send(p, sent[21:]...)
	missing := map[string]bool{}
	for _, m := range sent {
		missing[m.ID] = true
	}
	for _, r := range acked {
		delete(missing, r.ID)
	}
	for deadline := time.Now().Add(2 * time.Minute); len(missing) > 0 && time.Now().Before(deadline); {
		rs, err := c.Fetch(k.within(k.facts.Open), driver.FetchRequest{MaxMessages: 32, MaxBytes: 1 << 20, Lease: 20 * time.Second})
		if err != nil && !driver.Retryable(err) {
			k.Fatalf("Fetch after the restart: %v", err)
		}
		for i, err := range c.Ack(k.within(k.facts.Open), handles(rs)) {
			if err == nil {
				delete(missing, rs[i].ID)
			}
		}
	}
	if len(missing) > 0 {
		k.Fatalf("%d messages are lost after the restart", len(missing))
	}
}
