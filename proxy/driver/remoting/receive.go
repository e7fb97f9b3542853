// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// propertyRetryTopic is where a message of a classic retry topic says which topic it was sent to.
const propertyRetryTopic = "RETRY_TOPIC"

// decode reads what a pop brought: messages with their leases, their size together, and how many more the broker has.
func (c *consumer) decode(m *poll) (msgs []*driver.Received, size, rest int64, err error) {
	popped, err := wire.DecodePop(m.answer, m.pair.broker)
	if err != nil {
		return nil, 0, 0, wire.Errorf(err, "read what broker %s sent", m.pair.broker)
	}
	src := &c.sources[m.pair.source]
	now := time.Now()
	skew := c.clocks.skew(m.pair.broker, now)
	msgs = make([]*driver.Received, 0, len(popped.Messages))
	var strangers []lease
	for i := range popped.Messages {
		stored := &popped.Messages[i]
		l := lease{source: m.pair.source, pop: stored.Handle, skew: skew}
		if src.classic {
			// Brokers call all that starts with %RETRY% the retry of a pop, and this topic is what was popped.
			l.pop.Kind = wire.Normal
		}
		if c.outdated(&l, stored) {
			c.drop(l, m.address)
			continue
		}
		if !src.wants(stored.Properties[driver.PropertyTag]) {
			strangers = append(strangers, l)
			continue
		}
		r := c.received(src, stored)
		r.Handle, r.Deadline = l.handle(c.marks), l.until(c.clocks, now)
		size += r.Bytes()
		msgs = append(msgs, r)
	}
	if c.cfg.Ordered && !src.classic {
		c.batch(m.pair.source, msgs)
	}
	if len(strangers) > 0 {
		c.dismiss(m, strangers)
	}
	return msgs, size, popped.Rest, nil
}

// wants is the second check of tags: brokers compare hashes, and "Aa" has that of "BB".
func (s *source) wants(tag string) bool {
	return len(s.tags) == 0 || slices.Contains(s.tags, tag)
}

// dismiss acknowledges what the group did not ask for. When that fails it comes again, and is dismissed again.
func (c *consumer) dismiss(m *poll, strangers []lease) {
	c.sendAcks(m.pair.broker, m.address, strangers, func(_ time.Time, err error) {
		if err != nil {
			c.driver.log.V(verbose).Info("Messages with tags of equal hash were not dismissed and come again", "group", c.cfg.Group, "reason", err.Error())
		}
	})
}

// received is a stored message without its lease.
func (c *consumer) received(src *source, m *wire.PoppedMessage) *driver.Received {
	topic, id := src.name, m.Properties[driver.PropertyID]
	if original := m.Properties[propertyRetryTopic]; src.classic && original != "" {
		topic = wire.WithoutNamespace(c.cfg.Connection.Namespace, c.sentTo(original))
	}
	if id == "" {
		id = m.OffsetID
	}
	return &driver.Received{
		Message: driver.Message{
			ID: id, Topic: topic, Tag: m.Properties[driver.PropertyTag], Keys: driver.SplitKeys(m.Properties[driver.PropertyKeys]),
			Properties: driver.OrdinaryProperties(m.Properties), Body: m.Body, ShardingKey: m.Properties[driver.PropertyShardingKey],
		},
		Attempt:  max(m.Reconsumed, 0) + 1,
		BornTime: m.Born, StoreTime: m.Stored,
		Broker: m.Handle.Broker, Queue: m.Handle.Queue, Offset: m.Handle.Offset,
	}
}

// sentTo is the topic for what RETRY_TOPIC names. A message that a popping member left, and then a pushing one sent back, names the retry topic of POP
// there: the one that the broker found it in.
func (c *consumer) sentTo(named string) string {
	for _, src := range c.sources {
		if !src.classic && (named == wire.RetryV1.Topic(c.group, src.topic) || named == wire.RetryV2.Topic(c.group, src.topic)) {
			return src.topic
		}
	}
	return named
}

func (c *consumer) logUndecoded(m *poll, err error) {
	if err != nil {
		c.driver.log.Info("An answer with messages could not be read; they come again when their leases end",
			"group", c.cfg.Group, "broker", m.pair.broker, "reason", err.Error())
	}
}
