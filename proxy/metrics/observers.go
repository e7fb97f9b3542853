// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/batching"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/dedup"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

var _ registry.Observer = (*Metrics)(nil)

// CallEnded counts a call; see server.Observer.
func (m *Metrics) CallEnded(method, protocol string, code codes.Code, took time.Duration) {
	if code == codes.OK {
		ok := m.okCalls(endpoint{method, protocol})
		ok.count.Inc()
		if ok.duration != nil {
			ok.duration.Observe(took.Seconds())
		}
		return
	}
	m.calls.WithLabelValues(method, protocol, code.String()).Inc()
	if !isStream(method) {
		m.callDuration.WithLabelValues(method, protocol, "error").Observe(took.Seconds())
	}
}

// isStream tells the methods whose duration says nothing.
func isStream(method string) bool { return method == "Receive" || method == "TransactionChecks" }

type endpoint struct{ method, protocol string }

// okSeries are the series of an endpoint's calls that went well.
type okSeries struct {
	count    prometheus.Counter
	duration prometheus.Observer // nil for streams
}

// okCalls looks the series up once for each endpoint: with nearly every call it would be a third of what measuring costs. The map is never
// changed, only replaced; two that replace it at once lose nothing but a look-up.
func (m *Metrics) okCalls(e endpoint) okSeries {
	known := m.ok.Load()
	if known != nil {
		if found, ok := (*known)[e]; ok {
			return found
		}
	}
	made := okSeries{count: m.calls.WithLabelValues(e.method, e.protocol, codes.OK.String())}
	if !isStream(e.method) {
		made.duration = m.callDuration.WithLabelValues(e.method, e.protocol, "ok")
	}
	more := map[endpoint]okSeries{e: made}
	if known != nil {
		maps.Copy(more, *known)
	}
	m.ok.Store(&more)
	return made
}

// Sent counts messages of a Producer; see server.Observer.
func (m *Metrics) Sent(namespace, producer, result string, n int) {
	m.sent.WithLabelValues(namespace, producer, result).Add(float64(n))
}

// Transactions counts steps of transactions; see server.Observer.
func (m *Metrics) Transactions(namespace, producer, step string) {
	m.transactions.WithLabelValues(namespace, producer, step).Inc()
}

// CheckEnded counts checks of a Producer's transactions; see checks.Outcome.
func (m *Metrics) CheckEnded(namespace, producer, outcome string) {
	m.checks.WithLabelValues(namespace, producer, outcome).Inc()
}

// Redriven counts dead letters of a Consumer that were redriven; nil metrics count nothing.
func (m *Metrics) Redriven(namespace, name string, n int) {
	if m != nil {
		m.remember(m.consumers, namespace, name)
		m.redriven.WithLabelValues(namespace, name).Add(float64(n))
	}
}

// Connections follows the number of connections; see server.Observer.
func (m *Metrics) Connections(protocol string, change int) {
	m.connections.WithLabelValues(protocol).Add(float64(change))
}

// ConnectionRefused counts refused connections; see server.Observer.
func (m *Metrics) ConnectionRefused(protocol string) { m.refused.WithLabelValues(protocol).Inc() }

// Streams follows the number of streams; see server.Observer.
func (m *Metrics) Streams(change int) { m.streams.Add(float64(change)) }

// ReceiverNotReading counts streams whose receiver did not read; see server.Observer.
func (m *Metrics) ReceiverNotReading() { m.notReading.Inc() }

// Panicked counts panics of calls; see server.Observer.
func (m *Metrics) Panicked(method string) { m.panics.WithLabelValues(method).Inc() }

// FinalizerForced counts finalizers that were removed at the deadline, by kind of object.
func (m *Metrics) FinalizerForced(kind string) { m.forced.WithLabelValues(kind).Inc() }

// PeerAsked counts questions to other hosts; see peers.Outcome.
func (m *Metrics) PeerAsked(outcome string) { m.peerAsked.WithLabelValues(outcome).Inc() }

// KeysTroubled counts trouble with the Secret of the ack tokens' keys; see controllers.KeyObserver.
func (m *Metrics) KeysTroubled(trouble string) { m.keyTroubles.WithLabelValues(trouble).Inc() }

// KeysRead notes when the keys were read; see controllers.KeyObserver.
func (m *Metrics) KeysRead(t time.Time) { m.keysRead.Set(float64(t.Unix())) }

// StateChanged counts transitions; see registry.Observer.
func (m *Metrics) StateChanged(kind registry.Kind, _, to registry.State) {
	m.transitions.WithLabelValues(string(kind), string(to)).Inc()
}

// Opened counts tries to open a client; see registry.Observer.
func (m *Metrics) Opened(kind registry.Kind, driverName string, took time.Duration, err error) {
	result := "OK"
	if err != nil {
		result = registry.ReasonOf(err)
	}
	m.opens.WithLabelValues(string(kind), driverName, result).Inc()
	m.openDuration.WithLabelValues(string(kind)).Observe(took.Seconds())
}

