// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

func TestStatusTellsOfLagOnlyWhenItIsMuchAndOfAnotherSize(t *testing.T) {
	now := time.Date(2026, 11, 26, 8, 0, 0, 0, time.UTC)
	w := &lagWriter{now: func() time.Time { return now }}
	at := func(waiting, age int64, before time.Duration) *proxyv1alpha1.LagStatus {
		return &proxyv1alpha1.LagStatus{Waiting: waiting, OldestAgeSeconds: age, At: metav1.Time{Time: now.Add(-before)}}
	}
	for _, c := range []struct {
		name    string
		old     *proxyv1alpha1.LagStatus
		waiting int64
		age     time.Duration
		write   bool
		tells   bool
	}{
		{"nothing waits", nil, 0, 0, false, false},
		{"little waits, not for long", nil, 999, 4 * time.Minute, false, false},
		{"much waits", nil, 1000, time.Second, true, true},
		{"one waits for long", nil, 1, 5 * time.Minute, true, true},
		{"more, of the same size", at(1000, 1, time.Hour), 9999, time.Second, false, true},
		{"ten times as much", at(1000, 1, time.Hour), 10_000, time.Second, true, true},
		{"ten times as much within a minute", at(1000, 1, 59*time.Second), 10_000, time.Second, false, true},
		{"an hour old", at(1000, 600, time.Hour), 1000, time.Hour, true, true},
		{"two days old", at(1000, 3601, time.Hour), 1000, 48 * time.Hour, true, true},
		{"a little less", at(10_000, 1, time.Hour), 9000, time.Second, false, true},
		{"much less", at(10_000, 1, time.Hour), 4000, time.Second, true, true},
		{"hardly below where it counts", at(1000, 1, time.Hour), 900, time.Second, false, true},
		{"caught up", at(1000, 1, time.Hour), 0, 0, true, false},
		{"caught up within a minute", at(1000, 1, 30*time.Second), 0, 0, false, true},
		{"the old one was worked off", at(1, 400, time.Hour), 5, time.Second, true, false},
	} {
		lags := []driver.Lag{{Topic: "a", Waiting: c.waiting / 2}, {Topic: "b", Waiting: c.waiting - c.waiting/2}}
		if c.waiting > 0 {
			lags[1].Oldest = now.Add(-c.age)
		}
		next, write := w.next(c.old, lags)
		if write != c.write || (next != nil) != c.tells {
			t.Errorf("%s: written %v as %+v", c.name, write, next)
		}
		if write && next != nil && (next.Waiting != c.waiting || next.OldestAgeSeconds != int64(c.age.Seconds()) || !next.At.Time.Equal(now)) {
			t.Errorf("%s: %+v", c.name, next)
		}
	}
}

// TestStatusLagComesAndGoes is the way of status.lag on an API server, beside everything else that is in the status.
func TestStatusLagComesAndGoes(t *testing.T) {
	op := newOperator(t, operatorOptions{namespace: newNamespace(t)})
	op.start()
	o := op.apply("Consumer", "mailer", goodConsumer)
	op.waitReady(o, "mailer")
	clock := time.Now()
	op.controls.lags.now = func() time.Time { return clock }
	entry := func() registry.EntryInfo {
		for _, e := range op.registry.List() {
			if e.Kind == registry.Consumer {
				return e
			}
		}
		t.Fatal("no entry")
		return registry.EntryInfo{}
	}
	c := &proxyv1alpha1.Consumer{}
	want := func(what string, lags []driver.Lag, fact func(*proxyv1alpha1.LagStatus) bool) {
		t.Helper()
		eventually(t, 10*time.Second, what, func() bool {
			op.controls.NoteLag(t.Context(), entry(), lags) // the cache may be behind the last write
			must(t, op.get(c, "mailer"))
			return fact(c.Status.Lag)
		})
	}
	much := []driver.Lag{{Topic: "orders", Waiting: 12_345, Oldest: clock.Add(-10 * time.Minute)}}
	want("much waits", much, func(l *proxyv1alpha1.LagStatus) bool {
		return l != nil && l.Waiting == 12_345 && l.OldestAgeSeconds == 600
	})
	version := c.ResourceVersion
	clock = clock.Add(2 * time.Minute)
	for range 5 {
		op.controls.NoteLag(t.Context(), entry(), []driver.Lag{{Topic: "orders", Waiting: 13_000, Oldest: clock.Add(-11 * time.Minute)}})
	}
	must(t, op.get(c, "mailer"))
	if c.ResourceVersion != version {
		t.Errorf("status was written for lag of the same size: %+v", c.Status.Lag)
	}
	want("it is worked off", nil, func(l *proxyv1alpha1.LagStatus) bool { return l == nil })
	if r := conditionOf(c, proxyv1alpha1.ConditionReady); r.Status != "True" || c.Status.Group != "mailer" {
		t.Errorf("the rest of the status has suffered: %+v", c.Status)
	}
	gone := entry()
	gone.UID = "another"
	op.controls.NoteLag(t.Context(), gone, much)
	must(t, op.get(c, "mailer"))
	if c.Status.Lag != nil {
		t.Error("the lag of another object of the name was written")
	}
}

func TestHostsShareTheQuestionsAndEachConsumerHasOne(t *testing.T) {
	hosts := []string{"host-a", "host-b", "host-c"}
	parts := map[string]int{}
	for i := range 3000 {
		uid := fmt.Sprintf("%08x-0000", i)
		best := ""
		for _, h := range hosts {
			if best == "" || weight(h, uid) > weight(best, uid) {
				best = h
			}
		}
		parts[best]++
	}
	for _, h := range hosts {
		if parts[h] < 800 || parts[h] > 1200 {
			t.Errorf("the parts are %v of 3000", parts)
		}
	}
}
