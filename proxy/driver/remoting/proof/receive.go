// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"context"
	"fmt"
	"slices"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Consumer proves that cfg's group may read its subscriptions, and returns their readable queues. It changes nothing and joins nothing.
func (p *Prover) Consumer(ctx context.Context, cfg driver.ConsumerConfig) ([]wire.Queue, error) {
	found := make([][]wire.Queue, len(cfg.Subscriptions))
	err := All(ctx, len(cfg.Subscriptions), func(ctx context.Context, i int) error {
		s, field := cfg.Subscriptions[i], fmt.Sprintf("subscriptions[%d]", i)
		route, err := p.Route(ctx, field+".topic", s.Topic)
		if err != nil {
			return err
		}
		found[i] = route.Readable(p.Name(s.Topic))
		if len(found[i]) == 0 {
			return driver.Errorf(driver.Unavailable, field+".topic", "topic %q has no queue that can be read: no master is up, or the topic is write-only", s.Topic)
		}
		for _, broker := range Brokers(found[i]) {
			if err := p.mayReceive(ctx, field, cfg, s, broker); err != nil {
				return err
			}
		}
		return nil
	})
	return slices.Concat(found...), err
}

// mayReceive asks the broker of q. Two requests are needed: the check of the filter is answered to anyone whose signature is right (5.5.0), and
// the group's position only to those who may read topic and group.
func (p *Prover) mayReceive(ctx context.Context, field string, cfg driver.ConsumerConfig, s driver.Subscription, q wire.Queue) error {
	group, subscription := p.Name(cfg.Group), wire.NewSubscription(p.Name(s.Topic), s.Tag, s.SQL)
	err := p.Wire.CheckClientConfig(ctx, q.Address, string(cfg.ClientID), group, subscription)
	if code, ok := wire.CodeOf(err); ok && s.SQL != "" && (code == wire.CodeSystemError || code == wire.CodeSubscriptionBadParse) {
		return driver.Errorf(driver.InvalidFilter, field+".filter.sql", "broker %s refuses the filter %q: %w", q.Broker, s.SQL, err)
	}
	if err == nil {
		_, err = p.Wire.ConsumerOffset(ctx, q, group)
	}
	if err != nil {
		return WithField(wire.Errorf(err, "read topic %q as group %q", s.Topic, cfg.Group), field)
	}
	return nil
}
