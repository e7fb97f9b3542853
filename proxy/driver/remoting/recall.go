// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Recall implements driver.Producer.
func (p *producer) Recall(ctx context.Context, handle string) (string, error) {
	if !p.gate.Enter() {
		return "", errClosed()
	}
	defer p.gate.Leave()
	h, err := wire.ParseRecallHandle(handle)
	if err != nil {
		return "", driver.Errorf(driver.InvalidHandle, "recall_handle", "not a recall handle: %w", err)
	}
	topic := wire.WithoutNamespace(p.cfg.Connection.Namespace, h.Topic)
	if p.name(topic) != h.Topic || !p.sends(topic) {
		return "", driver.Errorf(driver.InvalidHandle, "recall_handle", "it names a message of topic %q, which is not a topic of this producer", topic)
	}
	limit, cancel := context.WithTimeout(ctx, p.cfg.SendTimeout)
	defer cancel()
	defer context.AfterFunc(p.gate.Life(), cancel)()
	address, err := p.cluster.address(limit, h.Topic, h.Broker)
	if err == nil {
		err = p.cluster.wire.Recall(limit, address, wire.WithNamespace(p.cfg.Connection.Namespace, p.cfg.Group), h.Topic, h.Broker, handle)
	}
	if err != nil {
		return "", p.recallError(ctx, h, err)
	}
	return h.ID, nil
}

// recallError says what a broker's code means here; see wire.Client.Recall.
func (p *producer) recallError(ctx context.Context, h wire.RecallHandle, err error) error {
	code, answered := wire.CodeOf(err)
	switch {
	case p.gate.Shut():
		return errClosed()
	case ctx.Err() != nil:
		return wire.Errorf(ctx.Err(), "recall")
	case answered && code == wire.CodeIllegalOperation:
		return driver.Errorf(driver.TooLate, "", "broker %s does not hold message %q back any more (it was due at %s): %w",
			h.Broker, h.ID, h.DeliverAt.UTC().Format("2006-01-02T15:04:05.000Z"), err)
	case answered && code == wire.CodeNoPermission:
		return driver.Errorf(driver.Unsupported, "", "broker %s does not recall messages: set recallMessageEnable=true there, or give the credentials the right to publish: %w",
			h.Broker, err)
	default:
		return wire.Errorf(err, "recall from broker %s", h.Broker)
	}
}
