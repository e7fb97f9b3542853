// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lag

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// asked counts questions by UID, and the most at a time.
type asked struct {
	mu        sync.Mutex
	n         map[string]int
	now, most int
	told      int
}

func (a *asked) ask(hang time.Duration) func(context.Context, registry.Key) ([]driver.Lag, error) {
	return func(ctx context.Context, key registry.Key) ([]driver.Lag, error) {
		a.mu.Lock()
		a.n[key.UID]++
		a.now++
		a.most = max(a.most, a.now)
		a.mu.Unlock()
		defer func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.now--
		}()
		if !driver.Sleep(ctx, hang) {
			return nil, ctx.Err()
		}
		if key.UID == "1" {
			return nil, errors.New("away")
		}
		return []driver.Lag{{Topic: "t", Waiting: 3}}, nil
	}
}

func (a *asked) tell(context.Context, registry.EntryInfo, []driver.Lag, time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told++
}

func consumers(n int) []registry.EntryInfo {
	all := make([]registry.EntryInfo, n)
	for i := range all {
		all[i].Key = registry.Key{Kind: registry.Consumer, UID: fmt.Sprint(i)}
		all[i].Status.State = registry.Running
	}
	return all
}

func TestEachConsumerIsAskedForOnceInAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, all := &asked{n: map[string]int{}}, consumers(9)
		all[2].Status.State = registry.Idle
		all[3].Status.State, all[4].Releasing, all[5].Kind = registry.Failed, true, registry.Producer
		owns := func(e registry.EntryInfo) bool { return e.UID != "6" }
		c := New(Options{Entries: func() []registry.EntryInfo { return all }, Ask: a.ask(0), Owns: owns, Tell: a.tell})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
		for _, uid := range []string{"0", "1", "2", "7", "8"} {
			if n := a.n[uid]; n < 9 || n > 11 {
				t.Errorf("Consumer %s was asked for %d times in ten intervals", uid, n)
			}
		}
		for _, uid := range []string{"3", "4", "5", "6"} {
			if n := a.n[uid]; n > 0 {
				t.Errorf("%s has no client, goes, is a Producer or another host's, and was asked for %d times", uid, n)
			}
		}
		if want := a.n["0"] + a.n["2"] + a.n["7"] + a.n["8"]; a.told != want {
			t.Errorf("%d answers were told, want %d: a question that fails has none", a.told, want)
		}
	})
}

func TestVeryManyConsumersAreAskedForAtABoundedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &asked{n: map[string]int{}}
		c := New(Options{Entries: func() []registry.EntryInfo { return consumers(10_000) }, Ask: a.ask(0), Tell: a.tell})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_ = c.Run(ctx)
		if n := len(a.n); n < 1100 || n > 1200 {
			t.Errorf("%d questions in a minute, the bound is 20 a second", n)
		}
	})
}

func TestABrokerThatHangsHoldsUpAFewAndTheEndWaitsForThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &asked{n: map[string]int{}}
		c := New(Options{Entries: func() []registry.EntryInfo { return consumers(1000) }, Ask: a.ask(time.Hour), Tell: a.tell})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_ = c.Run(ctx)
		if a.most != atOnce || a.now != 0 || a.told != 0 {
			t.Errorf("at most %d at once, %d after the end, %d told", a.most, a.now, a.told)
		}
		if n := len(a.n); n < atOnce*10 {
			t.Errorf("%d were asked for in a minute: each question ends after %s", n, askTimeout)
		}
	})
}
