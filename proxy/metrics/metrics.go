// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package metrics has every metric of the proxy. A [Metrics] is the observer of all its parts, so that names, labels and help texts stand in
// one place; docs/metrics.md is made from them.
//
// No label has a value that a caller chose. Namespace and name are those of objects that exist: their series begin with the first use and go with
// the object.
package metrics

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Namespace begins the name of every metric.
const Namespace = "rocketmq_proxy"

// Definition is one metric as the documentation shows it.
type Definition struct {
	Name, Type, Help string
	Labels           []string
}

// Build says what is running.
type Build struct{ Version, Commit string }

// Metrics has all metrics and implements the Observer of the server and of the registry; Queue and Window make those of a Producer's queue and of a
// Consumer's window. A nil *Metrics makes no observers. All methods are safe for concurrent use.
type Metrics struct {
	definitions []Definition

	calls            *prometheus.CounterVec
	callDuration     *prometheus.HistogramVec
	connections      *prometheus.GaugeVec
	refused          *prometheus.CounterVec
	peerAsked        *prometheus.CounterVec
	streams          prometheus.Gauge
	notReading       prometheus.Counter
	panics           *prometheus.CounterVec
	sent             *prometheus.CounterVec
	sendRefused      *prometheus.CounterVec
	transactions     *prometheus.CounterVec
	checks           *prometheus.CounterVec
	repeated         *prometheus.CounterVec
	forgotten        *prometheus.CounterVec
	requestDuration  prometheus.Histogram
	requestMessages  prometheus.Histogram
	delivered        *prometheus.CounterVec
	redelivered      *prometheus.CounterVec
	ended            *prometheus.CounterVec
	windowFull       *prometheus.CounterVec
	paced            *prometheus.CounterVec
	fetchFailures    *prometheus.CounterVec
	giveBackFailures *prometheus.CounterVec
	deadFailures     *prometheus.CounterVec
	redriven         *prometheus.CounterVec
	transitions      *prometheus.CounterVec
	opens            *prometheus.CounterVec
	openDuration     *prometheus.HistogramVec
	drains           *prometheus.CounterVec
	drainedMessages  *prometheus.CounterVec
	drainDuration    *prometheus.HistogramVec
	leaks            *prometheus.CounterVec
	forced           *prometheus.CounterVec
	keyTroubles      *prometheus.CounterVec
	keysRead         prometheus.Gauge

	ok atomic.Pointer[map[endpoint]okSeries] // see okCalls

	// What is asked at each scrape.
	waiting, oldestWaiting                                                                                                                     *prometheus.Desc
	clients, uses, inFlight, inFlightBytes, receivers, receiversWaiting, deadLettersLeft, leftovers, goroutines, memory, build, certificateEnd *prometheus.Desc

	mu          sync.Mutex // guards what follows
	source      Source
	certificate func() time.Time
	producers   map[object]struct{}
	consumers   map[object]struct{}
	windows     map[*window]struct{}
	broadcasts  map[*broadcast]struct{}
	letters     map[*letters]struct{}
	lags        map[object]waits
	version     Build
}

// object is an object's name.
type object struct{ namespace, name string }

var objectLabels = []string{"namespace", "name"}

