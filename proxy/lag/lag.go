// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package lag asks RocketMQ again and again what waits for Consumers, for metrics and status. It asks whether or not anybody receives, and starts no client
// for it. What it asks is bounded: one Consumer at a time and host is due, spread over the interval, and never more than Options.PerSecond; of several hosts
// one asks for each Consumer (Options.Owns).
package lag

import (
	"context"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// Options of a Collector. Entries, Ask and Tell are needed.
type Options struct {
	// Entries are the registry's.
	Entries func() []registry.EntryInfo
	// Ask answers what waits for the Consumer of key. It starts nothing and blocks for at most ctx.
	Ask func(ctx context.Context, key registry.Key) ([]driver.Lag, error)
	// Owns says whether this host asks for a Consumer; nil = for all.
	Owns func(registry.EntryInfo) bool
	// Tell takes each answer; about when the next one is due is again from now. Calls come from several goroutines.
	Tell func(ctx context.Context, e registry.EntryInfo, lags []driver.Lag, again time.Duration)
	// Every is the time between two questions for one Consumer (a minute), longer when PerSecond (20) does not suffice.
	Every     time.Duration
	PerSecond int
	Log       logr.Logger
}

const (
	// askTimeout bounds one question.
	askTimeout = 5 * time.Second
	// atOnce bounds the questions under way: a broker that hangs holds up its own Consumers only until then.
	atOnce = 8
)

// Collector asks. It has no state that outlives Run.
type Collector struct{ o Options }

// New makes one; nothing runs yet.
func New(o Options) *Collector {
	if o.Every <= 0 {
		o.Every = time.Minute
	}
	if o.PerSecond <= 0 {
		o.PerSecond = 20
	}
	if o.Owns == nil {
		o.Owns = func(registry.EntryInfo) bool { return true }
	}
	return &Collector{o: o}
}

// Run asks until ctx ends, and returns when no question is under way.
func (c *Collector) Run(ctx context.Context) error {
	var asking sync.WaitGroup
	defer asking.Wait()
	places := make(chan struct{}, atOnce)
	for ctx.Err() == nil {
		due := c.due()
		pause := max(c.o.Every/time.Duration(len(due)+1), time.Second/time.Duration(c.o.PerSecond))
		for _, e := range due {
			if !driver.Sleep(ctx, pause) {
				return nil
			}
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
			asking.Go(func() {
				defer func() { <-places }()
				c.ask(ctx, e, pause*time.Duration(len(due)+1))
			})
		}
		driver.Sleep(ctx, pause)
	}
	return nil
}

// due are the Consumers that this host asks for, in no order.
func (c *Collector) due() []registry.EntryInfo {
	var due []registry.EntryInfo
	for _, e := range c.o.Entries() {
		works := e.Status.State == registry.Running || e.Status.State == registry.Idle
		if e.Kind == registry.Consumer && works && !e.Releasing && c.o.Owns(e) {
			due = append(due, e)
		}
	}
	return due
}

func (c *Collector) ask(ctx context.Context, e registry.EntryInfo, again time.Duration) {
	limit, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	lags, err := c.o.Ask(limit, e.Key)
	if err != nil {
		// Whether the broker answers is told by the Consumer's own conditions.
		c.o.Log.V(1).Info("RocketMQ did not say what waits for a Consumer", "namespace", e.Namespace, "name", e.Name, "reason", err.Error())
		return
	}
	c.o.Tell(ctx, e, lags, again)
}
