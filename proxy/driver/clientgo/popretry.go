// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"errors"
	"slices"
	"sync"

	library "github.com/apache/rocketmq-client-go/v2/consumer"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// popRetries are the topics into which brokers of 5.x put what a member that pops has not acknowledged in time or has given back: %RETRY%group_topic,
// or %RETRY%group+topic with enableRetryTopicV2 (PopReviveService, 5.5.0). The library reads %RETRY%group only, so when a group changes from the
// driver Remoting to this one those messages would wait there for ever. They are subscribed like topics of their own, from the group's position in
// them, and shown under the topic that they were sent to.
//
// A broker makes such a topic when it first needs it, which may be hours after the last pop (a lease may be that long). So it is looked for when
// the consumer opens and at each of its checks, every 30 s.
type popRetries struct {
	// originals is the topic that each of them is for, all with their namespace. It never changes.
	originals map[string]string

	mu    sync.Mutex
	found []string // that exist and are subscribed, or will be by the library's start; mu guards it
}

func newPopRetries(group string, topics []string) *popRetries {
	originals := make(map[string]string, 2*len(topics))
	for _, topic := range topics {
		for _, kind := range []wire.RetryKind{wire.RetryV1, wire.RetryV2} {
			originals[kind.Topic(group, topic)] = topic
		}
	}
	return &popRetries{originals: originals}
}

// original is the topic that a message was sent to when topic is one of these; another topic is its own. The broker writes the name of such
// a topic also into RETRY_TOPIC when a message from it is sent back to %RETRY%group.
func (p *popRetries) original(topic string) string {
	if original, ok := p.originals[topic]; ok {
		return original
	}
	return topic
}

// known lists those that are subscribed.
func (p *popRetries) known() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.found)
}

func (p *popRetries) add(topics []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.found = append(p.found, topics...)
}

// findPopRetries asks which of them exist and are not known yet, and makes sure that the group has a position in them: its own, else the
// oldest message.
func (c *consumer) findPopRetries(ctx context.Context) ([]string, error) {
	known := c.retries.known()
	var candidates []string
	for topic := range c.retries.originals {
		if !slices.Contains(known, topic) {
			candidates = append(candidates, topic)
		}
	}
	slices.Sort(candidates)
	queues := make([][]wire.Queue, len(candidates))
	err := proof.All(ctx, len(candidates), func(ctx context.Context, i int) error {
		route, err := c.prover.Routes.Route(ctx, candidates[i])
		if code, _ := wire.CodeOf(err); code == wire.CodeTopicNotExist {
			return nil
		}
		if err != nil {
			return wire.Errorf(err, "look for what members that pop have left in %q", candidates[i])
		}
		queues[i] = route.Readable(candidates[i])
		return nil
	})
	if err != nil {
		return nil, err
	}
	all := slices.Concat(queues...)
	oldest := driver.ConsumerConfig{Group: c.cfg.Group, StartFrom: driver.Earliest}
	if err := proof.All(ctx, len(all), func(ctx context.Context, i int) error { return c.prover.position(ctx, oldest, all[i], false) }); err != nil {
		return nil, err
	}
	var found []string
	for i, topic := range candidates {
		if len(queues[i]) > 0 {
			found = append(found, topic)
		}
	}
	return found, nil
}

// followPopRetries subscribes those that have come into being since the consumer was opened. It waits for the library even when ctx ends: a heartbeat
// that went on beside Close would bring the member back.
func (c *consumer) followPopRetries(ctx context.Context) error {
	found, err := c.findPopRetries(ctx)
	if err != nil || len(found) == 0 {
		return err
	}
	c.retries.add(found)
	finished, err := call(ctx, c.label, "subscribe what members that pop have left", func() error {
		err := c.subscribePopRetries(c.library, found)
		// The broker answers pulls of a topic only when a heartbeat has named it.
		c.client.UpdateTopicRouteInfo()
		c.client.SendHeartbeatToAllBrokerWithLock()
		c.client.RebalanceImmediately()
		return err
	})
	<-finished
	return err
}

func (c *consumer) subscribePopRetries(to pushConsumer, topics []string) error {
	var failed []error
	for _, topic := range topics {
		// The filter has done its work when the message was popped.
		if err := to.Subscribe(topic, library.MessageSelector{Type: library.TAG, Expression: "*"}, c.receive); err != nil {
			failed = append(failed, wire.Errorf(err, "subscribe to %q", topic))
		}
	}
	return errors.Join(failed...)
}
