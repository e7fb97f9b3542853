// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// resend is Nack for a message of the classic retry topic, which is popped in order (see source.classic): left in its place with a later time it would hold up
// all behind it, a redriven poison message with a back-off for hours. So a copy with its count raised is stored behind them, to be delivered after the delay, and
// the original is acknowledged, as ClientGo does it and RocketMQ's own consumers do. Between the two a crash gives the message twice. What the broker has
// counted for this place only, leases that ended, is not in the copy. A broker that takes no such copy, because its timer is switched off say, is asked to
// keep the original back in its place.
func (c *consumer) resend(ctx context.Context, h driver.Handle, delay time.Duration) (time.Duration, error) {
	if !c.gate.Enter() {
		return 0, errClosed()
	}
	defer c.gate.Leave()
	bounded, cancel := c.bound(ctx)
	defer cancel()
	delay = (delay + time.Second - 1).Truncate(time.Second) // what brokers keep of it
	l, address, err := c.changeable(bounded, h)
	if err == nil {
		err = c.storeAgain(bounded, &l, address, delay)
	}
	_, refused := wire.CodeOf(err)
	switch {
	case err == nil:
	case c.gate.Shut():
		return 0, errClosed()
	case refused || errors.Is(err, errNoCopy): // so that none is stored
		_, err := c.changing(ctx, h, delay)
		return delay, err
	default:
		return 0, err
	}
	if err := c.Ack(ctx, []driver.Handle{h})[0]; err != nil {
		return 0, wire.Errorf(err, "a copy is stored; acknowledge the original")
	}
	c.hurryClassic()
	return delay, nil
}

// storeAgain stores the copy of a leased message.
func (c *consumer) storeAgain(ctx context.Context, l *lease, address string, delay time.Duration) error {
	queue := wire.Queue{Topic: c.sources[l.source].topic, Broker: l.pop.Broker, Address: address, ID: l.pop.Queue}
	pulled, err := c.cluster.wire.Pull(ctx, queue, c.group, l.pop.Offset, 1)
	if err == nil && (len(pulled.Messages) == 0 || pulled.Messages[0].Offset != l.pop.Offset || pulled.Messages[0].Undecoded()) {
		err = errNoCopy
	}
	if err == nil {
		_, err = c.cluster.wire.Send(ctx, address, c.again(&pulled.Messages[0], l.pop.Broker, delay))
	}
	if err != nil {
		return wire.Errorf(err, "store a message of %q again at broker %s", queue.Topic, l.pop.Broker)
	}
	return nil
}

var errNoCopy = driver.Errorf(driver.Unavailable, "", "it is not stored there any more, or does not unpack")

// again is the copy of m, delivered once more.
func (c *consumer) again(m *wire.StoredMessage, broker string, delay time.Duration) wire.Outgoing {
	properties := driver.OrdinaryProperties(m.Properties)
	if properties == nil {
		properties = make(map[string]string)
	}
	for _, name := range []string{
		driver.PropertyID, driver.PropertyTag, driver.PropertyKeys, propertyRetryTopic, propertyOriginID,
	} {
		if value := m.Properties[name]; value != "" {
			properties[name] = value
		}
	}
	if delay > 0 {
		properties[driver.PropertyDelay] = strconv.FormatInt(delay.Milliseconds(), 10)
	}
	body, flag := m.Body, 0
	if len(body) > compressLetters {
		body, flag = wire.Compress(body)
	}
	return wire.Outgoing{
		ProducerGroup: c.group, Topic: wire.RetryTopic(c.group), Queue: 0, Broker: broker, Properties: properties, Body: body, SysFlag: flag,
		BornTime: m.Born, Reconsumed: m.Reconsumed + 1, MaxReconsume: unlimited,
	}
}

const (
	// propertyOriginID is the broker's own id of the message that was sent.
	propertyOriginID = "ORIGIN_MESSAGE_ID"
	// unlimited keeps the broker from counting retries; the window does.
	unlimited = 1 << 30
)
