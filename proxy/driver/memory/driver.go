// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Name is the driver's name in specs and status.
const Name = "Memory"

// maxLease is the longest lease; longer requests are clamped. maxDelay is the same for a nack, the longest that RocketMQ can delay.
const (
	maxLease = 12 * time.Hour
	maxDelay = 72 * time.Hour
)

// memoryDriver leads to one Broker. It holds nothing.
type memoryDriver struct{ broker *Broker }

// New makes the driver of a broker. Several drivers of one broker are like several processes with one RocketMQ.
func New(b *Broker) driver.Driver { return memoryDriver{b} }

func (memoryDriver) Name() string { return Name }

func (memoryDriver) Capabilities() driver.Capabilities {
	return driver.Capabilities{
		AckFromAnyHost: true, AckConfirmed: true, ExactAttempts: true, ExactNackDelay: true, GiveBackToBroker: true,
		MaxLease: maxLease, IdleConsumers: true,
		// Every host has a broker of its own: a second host's Consumer would read another broker.
		SingleHost: true,
		TLS:        true, // nothing leaves the process
		Delays:     "exact, up to 3 days", MaxDelay: maxAhead, Recall: true, Ordered: true, Seek: true, Transactions: true, Broadcast: true,
	}
}

// Leftovers is always empty.
func (memoryDriver) Leftovers() map[string]int { return map[string]int{} }

func (d memoryDriver) OpenProducer(ctx context.Context, cfg driver.ProducerConfig) (driver.Producer, error) {
	if err := d.admit(ctx, Open, &cfg.Connection, cfg.Group, cfg.Validate()); err != nil {
		return nil, err
	}
	p := &producer{broker: d.broker, gate: newGate(), group: cfg.Group, namespace: cfg.Connection.Namespace, topics: cfg.Topics,
		limit: cfg.MaxMessageBytes, transactional: cfg.Transactions}
	b := d.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, name := range cfg.Topics {
		if _, err := b.useTopic(withNamespace(p.namespace, name)); err != nil {
			return nil, inField(err, "topics["+strconv.Itoa(i)+"]")
		}
	}
	b.state.clients[p.gate] = cfg.ClientID
	return p, nil
}

func (d memoryDriver) OpenConsumer(ctx context.Context, cfg driver.ConsumerConfig) (driver.Consumer, error) {
	filters, err := d.admitConsumer(ctx, Open, &cfg)
	if err != nil {
		return nil, err
	}
	b := d.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	topics := make([]*topic, len(cfg.Subscriptions))
	for i, s := range cfg.Subscriptions {
		if topics[i], err = b.useTopic(withNamespace(cfg.Connection.Namespace, s.Topic)); err != nil {
			return nil, inField(err, subscriptionField(i, "topic"))
		}
	}
	g, err := b.ensureGroup(withNamespace(cfg.Connection.Namespace, cfg.Group))
	if err != nil {
		return nil, err
	}
	c := &consumer{broker: b, gate: newGate(), group: g, plainGroup: cfg.Group, namespace: cfg.Connection.Namespace, subscriptions: cfg.Subscriptions,
		ordered: cfg.Ordered}
	for i, t := range topics {
		b.letOut(t, b.now()) // what was due before is older than a group that begins at the latest
		cur := g.cursorOf(t, &cfg)
		if cur.ordered != cfg.Ordered && g.members > 0 {
			return nil, driver.Errorf(driver.Invalid, "order", "the group has a member that is not of this order")
		}
		cur.order(cfg.Ordered)
		c.reads = append(c.reads, read{cursor: cur, matches: filters[i], topic: cfg.Subscriptions[i].Topic})
	}
	g.members++
	b.state.clients[c.gate] = cfg.ClientID
	return c, nil
}

func (d memoryDriver) ProbeConsumer(ctx context.Context, cfg driver.ConsumerConfig) error {
	if _, err := d.admitConsumer(ctx, Probe, &cfg); err != nil {
		return err
	}
	b := d.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, s := range cfg.Subscriptions {
		full := withNamespace(cfg.Connection.Namespace, s.Topic)
		if b.options.RefuseUnknownTopics && b.state.topics[full] == nil {
			return inField(b.topicNotFound(full), subscriptionField(i, "topic"))
		}
	}
	return nil
}

func (d memoryDriver) admitConsumer(ctx context.Context, op Operation, cfg *driver.ConsumerConfig) ([]filter, error) {
	if err := d.admit(ctx, op, &cfg.Connection, cfg.Group, cfg.Validate()); err != nil {
		return nil, err
	}
	filters := make([]filter, len(cfg.Subscriptions))
	for i, s := range cfg.Subscriptions {
		var err error
		if filters[i], err = newFilter(s); err != nil {
			return nil, inField(err, subscriptionField(i, "filter.sql"))
		}
	}
	return filters, nil
}

// admit does what a client goes through before it may do anything: its configuration, the network, the credentials.
func (d memoryDriver) admit(ctx context.Context, op Operation, c *driver.Connection, group string, invalid error) error {
	if invalid != nil {
		return invalid
	}
	if ctx.Err() != nil {
		return timeout(ctx)
	}
	if fate := d.broker.faults.enter(ctx, op, group, nil); fate.before != nil {
		return fate.before
	}
	if err := d.reach(c); err != nil {
		return err
	}
	allowed := d.broker.options.Credentials
	if len(allowed) > 0 && !slices.Contains(allowed, c.Credentials) {
		return driver.Errorf(driver.Unauthorized, "connection.credentialsSecretRef", "the broker refuses these credentials")
	}
	return nil
}

// reach finds the broker under one of the addresses, where it has any.
func (d memoryDriver) reach(c *driver.Connection) error {
	served := d.broker.options.NameServers
	if len(served) == 0 {
		return nil
	}
	var refused error
	for i, address := range c.NameServers {
		if err := c.AllowAddress(address); err != nil {
			refused = driver.Errorf(driver.AddressRefused, "connection.nameServers["+strconv.Itoa(i)+"]", "%q: %w", address, err)
			continue
		}
		if slices.Contains(served, address) {
			return nil
		}
	}
	if refused != nil {
		return refused
	}
	return driver.Errorf(driver.Unavailable, "connection.nameServers", "no broker answers at %q", c.NameServers)
}

func subscriptionField(i int, rest string) string {
	return "subscriptions[" + strconv.Itoa(i) + "]." + rest
}

// inField says which field of the object an error is about.
func inField(err error, field string) error {
	var e *driver.Error
	if !errors.As(err, &e) {
		return err
	}
	return &driver.Error{Reason: e.Reason, Field: field, Message: e.Message, Err: e.Err}
}
