// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"strconv"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// levels are RocketMQ's delays as brokers have them by default (messageDelayLevel); level 1 is the first.
var levels = []time.Duration{
	time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 3 * time.Minute, 4 * time.Minute, 5 * time.Minute,
	6 * time.Minute, 7 * time.Minute, 8 * time.Minute, 9 * time.Minute, 10 * time.Minute, 20 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour,
}

// levelFor is the lowest level that is not shorter than delay, or the last.
func levelFor(delay time.Duration) (level int, effective time.Duration) {
	for i, d := range levels {
		if d >= delay {
			return i + 1, d
		}
	}
	return len(levels), levels[len(levels)-1]
}

// Nack implements driver.Consumer. The broker stores a copy in the group's retry topic, to be delivered after the delay; when it has confirmed that,
// the original gets the verdict "consumed", so that the queue's position moves on. Between the two a crash gives the message twice.
func (c *consumer) Nack(ctx context.Context, h driver.Handle, delay time.Duration) (time.Duration, error) {
	if !c.gate.Enter() {
		return 0, errClosed()
	}
	defer c.gate.Leave()
	a, err := c.leases.settle(h)
	if err != nil {
		return 0, err
	}
	level, effective := levelFor(delay)
	err = c.write(ctx, a, func(ctx context.Context, address string) error {
		return c.wire.SendBack(ctx, address, wire.Back{
			Group: c.group, Topic: a.broker.topic, Broker: a.content.Broker, MessageID: a.broker.offsetID, DelayLevel: level,
			CommitLogOffset: a.broker.commitLogOffset,
		})
	})
	if err != nil {
		c.leases.unsettled(a)
		return 0, wire.Errorf(err, "send message %q back to broker %s", a.content.ID, a.content.Broker)
	}
	c.leases.settled(a, true)
	return effective, nil
}

// DeadLetter implements driver.Consumer. It writes the message to the group's retry topic with its retries used up, which makes the broker store it in
// the dead-letter topic, and make that topic if need be. Asking the broker to move its own copy (CONSUMER_SEND_MSG_BACK with level -1) would be
// shorter, but has no place for the reason; sending to the dead-letter topic directly fails until some message has gone there the other way.
func (c *consumer) DeadLetter(ctx context.Context, m *driver.Received, reason string) error {
	if !c.gate.Enter() {
		return errClosed()
	}
	defer c.gate.Leave()
	a, err := c.leases.settle(m.Handle)
	if err != nil {
		return err
	}
	letter := c.copyOf(a)
	letter.Reconsumed, letter.MaxReconsume = a.attempt+1, a.attempt
	for name, value := range map[string]string{
		driver.PropertyDeadLetterReason: driver.CutReason(reason), driver.PropertyDeadLetterAttempts: strconv.Itoa(a.attempt),
		driver.PropertyDeadLetterTopic: a.content.Topic, driver.PropertyDeadLetterMessageID: a.content.ID,
	} {
		if value != "" { // RocketMQ drops empty properties
			letter.Properties[name] = value
		}
	}
	if err := c.write(ctx, a, c.sending(letter)); err != nil {
		c.leases.unsettled(a)
		return wire.Errorf(err, "write message %q to the dead-letter topic of group %q", a.content.ID, c.cfg.Group)
	}
	c.leases.settled(a, false)
	return nil
}

// write asks the broker that has the original, and ends with the client.
func (c *consumer) write(ctx context.Context, a *arrival, ask func(ctx context.Context, address string) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.gate.Life(), cancel)()
	address, ok := (*c.masters.Load())[a.content.Broker]
	if !ok {
		return driver.Errorf(driver.Unavailable, "", "broker %q has no master at present", a.content.Broker)
	}
	err := ask(ctx, address)
	if err != nil && c.gate.Shut() {
		return errClosed()
	}
	return err
}

// copyOf is the message as the broker has it, for the group's retry topic, with its count of deliveries as it is.
func (c *consumer) copyOf(a *arrival) wire.Outgoing {
	properties := driver.StoredProperties(&a.content.Message)
	properties[primitive.PropertyRetryTopic] = a.broker.topic
	properties[primitive.PropertyOriginMessageId] = originOf(a)
	return wire.Outgoing{
		ProducerGroup: c.group, Topic: wire.RetryTopic(c.group), Queue: 0, Broker: a.content.Broker, Properties: properties,
		Body: a.content.Body, BornTime: a.content.BornTime, Reconsumed: a.broker.reconsumed, MaxReconsume: unlimited,
	}
}

// unlimited keeps the broker from counting retries; the window above does.
const unlimited = 1 << 30

func originOf(a *arrival) string {
	if origin := a.broker.properties[primitive.PropertyOriginMessageId]; origin != "" {
		return origin
	}
	return a.broker.offsetID
}

func (c *consumer) sending(m wire.Outgoing) func(context.Context, string) error {
	return func(ctx context.Context, address string) error {
		_, err := c.wire.Send(ctx, address, m)
		return err
	}
}
