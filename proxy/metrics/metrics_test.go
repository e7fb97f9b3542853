// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

var (
	update = flag.Bool("update", false, "write docs/metrics.md")

	_ server.Observer = (*Metrics)(nil)
)

const document = "../../docs/metrics.md"

func made(t *testing.T) (*Metrics, *prometheus.Registry) {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	m, err := New(r, Build{Version: "v1", Commit: "abc"})
	if err != nil {
		t.Fatal(err)
	}
	return m, r
}

func TestTheDocumentIsUpToDate(t *testing.T) {
	m, _ := made(t)
	want := Markdown(m.Definitions())
	if *update {
		if err := os.WriteFile(document, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(document)
	if err != nil || string(got) != want {
		t.Errorf("docs/metrics.md is stale (%v): run go test ./proxy/metrics -run TestTheDocumentIsUpToDate -update", err)
	}
}

func TestEveryMetricIsWrittenDownWithHelp(t *testing.T) {
	m, r := made(t)
	observeEverything(m)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]Definition{}
	for _, d := range m.Definitions() {
		known[d.Name] = d
		if d.Help == "" {
			t.Errorf("%s has no help", d.Name)
		}
	}
	for _, f := range families {
		if _, found := known[f.GetName()]; !found {
			t.Errorf("%s is not among the definitions", f.GetName())
		}
		delete(known, f.GetName())
	}
	for name := range known {
		t.Errorf("%s is defined and not served after everything has happened", name)
	}
	problems, err := testutil.GatherAndLint(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// observeEverything makes each event happen once.
func observeEverything(m *Metrics) {
	m.SetLag("shop", "billing", []driver.Lag{{Topic: "orders", Waiting: 1, Oldest: time.Now()}}, time.Now().Add(time.Hour))
	m.CallEnded("Send", "grpc", codes.OK, time.Millisecond)
	m.Sent("shop", "orders", "OK", 2)
	m.Transactions("shop", "orders", "begun")
	m.CheckEnded("shop", "orders", "unanswered")
	m.Connections("grpc", 1)
	m.ConnectionRefused("http")
	m.Streams(1)
	m.ReceiverNotReading()
	m.Panicked("Send")
	m.FinalizerForced("Producer")
	m.StateChanged(registry.Producer, registry.Stopped, registry.Starting)
	m.Opened(registry.Producer, "Memory", time.Millisecond, driver.Errorf(driver.Unauthorized, "", "no"))
	m.Drained(registry.Consumer, "Memory", registry.Receipt{Drained: 3, GivenBack: 2, LeftLeased: 1})
	m.LeakDetected("Goroutine", 4)
	q := m.Queue("shop", "orders")
	q.RequestSent(3, 2, time.Millisecond)
	q.Refused(1)
	d := m.Deduplication("shop", "orders")
	d.Repeated(1)
	d.Forgotten(1)
	q.DriverPanicked()
	w := m.Window("shop", "billing")
	w.Delivered(5, 2)
	w.Ended(delivery.Acked, 3)
	w.WindowFull()
	w.FetchFailed(errors.New("x"))
	w.GiveBackFailed(1, errors.New("x"))
	w.DeadLetterFailed(errors.New("x"))
	w.DriverPanicked("Fetch")
	m.Redriven("shop", "billing", 1)
	m.SetCertificate(func() time.Time { return time.Unix(1, 0) })
	m.TrackWindow("shop", "billing", func() (int, int64) { return 7, 700 })
	m.TrackReceivers("shop", "screens", func() (int, int64) { return 3, 10 })
	m.TrackDeadLetters("shop", "billing", func() (int64, bool) { return 3, true })
	m.SetSource(Source{Entries: entries("orders", "billing"), Leftovers: func() map[string]int { return map[string]int{"library.func1": 3} }})
}

func entries(producer, consumer string) func() []registry.EntryInfo {
	return func() []registry.EntryInfo {
		return []registry.EntryInfo{
			{Key: registry.Key{Kind: registry.Producer}, Namespace: "shop", Name: producer, Uses: 2, Status: registry.Status{State: registry.Running}},
			{Key: registry.Key{Kind: registry.Consumer}, Namespace: "shop", Name: consumer, Status: registry.Status{State: registry.Idle}},
		}
	}
}

// TestSeedReport_TheFactsOfTheEarlierProxysMetricsAreThere: active producers, leaks by kind, full windows, goroutines, memory.
func TestSeedReport_TheFactsOfTheEarlierProxysMetricsAreThere(t *testing.T) {
	m, r := made(t)
	observeEverything(m)
	want := `
# HELP rocketmq_proxy_client_uses Calls and streams that hold clients now, by kind.
# TYPE rocketmq_proxy_client_uses gauge
rocketmq_proxy_client_uses{kind="Consumer"} 0
rocketmq_proxy_client_uses{kind="Producer"} 2
# HELP rocketmq_proxy_in_flight_messages Messages leased to a Consumer's window on this host.
# TYPE rocketmq_proxy_in_flight_messages gauge
rocketmq_proxy_in_flight_messages{name="billing",namespace="shop"} 7
# HELP rocketmq_proxy_leaks_detected_total What an audit found without an owner: a Producer, a Consumer or a Goroutine. Found ones are repaired where that is possible.
# TYPE rocketmq_proxy_leaks_detected_total counter
rocketmq_proxy_leaks_detected_total{kind="Consumer"} 0
rocketmq_proxy_leaks_detected_total{kind="Goroutine"} 4
rocketmq_proxy_leaks_detected_total{kind="Producer"} 0
# HELP rocketmq_proxy_library_leftovers Goroutines that closed clients of the RocketMQ library left behind, by function.
# TYPE rocketmq_proxy_library_leftovers gauge
rocketmq_proxy_library_leftovers{name="library.func1"} 3
# HELP rocketmq_proxy_window_full_total How often fetching stopped because a Consumer's window was full although a receiver had credit.
# TYPE rocketmq_proxy_window_full_total counter
rocketmq_proxy_window_full_total{name="billing",namespace="shop"} 1
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "rocketmq_proxy_client_uses", "rocketmq_proxy_in_flight_messages",
		"rocketmq_proxy_leaks_detected_total", "rocketmq_proxy_library_leftovers", "rocketmq_proxy_window_full_total"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"rocketmq_proxy_goroutines", "rocketmq_proxy_memory_bytes"} {
		if n, err := testutil.GatherAndCount(r, name); err != nil || n == 0 {
			t.Errorf("%s: %d series, %v", name, n, err)
		}
	}
}

// seriesOf counts the series with this object's name.
func seriesOf(t *testing.T, r prometheus.Gatherer, name string) (n int) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, s := range f.GetMetric() {
			for _, l := range s.GetLabel() {
				if l.GetName() == "name" && l.GetValue() == name {
					n++
				}
			}
		}
	}
	return n
}

func TestTheSeriesOfAnObjectGoWithIt(t *testing.T) {
	m, r := made(t)
	observeEverything(m)
	if seriesOf(t, r, "orders") == 0 || seriesOf(t, r, "billing") == 0 {
		t.Fatal("there are no series of the objects")
	}
	m.SetSource(Source{Entries: entries("others", "others")})
	seriesOf(t, r, "orders") // The scrape that finds them gone may still show what was collected before.
	if n := seriesOf(t, r, "orders"); n != 0 {
		t.Errorf("the deleted producer has %d series", n)
	}
	// The window is still open, as while a deleted Consumer's client closes.
	if n := seriesOf(t, r, "billing"); n != 3 {
		t.Errorf("the deleted consumer has %d series, want those of its open window and its dead letters", n)
	}
}

func TestDeadLettersAreShownOnceAndOnlyWhileTheyAreKnown(t *testing.T) {
	m, r := made(t)
	known := false
	end := m.TrackDeadLetters("shop", "billing", func() (int64, bool) { return 7, known })
	defer m.TrackDeadLetters("shop", "billing", func() (int64, bool) { return 3, known })() // the client that takes its place
	if n := seriesOf(t, r, "billing"); n != 0 {
		t.Errorf("%d series of what is not known", n)
	}
	known = true
	for _, want := range []float64{7, 3} {
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "rocketmq_proxy_dead_letters_left" && (len(f.GetMetric()) != 1 || f.GetMetric()[0].GetGauge().GetValue() != want) {
				t.Errorf("%v, want %v", f.GetMetric(), want)
			}
		}
		end()
	}
}

func TestAnObjectThatNobodyUsesHasNoSeries(t *testing.T) {
	m, r := made(t)
	m.Queue("shop", "orders")
	window, messages := m.Window("shop", "billing"), 0
	defer m.TrackWindow("shop", "billing", func() (int, int64) { return messages, 0 })()
	m.SetSource(Source{Entries: entries("orders", "billing")})
	if o, b := seriesOf(t, r, "orders"), seriesOf(t, r, "billing"); o != 0 || b != 0 {
		t.Errorf("there are %d and %d series of objects that nobody used", o, b)
	}
	window.FetchFailed(errors.New("x"))
	if n := seriesOf(t, r, "billing"); n != 8 {
		t.Errorf("after the first thing happened there are %d series, want all 7 counters that have no further label, and that of dead letters", n)
	}
	messages = 1
	before := seriesOf(t, r, "billing")
	messages = 0
	if after := seriesOf(t, r, "billing"); before != 10 || after != 10 {
		t.Errorf("there are %d series while something is in flight and %d afterwards, want 10 and 10", before, after)
	}
}

func TestNilMetricsMakeNoObservers(t *testing.T) {
	var m *Metrics
	if m.Queue("a", "b") != nil || m.Deduplication("a", "b") != nil || m.Window("a", "b") != nil {
		t.Error("an observer was made")
	}
	m.TrackWindow("a", "b", nil)()
	m.TrackReceivers("a", "b", nil)()
	m.TrackDeadLetters("a", "b", nil)()
	m.Redriven("a", "b", 1)
}
