// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// Source is what is asked at each scrape. The functions must not block and may be nil.
type Source struct {
	// Entries are the registry's.
	Entries func() []registry.EntryInfo
	// Leftovers are the drivers'.
	Leftovers func() map[string]int
}

// SetSource says whom to ask from now on.
func (m *Metrics) SetSource(s Source) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.source = s
}

// SetCertificate says where to read the end of the TLS certificate in use. It is called at each scrape and must not block; a zero time = unknown.
func (m *Metrics) SetCertificate(notAfter func() time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.certificate = notAfter
}

// window is an open Consumer's window.
type window struct {
	of       object
	inFlight func() (messages int, bytes int64)
	used     bool // something was in flight at a scrape; guarded by Metrics.mu
}

// TrackWindow makes inFlight part of each scrape until the returned function is called; nothing is shown before it was above 0 for the first
// time. A nil *Metrics does nothing.
func (m *Metrics) TrackWindow(namespace, name string, inFlight func() (messages int, bytes int64)) (end func()) {
	if m == nil {
		return func() {}
	}
	w := &window{of: object{namespace, name}, inFlight: inFlight}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.windows[w] = struct{}{}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.windows, w)
	}
}

// broadcast is what tells of a broadcasting Consumer's receivers.
type broadcast struct {
	of        object
	receivers func() (n int, waiting int64)
}

// TrackReceivers makes receivers part of each scrape until the returned function is called; it must not block, and nothing is shown while there are none. A
// nil *Metrics does nothing.
func (m *Metrics) TrackReceivers(namespace, name string, receivers func() (n int, waiting int64)) (end func()) {
	if m == nil {
		return func() {}
	}
	b := &broadcast{of: object{namespace, name}, receivers: receivers}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broadcasts[b] = struct{}{}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.broadcasts, b)
	}
}

// collectBroadcasts shows the client with more receivers of two: while a client is replaced there are two.
func (m *Metrics) collectBroadcasts(gauge setGauge) {
	m.mu.Lock()
	tracked := slices.Collect(maps.Keys(m.broadcasts))
	m.mu.Unlock()
	type load struct {
		receivers int
		waiting   int64
	}
	loads := make(map[object]load)
	for _, b := range tracked {
		if n, waiting := b.receivers(); n > loads[b.of].receivers {
			loads[b.of] = load{n, waiting}
		}
	}
	for of, l := range loads {
		gauge(m.receivers, float64(l.receivers), of.namespace, of.name)
		gauge(m.receiversWaiting, float64(l.waiting), of.namespace, of.name)
	}
}

// letters is what tells of a Consumer's dead letters.
type letters struct {
	of   object
	left func() (n int64, known bool)
}

// TrackDeadLetters makes left part of each scrape until the returned function is called; it must not block, and nothing is shown while it does not know. A
// nil *Metrics does nothing.
func (m *Metrics) TrackDeadLetters(namespace, name string, left func() (n int64, known bool)) (end func()) {
	if m == nil {
		return func() {}
	}
	l := &letters{of: object{namespace, name}, left: left}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.letters[l] = struct{}{}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.letters, l)
	}
}

// collectLetters shows the larger one of two clients' answers: while a client is replaced there are two, and both speak of one topic.
func (m *Metrics) collectLetters(gauge setGauge) {
	m.mu.Lock()
	tracked := slices.Collect(maps.Keys(m.letters))
	m.mu.Unlock()
	most := make(map[object]int64)
	for _, l := range tracked {
		if n, known := l.left(); known {
			most[l.of] = max(most[l.of], n)
		}
	}
	for of, n := range most {
		gauge(m.deadLettersLeft, float64(n), of.namespace, of.name)
	}
}

func (m *Metrics) remember(objects map[object]struct{}, namespace, name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	objects[object{namespace, name}] = struct{}{}
}

// scraped is the part of Metrics that is made at each scrape.
type scraped Metrics

var states = []registry.State{registry.Starting, registry.Running, registry.Idle, registry.Draining, registry.Failed}

// Describe implements prometheus.Collector.
func (s *scraped) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.waiting, s.oldestWaiting, s.clients, s.uses, s.inFlight, s.inFlightBytes, s.receivers, s.receiversWaiting, s.deadLettersLeft, s.leftovers, s.goroutines, s.memory, s.build, s.certificateEnd} {
		out <- d
	}
}

