// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"strconv"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// DeadLetter implements driver.Consumer. It writes the message to the group's retry topic with its retries used up, which makes the broker store it in
// the dead-letter topic, and make that topic if need be. Asking the broker to move its own copy (CONSUMER_SEND_MSG_BACK with level -1) would be
// shorter, but has no place for the reason; sending to the dead-letter topic directly fails until some message has gone there the other way. Then
// the original is acknowledged; when that fails it comes again, and is in the dead-letter topic as well.
func (c *consumer) DeadLetter(ctx context.Context, m *driver.Received, reason string) error {
	if !c.gate.Enter() {
		return errClosed()
	}
	defer c.gate.Leave()
	bounded, cancel := c.bound(ctx)
	defer cancel()
	l, address, err := c.changeable(bounded, m.Handle)
	if err == nil {
		_, err = c.cluster.wire.Send(bounded, address, c.letter(m, &l, reason))
	}
	switch {
	case err != nil && c.gate.Shut():
		return errClosed()
	case err != nil:
		return wire.Errorf(err, "write message %q to the dead-letter topic of group %q", m.ID, c.cfg.Group)
	}
	if err := c.Ack(ctx, []driver.Handle{m.Handle})[0]; err != nil {
		return wire.Errorf(err, "message %q is in the dead-letter topic of group %q; acknowledge the original", m.ID, c.cfg.Group)
	}
	return nil
}

// compressLetters is the size above which dead letters are compressed, RocketMQ's own default.
const compressLetters = 4 << 10

// letter is the copy for the retry topic.
func (c *consumer) letter(m *driver.Received, l *lease, reason string) wire.Outgoing {
	properties := driver.StoredProperties(&m.Message)
	for name, value := range map[string]string{
		propertyRetryTopic:              c.sources[l.source].topic,
		driver.PropertyDeadLetterReason: driver.CutReason(reason), driver.PropertyDeadLetterAttempts: strconv.Itoa(m.Attempt),
		driver.PropertyDeadLetterTopic: m.Topic, driver.PropertyDeadLetterMessageID: m.ID,
	} {
		if value != "" { // RocketMQ drops empty properties
			properties[name] = value
		}
	}
	body, compressed := m.Body, 0
	if len(body) > compressLetters {
		body, compressed = wire.Compress(body) // it may have come so, and be larger than brokers take otherwise
	}
	return wire.Outgoing{
		ProducerGroup: c.group, Topic: wire.RetryTopic(c.group), Queue: 0, Broker: l.pop.Broker, Properties: properties, Body: body, SysFlag: compressed,
		BornTime: m.BornTime, Reconsumed: m.Attempt + 1, MaxReconsume: m.Attempt,
	}
}