// Drained counts a client's end; see registry.Observer.
func (m *Metrics) Drained(kind registry.Kind, _ string, r registry.Receipt) {
	result := "clean"
	switch {
	case r.Err != "":
		result = "left"
	case r.Forced:
		result = "forced"
	}
	m.drains.WithLabelValues(string(kind), result).Inc()
	m.drainDuration.WithLabelValues(string(kind)).Observe(r.Took.Seconds())
	for outcome, n := range map[string]int{"drained": r.Drained, "given_back": r.GivenBack, "left_leased": r.LeftLeased} {
		m.drainedMessages.WithLabelValues(string(kind), outcome).Add(float64(n))
	}
}

// LeakDetected counts what an audit found; see registry.Observer.
func (m *Metrics) LeakDetected(kind string, count int) {
	m.leaks.WithLabelValues(kind).Add(float64(count))
}

// Queue is the observer of one Producer's send queue; nil for nil metrics.
func (m *Metrics) Queue(namespace, name string) batching.Observer {
	if m == nil {
		return nil
	}
	m.remember(m.producers, namespace, name)
	return &queue{m: m, of: object{namespace, name}}
}

type queue struct {
	m  *Metrics
	of object
}

func (q *queue) RequestSent(messages, _ int, took time.Duration) {
	q.m.requestDuration.Observe(took.Seconds())
	q.m.requestMessages.Observe(float64(messages))
}

func (q *queue) Refused(n int) {
	q.m.sendRefused.WithLabelValues(q.of.namespace, q.of.name).Add(float64(n))
}

func (q *queue) DriverPanicked() { q.m.panics.WithLabelValues("driver Send").Inc() }

// Deduplication is the observer of one Producer's memory of ids; nil for nil metrics.
func (m *Metrics) Deduplication(namespace, name string) dedup.Observer {
	if m == nil {
		return nil
	}
	return &deduplication{m: m, of: object{namespace, name}}
}

type deduplication struct {
	m  *Metrics
	of object
}

func (d *deduplication) Repeated(n int) {
	d.m.repeated.WithLabelValues(d.of.namespace, d.of.name).Add(float64(n))
}

func (d *deduplication) Forgotten(n int) {
	d.m.forgotten.WithLabelValues(d.of.namespace, d.of.name).Add(float64(n))
}

// Window is the observer of one Consumer's window; nil for nil metrics. Its series begin, all together, with the first thing that happens: five
// thousand Consumers that nobody uses have none.
func (m *Metrics) Window(namespace, name string) delivery.Observer {
	if m == nil {
		return nil
	}
	return &windowObserver{m: m, of: object{namespace, name}}
}

// windowObserver is safe for concurrent use.
type windowObserver struct {
	m     *Metrics
	of    object
	begin sync.Once
	own   windowSeries // valid after begin
}

type windowSeries struct {
	delivered, redelivered, windowFull, paced, fetchFailed, giveBackFailed, deadFailed prometheus.Counter
	ended                                                                              *prometheus.CounterVec
}

func (w *windowObserver) series() *windowSeries {
	w.begin.Do(func() {
		m, namespace, name := w.m, w.of.namespace, w.of.name
		m.remember(m.consumers, namespace, name)
		w.own = windowSeries{
			delivered: m.delivered.WithLabelValues(namespace, name), redelivered: m.redelivered.WithLabelValues(namespace, name),
			ended:      m.ended.MustCurryWith(prometheus.Labels{"namespace": namespace, "name": name}),
			windowFull: m.windowFull.WithLabelValues(namespace, name), paced: m.paced.WithLabelValues(namespace, name),
			fetchFailed:    m.fetchFailures.WithLabelValues(namespace, name),
			giveBackFailed: m.giveBackFailures.WithLabelValues(namespace, name), deadFailed: m.deadFailures.WithLabelValues(namespace, name),
		}
		w.own.ended.WithLabelValues(string(delivery.DeadLettered)) // an alert must see the first one
	})
	return &w.own
}

func (w *windowObserver) Delivered(n, redelivered int) {
	s := w.series()
	s.delivered.Add(float64(n))
	s.redelivered.Add(float64(redelivered))
}

func (w *windowObserver) Ended(e delivery.Ending, n int) {
	w.series().ended.WithLabelValues(string(e)).Add(float64(n))
}

func (w *windowObserver) WindowFull()                   { w.series().windowFull.Inc() }
func (w *windowObserver) Paced(waited time.Duration)    { w.series().paced.Add(waited.Seconds()) }
func (w *windowObserver) FetchFailed(error)             { w.series().fetchFailed.Inc() }
func (w *windowObserver) GiveBackFailed(n int, _ error) { w.series().giveBackFailed.Add(float64(n)) }
func (w *windowObserver) DeadLetterFailed(error)        { w.series().deadFailed.Inc() }

func (w *windowObserver) DriverPanicked(call string) {
	w.m.panics.WithLabelValues("driver " + call).Inc()
}