// Collect implements prometheus.Collector. It takes the series of objects that have gone out as well.
func (s *scraped) Collect(out chan<- prometheus.Metric) {
	m := (*Metrics)(s)
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	m.mu.Lock()
	source, certificate := m.source, m.certificate
	m.mu.Unlock()
	if certificate != nil {
		if notAfter := certificate(); !notAfter.IsZero() {
			gauge(m.certificateEnd, float64(notAfter.Unix()))
		}
	}
	if source.Entries != nil {
		m.collectEntries(source.Entries(), gauge)
	}
	m.collectWindows(gauge)
	m.collectBroadcasts(gauge)
	m.collectLetters(gauge)
	m.collectLags(gauge)
	if source.Leftovers != nil {
		for name, n := range source.Leftovers() {
			gauge(m.leftovers, float64(n), name)
		}
	}
	gauge(m.goroutines, float64(runtime.NumGoroutine()))
	for area, bytes := range memoryAreas() {
		gauge(m.memory, bytes, area)
	}
	gauge(m.build, 1, m.version.Version, m.version.Commit, runtime.Version())
}

type setGauge func(d *prometheus.Desc, value float64, labels ...string)

func (m *Metrics) collectEntries(entries []registry.EntryInfo, gauge setGauge) {
	for _, kind := range []registry.Kind{registry.Producer, registry.Consumer} {
		inState, uses := make(map[registry.State]int), 0
		for _, e := range entries {
			if e.Kind != kind {
				continue
			}
			inState[e.Status.State]++
			uses += e.Uses
		}
		for _, state := range states {
			gauge(m.clients, float64(inState[state]), string(kind), string(state))
		}
		gauge(m.uses, float64(uses), string(kind))
	}
	m.forgetAllBut(entries)
}

// collectWindows sums the windows of one object: while a client is replaced there are two.
func (m *Metrics) collectWindows(gauge setGauge) {
	type load struct{ messages, bytes float64 }
	loads := make(map[object]load)
	for _, w := range m.openWindows() {
		messages, bytes := w.inFlight()
		if !m.isUsed(w, messages > 0) {
			continue
		}
		l := loads[w.of]
		loads[w.of] = load{l.messages + float64(messages), l.bytes + float64(bytes)}
	}
	for of, l := range loads {
		gauge(m.inFlight, l.messages, of.namespace, of.name)
		gauge(m.inFlightBytes, l.bytes, of.namespace, of.name)
	}
}

// isUsed reports whether w has ever had something in flight, now included.
func (m *Metrics) isUsed(w *window, now bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	w.used = w.used || now
	return w.used
}

func (m *Metrics) openWindows() []*window {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*window, 0, len(m.windows))
	for w := range m.windows {
		out = append(out, w)
	}
	return out
}

// ForgetGone removes the series of objects that have no entry any more. Each scrape does it too; who calls it now and then keeps a process that
// nobody scrapes from remembering every object that there ever was.
func (m *Metrics) ForgetGone() {
	m.mu.Lock()
	entries := m.source.Entries
	m.mu.Unlock()
	if entries != nil {
		m.forgetAllBut(entries())
	}
}

func (m *Metrics) forgetAllBut(entries []registry.EntryInfo) {
	live := map[registry.Kind]map[object]bool{registry.Producer: {}, registry.Consumer: {}}
	for _, e := range entries {
		live[e.Kind][object{e.Namespace, e.Name}] = true
	}
	for kind, names := range live {
		m.forget(kind, names)
	}
}

// forget removes the series of objects that have no entry any more.
func (m *Metrics) forget(kind registry.Kind, live map[object]bool) {
	known, series := m.producers, []*prometheus.CounterVec{m.sent, m.sendRefused, m.transactions, m.checks, m.repeated, m.forgotten}
	if kind == registry.Consumer {
		known, series = m.consumers, []*prometheus.CounterVec{
			m.delivered, m.redelivered, m.ended, m.windowFull, m.paced, m.fetchFailures, m.giveBackFailures, m.deadFailures, m.redriven,
		}
	}
	if kind == registry.Consumer {
		m.forgetLags(live)
	}
	for _, gone := range m.takeGone(known, live) {
		for _, vec := range series {
			vec.DeletePartialMatch(prometheus.Labels{"namespace": gone.namespace, "name": gone.name})
		}
	}
}

func (m *Metrics) takeGone(known map[object]struct{}, live map[object]bool) []object {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []object
	for of := range known {
		if !live[of] {
			delete(known, of)
			out = append(out, of)
		}
	}
	return out
}
