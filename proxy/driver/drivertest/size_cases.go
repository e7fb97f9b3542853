// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"crypto/rand"
	"errors"
	"strconv"
	"strings"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var sizeCases = []testCase{
	{name: "a message of exactly maxMessageBytes is stored, one byte more is refused with its field and the limit", run: caseExactLimit},
	{name: "a body of exactly the broker's limit is stored, one byte more is the message's fault", run: caseBrokersLimit},
	{name: "the largest properties, keys and id arrive, come again and reach the dead-letter topic", run: caseLargestProperties},
}

// incompressible is a body that compression makes no smaller.
func (k *kit) incompressible(n int) []byte {
	k.Helper()
	body := make([]byte, n)
	if _, err := rand.Read(body); err != nil {
		k.Fatal(err)
	}
	return body
}

// sized opens a producer with another limit than the harness's.
func (k *kit) sized(topic string, maxMessageBytes int) driver.Producer {
	k.Helper()
	cfg := k.producerConfig(topic)
	cfg.MaxMessageBytes, cfg.CompressAbove = maxMessageBytes, 0
	p, err := k.d.OpenProducer(k.within(k.facts.Open), cfg)
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() { k.closing("producer", p) })
	return p
}

func (k *kit) wantBodyError(what string, err error, limit int) {
	k.Helper()
	var detailed *driver.Error
	if !errors.As(err, &detailed) || detailed.Reason != driver.InvalidMessage || detailed.Field != "body" || !strings.Contains(detailed.Message, strconv.Itoa(limit)) {
		k.Errorf("%s: %v, want InvalidMessage of the field body with the limit %d", what, err, limit)
	}
}

func caseExactLimit(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	const limit = 100_000
	p := k.sized(topic, limit)
	exact, more := message(topic), message(topic)
	for _, m := range []*driver.Message{exact, more} {
		m.Tag, m.Keys, m.Properties = "t", []string{"k"}, map[string]string{"a": "b"}
	}
	exact.Body = k.incompressible(limit - int(exact.Bytes()) + len(exact.Body))
	more.Body = k.incompressible(len(exact.Body) + 1)
	if exact.Bytes() != limit || more.Bytes() != limit+1 {
		k.Fatalf("the messages have %d and %d bytes", exact.Bytes(), more.Bytes())
	}
	results := p.Send(k.within(k.facts.Open), topic, []*driver.Message{more, exact})
	k.wantBodyError("one byte more", results[0].Err, limit)
	if results[1].Err != nil {
		k.Fatalf("exactly the limit: %v", results[1].Err)
	}
	c := k.consumer(group, topic)
	r := k.fetch(c, 1, longLease)[0]
	if err := sameMessage(exact, r); err != nil {
		k.Errorf("it came with %v", err)
	}
	k.ack(c, r)
	k.fetchNone(c, k.facts.Quiet, "the other was refused")
}

// caseBrokersLimit: brokers count the body alone. Whoever sets maxMessageBytes higher than that is told by the broker, at once and for good.
func caseBrokersLimit(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	p := k.sized(topic, 2*k.facts.BrokersLimit)
	exact, more, small := message(topic), message(topic), message(topic)
	exact.Body, more.Body = k.incompressible(k.facts.BrokersLimit), k.incompressible(k.facts.BrokersLimit+1)
	results := p.Send(k.within(k.facts.Open), topic, []*driver.Message{exact, more, small})
	k.wantBodyError("one byte more than the broker takes", results[1].Err, k.facts.BrokersLimit)
	for _, i := range []int{0, 2} {
		if results[i].Err != nil {
			k.Fatalf("message %d: %v", i, results[i].Err)
		}
	}
	c := k.consumer(group, topic)
	for range 2 {
		r := k.fetch(c, 1, longLease)[0]
		sent := exact
		if r.ID == small.ID {
			sent = small
		}
		if err := sameMessage(sent, r); err != nil {
			k.Errorf("it came with %v", err)
		}
		k.ack(c, r)
	}
	k.fetchNone(c, k.facts.Quiet, "the other was refused")
}

// largestProperties fills the message's properties to the limit.
func (k *kit) largestProperties(m *driver.Message) {
	m.ID = m.ID + strings.Repeat("i", driver.MaxIDBytes-len(m.ID))
	m.Tag, m.Keys = strings.Repeat("t", 200), []string{strings.Repeat("k", 1000), "second"}
	m.Properties = map[string]string{}
	for i := range 100 {
		m.Properties["property-"+strconv.Itoa(i)] = strings.Repeat("ä", 50)
	}
	low, high := 1, driver.MaxPropertyBytes
	for low < high {
		m.Properties["rest"] = strings.Repeat("r", (low+high+1)/2)
		if driver.ValidateMessage(m, 0) == nil {
			low = (low + high + 1) / 2
		} else {
			high = (low+high+1)/2 - 1
		}
	}
	m.Properties["rest"] = strings.Repeat("r", low)
}

func caseLargestProperties(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	m := message(topic)
	k.largestProperties(m)
	k.send(k.producer(topic), m)
	c := k.consumer(group, topic)
	r := k.fetch(c, 1, longLease)[0]
	if err := sameMessage(m, r); err != nil {
		k.Fatalf("it came with %v", err)
	}
	if _, err := c.Nack(k.within(k.facts.Open), r.Handle, k.facts.Nack); err != nil {
		k.Fatal(err)
	}
	r = k.fetchWithin(c, 1, longLease, k.facts.Open+k.facts.Nack+2*k.facts.Late)[0]
	if err := sameMessage(m, r); err != nil {
		k.Fatalf("after a nack it came with %v", err)
	}
	if err := c.DeadLetter(k.within(k.facts.Open), r, strings.Repeat("why ", driver.MaxReasonBytes)); err != nil {
		k.Fatal(err)
	}
	dead := k.consumer(k.h.NewGroup(k), driver.DeadLetterTopic(group))
	r = k.fetch(dead, 1, longLease)[0]
	if r.ID != m.ID || string(r.Body) != string(m.Body) || r.Properties["rest"] != m.Properties["rest"] || r.Properties[driver.PropertyDeadLetterReason] == "" {
		k.Errorf("the dead letter came with id %q, %d properties, reason %.20q", r.ID, len(r.Properties), r.Properties[driver.PropertyDeadLetterReason])
	}
	k.ack(dead, r)
	k.fetchNone(c, k.facts.Quiet, "it was given up")
}
