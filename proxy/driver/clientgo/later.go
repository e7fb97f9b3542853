// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/choice"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/version"
)

// timer is the property that keeps a message back.
type timer struct{ name, value string }

// timed finds the timers of the messages that are delivered later. Those that the brokers cannot keep back are answered and left out: brokers before 5.0
// do not know the property, and would deliver at once.
func (p *producer) timed(ctx context.Context, entries []entry) []entry {
	if !slices.ContainsFunc(entries, func(e entry) bool { return e.message.When.Later() }) {
		return entries
	}
	line, err := p.brokers(ctx)
	kept := entries[:0]
	for _, e := range entries {
		if e.message.When.Later() {
			problem := err
			if problem == nil {
				e.timer, problem = timerFor(e.message.When, line, time.Now())
			}
			if problem != nil {
				e.result.Err = problem
				continue
			}
		}
		kept = append(kept, e)
	}
	return kept
}

// brokers asks once for the brokers' line. An upgrade later changes nothing: newer brokers keep the levels too.
func (p *producer) brokers(ctx context.Context) (choice.Line, error) {
	if known := p.line.Load(); known != nil {
		return *known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.SendTimeout)
	defer cancel()
	found, err := version.Probe(ctx, p.cfg.Connection)
	if err != nil {
		return choice.Unknown, driver.Errorf(driver.Unavailable, "delay", "the brokers' version is not known, and with it whether they can deliver later: %w", err)
	}
	p.line.Store(&found.Line)
	return found.Line, nil
}

func timerFor(w driver.When, line choice.Line, now time.Time) (timer, error) {
	if line != choice.Line4 {
		name, value := w.TimerProperty()
		return timer{name, value}, nil
	}
	delay := w.Delay
	if !w.At.IsZero() {
		delay = w.At.Sub(now)
	}
	longest := levels[len(levels)-1]
	switch {
	case delay <= 0:
		return timer{}, nil // its time has passed
	case delay > longest:
		return timer{}, driver.Errorf(driver.InvalidMessage, "delay", "it is %s ahead; brokers before 5.0 keep a message back for %s at most", delay, longest)
	case !w.Round:
		return timer{}, driver.Errorf(driver.Unsupported, "delay",
			"these brokers are older than 5.0 and know only 18 delays, from 1s to 2h; set round_delay to take the next longer one, or upgrade them")
	}
	level, _ := levelFor(delay)
	return timer{driver.PropertyDelayLevel, strconv.Itoa(level)}, nil
}

// Recall implements driver.Producer: the library hands no handle on.
func (p *producer) Recall(context.Context, string) (string, error) {
	return "", driver.Errorf(driver.Unsupported, "", "the driver %s cannot recall messages; use the driver Remoting with brokers 5.x", Name)
}
