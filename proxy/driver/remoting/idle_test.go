// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// TestABrokerHearsNothingOfIdleConsumers: no poll, no heartbeat, nothing at all, while the keeper goes round and round. What it does for somebody else, at
// another broker, tells that it does.
func TestABrokerHearsNothingOfIdleConsumers(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a", "clock")
	f.driver.periods = periods{
		tick: 2 * time.Millisecond, beat: 2 * time.Millisecond,
		check: time.Hour, checkAgain: time.Hour, busy: time.Hour, idle: time.Hour, old: time.Hour, forget: time.Hour,
	}
	f.topic("t", fakeShare{broker: "a", queues: 4, perm: 6})
	f.topic("ticks", fakeShare{broker: "clock", queues: 1, perm: 6})
	a, lender := f.brokers["a"], f.popping()["a"]
	clock := newFakeHalves(t, "clock", f).broker
	cfg := f.config("ticks")
	cfg.Transactions = true
	t.Cleanup(f.producer(cfg).WatchChecks(func(driver.Check) bool { return true }))
	open := func(i int) *consumer {
		cfg := f.consumerConfig("t", "")
		cfg.Group = fmt.Sprintf("group_%d", i)
		return f.consumer(cfg)
	}
	rounds := func() {
		t.Helper()
		from := clock.asked(codeHeartbeat)
		eventually(t, 20*time.Second, func() error {
			if n := clock.asked(codeHeartbeat) - from; n < 100 {
				return fmt.Errorf("the keeper went round %d times", n)
			}
			return nil
		})
	}

	// The first one was busy before, so that its polls end first.
	first := open(0)
	lender.put(3, "")
	acknowledge(t, first, receive(t, first, 3, time.Minute)...)
	eventually(t, 5*time.Second, func() error {
		if pops, questions := first.inTheAir(); pops+questions > 0 {
			return errors.New("polls wait at the broker")
		}
		return nil
	})
	rounds()
	goroutines := runtime.NumGoroutine()
	const n = 100
	for i := range n {
		open(1 + i)
	}
	if pops := a.asked(codePop); pops == 0 || a.asked(codeNotification) < n {
		t.Fatalf("%d pops and %d questions are counted", pops, a.asked(codeNotification))
	}
	before := a.askedByCode()
	rounds()
	if after := a.askedByCode(); !maps.Equal(before, after) {
		t.Errorf("the broker was asked, by code: before %v, after %v", before, after)
	}
	eventually(t, 5*time.Second, func() error {
		if now := runtime.NumGoroutine(); now > goroutines {
			return fmt.Errorf("%d goroutines more for %d idle Consumers", now-goroutines, n)
		}
		return nil
	})
}
