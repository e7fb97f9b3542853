// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// waits is what waited for a Consumer when RocketMQ was asked last.
type waits struct {
	lags  []driver.Lag
	until time.Time
}

// SetLag takes what waits for a Consumer; it is shown until then, unless a newer answer comes. Nothing is shown of a Consumer for which never anything waited. A
// nil *Metrics does nothing.
func (m *Metrics) SetLag(namespace, name string, lags []driver.Lag, until time.Time) {
	if m == nil {
		return
	}
	something := false
	for _, l := range lags {
		something = something || l.Waiting > 0
	}
	of := object{namespace, name}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.lags[of]; known || something {
		m.lags[of] = waits{lags, until}
	}
}

// collectLags shows what is not too old: a Consumer that has gone, that another host asks for now, or whose broker does not answer has no series.
func (m *Metrics) collectLags(gauge setGauge) {
	now := time.Now()
	m.mu.Lock()
	current := make(map[object][]driver.Lag, len(m.lags))
	for of, w := range m.lags {
		if now.After(w.until) {
			delete(m.lags, of)
			continue
		}
		current[of] = w.lags
	}
	m.mu.Unlock()
	for of, lags := range current {
		for _, l := range lags {
			age := 0.0
			if l.Waiting > 0 && !l.Oldest.IsZero() {
				age = max(0, now.Sub(l.Oldest).Seconds())
			}
			gauge(m.waiting, float64(l.Waiting), of.namespace, of.name, l.Topic)
			gauge(m.oldestWaiting, age, of.namespace, of.name, l.Topic)
		}
	}
}

// forgetLags takes out what waits for Consumers that have gone.
func (m *Metrics) forgetLags(live map[object]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for of := range m.lags {
		if !live[of] {
			delete(m.lags, of)
		}
	}
}
