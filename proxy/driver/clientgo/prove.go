// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// parallelRequests bounds how many requests one proof has in flight.
const parallelRequests = 16

// prover asks RocketMQ what the library cannot tell: whether credentials, rights, filters and addresses are good.
type prover struct {
	wire       *wire.Client
	connection driver.Connection
}

func (p *prover) name(topic string) string { return wire.WithNamespace(p.connection.Namespace, topic) }

// route fetches topic's route and checks every broker address in it, slaves included: the library may dial all of them.
func (p *prover) route(ctx context.Context, field, topic string) (*wire.Route, error) {
	route, err := p.wire.Route(ctx, p.name(topic))
	if err != nil {
		if code, ok := wire.CodeOf(err); ok && code == wire.CodeTopicNotExist {
			return nil, driver.Errorf(driver.TopicNotFound, field, "topic %q does not exist: create it, or correct the name: %w", topic, err)
		}
		return nil, withField(wire.Errorf(err, "find topic %q", topic), field)
	}
	for _, address := range route.Addresses() {
		if _, err := wire.Resolve(ctx, address, p.connection.AllowAddress); err != nil {
			return nil, withField(wire.Errorf(err, "check the brokers of topic %q", topic), field)
		}
	}
	return route, nil
}

// withField names the field of the object at fault, for reasons that are the object's fault.
func withField(err error, field string) error {
	var e *driver.Error
	if !errors.As(err, &e) || e.Field != "" || driver.Retryable(err) {
		return err
	}
	return &driver.Error{Reason: e.Reason, Field: field, Message: e.Message, Err: err}
}

// producer proves that group may send to each of topics.
func (p *prover) producer(ctx context.Context, group string, topics []string) error {
	return p.all(ctx, len(topics), func(ctx context.Context, i int) error {
		field := "topics[" + strconv.Itoa(i) + "]"
		route, err := p.route(ctx, field, topics[i])
		if driver.ReasonOf(err) == driver.TopicNotFound && err != nil {
			route, err = p.creatable(ctx, field, err)
		}
		if err != nil {
			return err
		}
		return p.maySend(ctx, field, group, topics[i], route)
	})
}

// creatable is the route of the brokers that create unknown topics; without one it is missing, the error that the topic does not exist.
func (p *prover) creatable(ctx context.Context, field string, missing error) (*wire.Route, error) {
	route, err := p.wire.Route(ctx, wire.DefaultTopic)
	if err != nil {
		return nil, missing
	}
	for _, address := range route.Addresses() {
		if _, err := wire.Resolve(ctx, address, p.connection.AllowAddress); err != nil {
			return nil, withField(wire.Errorf(err, "check the brokers that create topics"), field)
		}
	}
	return route, nil
}

// maySend asks every broker that has writable queues of topic.
func (p *prover) maySend(ctx context.Context, field, group, topic string, route *wire.Route) error {
	writable := route.Writable(p.name(topic))
	if len(writable) == 0 {
		return driver.Errorf(driver.Unavailable, field, "topic %q has no queue that can be written: no master is up, or the topic is read-only", topic)
	}
	for _, broker := range brokersOf(writable) {
		if err := p.wire.MaySend(ctx, broker.Address, p.name(group), p.name(topic)); err != nil {
			if driver.ReasonOf(wire.Errorf(err, "")) == driver.TopicNotFound {
				return driver.Errorf(driver.TopicNotFound, field, "topic %q does not exist: create it, or correct the name: %w", topic, err)
			}
			return withField(wire.Errorf(err, "send to topic %q", topic), field)
		}
	}
	return nil
}

// brokersOf picks one queue per broker.
func brokersOf(queues []wire.Queue) []wire.Queue {
	first := make(map[string]wire.Queue)
	for _, q := range queues {
		if _, ok := first[q.Broker]; !ok {
			first[q.Broker] = q
		}
	}
	return slices.SortedFunc(maps.Values(first), func(a, b wire.Queue) int { return strings.Compare(a.Broker, b.Broker) })
}

// consumer proves that cfg's group may read its subscriptions, and returns their readable queues. It changes nothing and joins nothing.
func (p *prover) consumer(ctx context.Context, cfg driver.ConsumerConfig) ([]wire.Queue, error) {
	found := make([][]wire.Queue, len(cfg.Subscriptions))
	err := p.all(ctx, len(cfg.Subscriptions), func(ctx context.Context, i int) error {
		s, field := cfg.Subscriptions[i], fmt.Sprintf("subscriptions[%d]", i)
		route, err := p.route(ctx, field+".topic", s.Topic)
		if err != nil {
			return err
		}
		found[i] = route.Readable(p.name(s.Topic))
		if len(found[i]) == 0 {
			return driver.Errorf(driver.Unavailable, field+".topic", "topic %q has no queue that can be read: no master is up, or the topic is write-only", s.Topic)
		}
		for _, broker := range brokersOf(found[i]) {
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
func (p *prover) mayReceive(ctx context.Context, field string, cfg driver.ConsumerConfig, s driver.Subscription, q wire.Queue) error {
	group, subscription := p.name(cfg.Group), p.subscription(s)
	err := p.wire.CheckClientConfig(ctx, q.Address, string(cfg.ClientID), group, subscription)
	if code, ok := wire.CodeOf(err); ok && s.SQL != "" && (code == wire.CodeSystemError || code == wire.CodeSubscriptionBadParse) {
		return driver.Errorf(driver.InvalidFilter, field+".filter.sql", "broker %s refuses the filter %q: %w", q.Broker, s.SQL, err)
	}
	if err == nil {
		_, err = p.wire.ConsumerOffset(ctx, q, group)
	}
	if err != nil {
		return withField(wire.Errorf(err, "read topic %q as group %q", s.Topic, cfg.Group), field)
	}
	return nil
}

func (p *prover) subscription(s driver.Subscription) wire.Subscription {
	return wire.NewSubscription(p.name(s.Topic), s.Tag, s.SQL)
}

// all runs n checks side by side and returns the first error.
func (p *prover) all(ctx context.Context, n int, check func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelRequests)
	for i := range n {
		group.Go(func() error { return check(ctx, i) })
	}
	return group.Wait()
}