// New makes the metrics and registers them; an error says which name was taken already.
func New(r prometheus.Registerer, b Build) (*Metrics, error) {
	m := &Metrics{
		producers: make(map[object]struct{}), consumers: make(map[object]struct{}), windows: make(map[*window]struct{}), broadcasts: make(map[*broadcast]struct{}),
		letters: make(map[*letters]struct{}), lags: make(map[object]waits), version: b,
	}
	var all []prometheus.Collector
	m.define(func(c prometheus.Collector) { all = append(all, c) })
	for _, c := range append(all, (*scraped)(m)) {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	m.zero()
	return m, nil
}

// Definitions lists every metric.
func (m *Metrics) Definitions() []Definition { return m.definitions }

func (m *Metrics) define(add func(prometheus.Collector)) {
	d := definer{m: m, add: add}
	m.calls = d.counter("calls_total", "Calls and streams that have been answered, by method, protocol (grpc, http) and gRPC status code.",
		"method", "protocol", "code")
	m.callDuration = d.histogram("call_duration_seconds", "Time from a call's arrival to its answer, by method, protocol and result (ok, error). "+
		"A Pull's includes its wait; streams are not in it.", durations, "method", "protocol", "result")
	m.connections = d.gauge("connections", "Open connections of callers, by protocol.", "protocol")
	m.refused = d.counter("connections_refused_total", "Connections that were closed at once because the limit was reached.", "protocol")
	m.streams = d.gauge("streams", "Receive and TransactionChecks streams that are open.").WithLabelValues()
	m.notReading = d.counter("receivers_not_reading_total", "Streams that were ended because their receiver did not read.").WithLabelValues()
	m.panics = d.counter("panics_total", "Panics that were caught, by place: a method of the API, or a driver's call. Never expected.", "place")

	m.sent = d.counter("sent_messages_total", "Messages that applications sent through a Producer, by result: OK = stored by the broker, else the "+
		"error's reason.", "namespace", "name", "result")
	m.sendRefused = d.counter("send_refused_messages_total", "Messages that a Producer refused because too many waited already.", objectLabels...)
	m.transactions = d.counter("transactions_total", "Transactions of a Producer by step: begun, committed or rolled_back by an application and confirmed by the "+
		"broker. What was begun and never ended is not delivered.", "namespace", "name", "step")
	m.checks = d.counter("transaction_checks_total", "Checks of undecided transactions that came to this host, by outcome: committed, rolled_back, unknown (the "+
		"application could not tell), unanswered (nobody answered, or nobody could be asked) or failed (RocketMQ did not take the answer).",
		"namespace", "name", "outcome")
	m.repeated = d.counter("deduplicated_messages_total", "Messages that a Producer answered with the result of an earlier send of their id, within its "+
		"deduplicationWindowSeconds; they are in sent_messages_total too.", objectLabels...)
	m.forgotten = d.counter("deduplication_forgotten_total", "Ids that a Producer forgot before its deduplicationWindowSeconds were over, because there were too "+
		"many: a repetition of them is sent again.", objectLabels...)
	m.requestDuration = d.histogram("send_request_duration_seconds", "Time of one request to the broker.", durations).WithLabelValues().(prometheus.Histogram)
	m.requestMessages = d.histogram("send_request_messages", "Messages in one request to the broker: above 1, waiting messages went together.",
		[]float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}).WithLabelValues().(prometheus.Histogram)

	m.delivered = d.counter("deliveries_total", "Messages written to receivers of a Consumer.", objectLabels...)
	m.redelivered = d.counter("redeliveries_total", "Deliveries of messages that had been delivered before.", objectLabels...)
	m.ended = d.counter("deliveries_ended_total", "How deliveries ended: acked, nacked, expired, given_back (no application had seen it) or dead_lettered.",
		"namespace", "name", "outcome")
	m.windowFull = d.counter("window_full_total", "How often fetching stopped because a Consumer's window was full although a receiver had credit.", objectLabels...)
	m.paced = d.counter("rate_limited_seconds_total", "How long fetching waited for a Consumer's rateLimit although a receiver had credit. Sends beyond a "+
		"Producer's are sent_messages_total with the result RateLimited.", objectLabels...)
	m.fetchFailures = d.counter("fetch_failures_total", "Fetches that failed; they are repeated.", objectLabels...)
	m.giveBackFailures = d.counter("give_back_failures_total", "Messages that could not be given back; they come again when their lease ends.", objectLabels...)
	m.deadFailures = d.counter("dead_letter_failures_total", "Writes to a dead-letter topic that failed; the original is kept.", objectLabels...)

	m.redriven = d.counter("dead_letters_redriven_total", "Dead letters that were given to the Consumer's group again.", objectLabels...)

	m.transitions = d.counter("client_transitions_total", "Changes of clients into a state, by kind.", "kind", "state")
	m.opens = d.counter("client_opens_total", "Tries to open a client towards RocketMQ, by kind, driver and result: OK or the error's reason.",
		"kind", "driver", "result")
	m.openDuration = d.histogram("client_open_duration_seconds", "Time of a try to open a client.", durations, "kind")
	m.drains = d.counter("drains_total", "Clients that were drained and closed, by result: clean, forced (calls or streams still held it) or left "+
		"(closing reported something left).", "kind", "result")
	m.drainedMessages = d.counter("drained_messages_total", "What became of messages in flight when a client was drained: drained (answered or "+
		"acknowledged), given_back or left_leased.", "kind", "outcome")
	m.drainDuration = d.histogram("drain_duration_seconds", "Time from a client's drain to its close.", durations, "kind")
	m.leaks = d.counter("leaks_detected_total", "What an audit found without an owner: a Producer, a Consumer or a Goroutine. Found ones are repaired "+
		"where that is possible.", "kind")
	m.forced = d.counter("forced_finalizers_total", "Finalizers that were removed at the deadline although a host had not reported its shutdown.", "kind")
	m.peerAsked = d.counter("peer_questions_total", "Questions to other hosts about deliveries that they made, by outcome: answered; gone or not_asked "+
		"(RocketMQ was asked instead); unknown (the application was told to try again).", "outcome")
	m.keyTroubles = d.counter("ack_key_troubles_total", "Looks at the Secret with the keys of ack tokens that met trouble: AckKeysMissing, AckKeysDamaged, "+
		"AckKeysForbidden or AckKeysUnreadable. The host goes on with the keys that it has.", "trouble")
	m.keysRead = d.gauge("ack_keys_read_timestamp_seconds", "When this host last read or wrote the keys of ack tokens, in seconds since 1970; they are read "+
		"each minute.").WithLabelValues()

	m.clients = d.scraped("clients", "Clients on this host by kind and state.", "kind", "state")
	m.uses = d.scraped("client_uses", "Calls and streams that hold clients now, by kind.", "kind")
	m.inFlight = d.scraped("in_flight_messages", "Messages leased to a Consumer's window on this host.", objectLabels...)
	m.inFlightBytes = d.scraped("in_flight_bytes", "Bytes of the messages in flight.", objectLabels...)
	m.deadLettersLeft = d.scraped("dead_letters_left", "Dead letters of a Consumer's group that were not redriven, or have others before them that were not, as of the last minute. "+
		"Every host on which the Consumer was in use tells: take the maximum.", objectLabels...)
	m.waiting = d.scraped("waiting_messages", "Messages of a topic that wait for a Consumer in RocketMQ, retries included; what is in flight or delayed is not among them. "+
		"One of the hosts asks for each Consumer, whether somebody receives or not: take the max over hosts.", "namespace", "name", "topic")
	m.oldestWaiting = d.scraped("oldest_waiting_seconds", "Age of the oldest message that waits, by when RocketMQ stored it; 0 when none does. Take the max over hosts.",
		"namespace", "name", "topic")
	m.receivers = d.scraped("broadcast_receivers", "Receivers of a broadcasting Consumer that are on this host, or were a moment ago.", objectLabels...)
	m.receiversWaiting = d.scraped("broadcast_waiting_messages", "Messages that wait for the receiver of a broadcasting Consumer that is furthest behind, of those on "+
		"this host; asked each minute.", objectLabels...)
	m.leftovers = d.scraped("library_leftovers", "Goroutines that closed clients of the RocketMQ library left behind, by function.", "name")
	m.goroutines = d.scraped("goroutines", "Goroutines of the process.")
	m.memory = d.scraped("memory_bytes", "Memory of the process as Go sees it, by area: heap (live and not yet freed objects), stack, total (from the "+
		"operating system).", "area")
	m.certificateEnd = d.scraped("tls_certificate_expiry_timestamp_seconds", "When the TLS certificate in use ends, in seconds since 1970; absent without TLS.")
	m.build = d.scraped("build_info", "Always 1; the labels say what is running.", "version", "commit", "go_version")
}

