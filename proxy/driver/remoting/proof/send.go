// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"context"
	"slices"
	"strconv"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Producer proves that group may send to each of topics.
func (p *Prover) Producer(ctx context.Context, group string, topics []string) error {
	return All(ctx, len(topics), func(ctx context.Context, i int) error {
		return p.Topic(ctx, "topics["+strconv.Itoa(i)+"]", group, topics[i])
	})
}

// Topic proves that group may send to topic: there is a queue that can be written, a broker that has one accepts the credentials for it, and none
// refuses them. A broker that does not answer is no reason to fail where another one does. The right to send is one to the topic; no broker
// looks at the producer group (5.5.0 with its ACL; the plain ACL of 4.x).
func (p *Prover) Topic(ctx context.Context, field, group, topic string) error {
	route, err := p.Route(ctx, field, topic)
	if err != nil && driver.ReasonOf(err) == driver.TopicNotFound {
		route, err = p.creatable(ctx, field, err)
	}
	if err != nil {
		return err
	}
	writable := route.Writable(p.Name(topic))
	if len(writable) == 0 {
		return driver.Errorf(driver.Unavailable, field, "topic %q has no queue that can be written: no master is up, or the topic is read-only", topic)
	}
	return p.anyMaySend(ctx, field, group, topic, Brokers(writable))
}

func (p *Prover) anyMaySend(ctx context.Context, field, group, topic string, brokers []wire.Queue) error {
	answers := make([]error, len(brokers))
	err := All(ctx, len(brokers), func(ctx context.Context, i int) error {
		answers[i] = p.maySend(ctx, field, group, topic, brokers[i])
		if answers[i] != nil && !driver.Retryable(answers[i]) {
			return answers[i]
		}
		return nil
	})
	if err != nil || slices.Contains(answers, nil) {
		return err
	}
	return answers[0]
}

// creatable is the route of the brokers that create unknown topics; without one it is missing, the error that the topic does not exist.
func (p *Prover) creatable(ctx context.Context, field string, missing error) (*wire.Route, error) {
	route, err := p.Routes.Route(ctx, wire.DefaultTopic)
	switch {
	case err == nil:
		return route, nil
	case driver.ReasonOf(err) == driver.AddressRefused:
		return nil, WithField(wire.Errorf(err, "find the brokers that create topics"), field)
	default:
		return nil, missing
	}
}

func (p *Prover) maySend(ctx context.Context, field, group, topic string, q wire.Queue) error {
	err := p.Wire.MaySend(ctx, q.Address, p.Name(group), p.Name(topic))
	if err == nil {
		return nil
	}
	if code, ok := wire.CodeOf(err); ok && code == wire.CodeTopicNotExist {
		return driver.Errorf(driver.TopicNotFound, field, "topic %q does not exist: create it, or correct the name: %w", topic, err)
	}
	return WithField(wire.Errorf(err, "send to topic %q", topic), field)
}
