// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package proof asks RocketMQ before a client starts what would otherwise show late, as a log line or never: whether its addresses, topics,
// credentials, rights and filters are good. Drivers share it. It changes nothing at the brokers, but that a broker which creates topics by itself
// makes the topic of a Producer.
package proof

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// parallelRequests bounds how many requests one proof has in flight.
const parallelRequests = 16

// Routes finds topics. It is safe for concurrent use.
type Routes interface {
	// Route is the route of topic, a name with its namespace, after every address in it that the caller may dial was checked against the
	// allow-list. A topic that does not exist is a wire.AnswerError with wire.CodeTopicNotExist in the chain.
	Route(ctx context.Context, topic string) (*wire.Route, error)
}

// Fresh is Routes without memory: it asks the name servers each time, and checks all addresses, slaves included.
type Fresh struct {
	Wire  *wire.Client
	Allow func(address string) error
}

// Route implements Routes.
func (f Fresh) Route(ctx context.Context, topic string) (*wire.Route, error) {
	route, err := f.Wire.Route(ctx, topic)
	if err != nil {
		return nil, err
	}
	for _, address := range route.Addresses() {
		if _, err := wire.Resolve(ctx, address, f.Allow); err != nil {
			return nil, wire.Errorf(err, "check its brokers")
		}
	}
	return route, nil
}

// Prover asks in the name of one client. Its methods are safe for concurrent use, block for at most their context, and return a *driver.Error.
type Prover struct {
	Wire   *wire.Client
	Routes Routes
	// Namespace is RocketMQ's, which prefixes the topics and groups that the methods are given.
	Namespace string
}

// Name is topic or group with the namespace.
func (p *Prover) Name(name string) string { return wire.WithNamespace(p.Namespace, name) }

// Route is the route of topic. field is the object's field that names it; it is in errors that are the object's fault.
func (p *Prover) Route(ctx context.Context, field, topic string) (*wire.Route, error) {
	route, err := p.Routes.Route(ctx, p.Name(topic))
	if code, ok := wire.CodeOf(err); ok && code == wire.CodeTopicNotExist {
		return nil, driver.Errorf(driver.TopicNotFound, field, "topic %q does not exist: create it, or correct the name: %w", topic, err)
	}
	if err != nil {
		return nil, WithField(wire.Errorf(err, "find topic %q", topic), field)
	}
	return route, nil
}

// WithField names the field of the object at fault, for reasons that are the object's fault and have no field yet.
func WithField(err error, field string) error {
	var e *driver.Error
	if !errors.As(err, &e) || e.Field != "" || driver.Retryable(err) {
		return err
	}
	return &driver.Error{Reason: e.Reason, Field: field, Message: e.Message, Err: err}
}

// Brokers picks one queue per broker, in the order of the brokers' names.
func Brokers(queues []wire.Queue) []wire.Queue {
	first := make(map[string]wire.Queue)
	for _, q := range queues {
		if _, ok := first[q.Broker]; !ok {
			first[q.Broker] = q
		}
	}
	return slices.SortedFunc(maps.Values(first), func(a, b wire.Queue) int { return strings.Compare(a.Broker, b.Broker) })
}

// Firsts picks one queue per topic and broker. A group's first position in a topic must be written alone: a broker makes the group's table for the topic
// with it, and of two that come at once one makes the table anew, without the other's position (ConsumerOffsetManager.commitOffset, 5.5.0 and 4.9.7; seen as
// a group that was to begin at the latest message and got old ones).
func Firsts(queues []wire.Queue) []wire.Queue {
	type place struct{ topic, broker string }
	seen := make(map[place]bool)
	var firsts []wire.Queue
	for _, q := range queues {
		if at := (place{q.Topic, q.Broker}); !seen[at] {
			seen[at] = true
			firsts = append(firsts, q)
		}
	}
	return firsts
}

// All runs n checks side by side, some at a time, and returns the first error.
func All(ctx context.Context, n int, check func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelRequests)
	for i := range n {
		group.Go(func() error { return check(ctx, i) })
	}
	return group.Wait()
}