// durations are seconds from half a millisecond to a minute.
var durations = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// zero makes the series whose absence could be taken for 0 and whose first increase an alert must see.
func (m *Metrics) zero() {
	for _, kind := range []string{"Producer", "Consumer", "Goroutine"} {
		m.leaks.WithLabelValues(kind)
	}
	for _, kind := range []string{"Producer", "Consumer"} {
		m.forced.WithLabelValues(kind)
		for _, result := range []string{"clean", "forced", "left"} {
			m.drains.WithLabelValues(kind, result)
		}
	}
	for _, trouble := range []string{"AckKeysMissing", "AckKeysDamaged", "AckKeysForbidden", "AckKeysUnreadable"} {
		m.keyTroubles.WithLabelValues(trouble)
	}
	for _, outcome := range []string{"answered", "gone", "not_asked", "unknown"} {
		m.peerAsked.WithLabelValues(outcome)
	}
	for _, protocol := range []string{"grpc", "http"} {
		m.connections.WithLabelValues(protocol)
		m.refused.WithLabelValues(protocol)
	}
}

// definer makes metrics and writes their definitions down.
type definer struct {
	m   *Metrics
	add func(prometheus.Collector)
}

func (d definer) note(kind, name, help string, labels []string) {
	d.m.definitions = append(d.m.definitions, Definition{Name: Namespace + "_" + name, Type: kind, Help: help, Labels: labels})
}

func (d definer) counter(name, help string, labels ...string) *prometheus.CounterVec {
	d.note("counter", name, help, labels)
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: Namespace, Name: name, Help: help}, labels)
	d.add(c)
	return c
}

func (d definer) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	d.note("gauge", name, help, labels)
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: Namespace, Name: name, Help: help}, labels)
	d.add(g)
	return g
}

func (d definer) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	d.note("histogram", name, help, labels)
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: Namespace, Name: name, Help: help, Buckets: buckets}, labels)
	d.add(h)
	return h
}

func (d definer) scraped(name, help string, labels ...string) *prometheus.Desc {
	d.note("gauge", name, help, labels)
	return prometheus.NewDesc(Namespace+"_"+name, help, labels, nil)
}

// memoryAreas reads what Go knows of its memory.
func memoryAreas() map[string]float64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return map[string]float64{"heap": float64(s.HeapAlloc), "stack": float64(s.StackInuse), "total": float64(s.Sys)}
}
