// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

func TestWhatWaitsIsShownOfThoseForWhomSomethingDidUntilItIsOldOrTheyGo(t *testing.T) {
	r := prometheus.NewRegistry()
	m, err := New(r, Build{})
	if err != nil {
		t.Fatal(err)
	}
	live := []registry.EntryInfo{{Key: registry.Key{Kind: registry.Consumer, UID: "1"}, Namespace: "shop", Name: "mailer"}, {Key: registry.Key{Kind: registry.Consumer, UID: "2"}, Namespace: "shop", Name: "quiet"}}
	m.SetSource(Source{Entries: func() []registry.EntryInfo { return live }})
	later := time.Now().Add(time.Minute)
	series := func() (n int) {
		t.Helper()
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if strings.HasSuffix(f.GetName(), "_waiting_messages") || strings.HasSuffix(f.GetName(), "oldest_waiting_seconds") {
				n += len(f.GetMetric())
			}
		}
		return n
	}
	m.SetLag("shop", "quiet", []driver.Lag{{Topic: "a"}}, later)
	if n := series(); n != 0 {
		t.Errorf("%d series of a Consumer for which nothing ever waited", n)
	}
	m.SetLag("shop", "mailer", []driver.Lag{{Topic: "a", Waiting: 7, Oldest: time.Now().Add(time.Hour)}, {Topic: "b"}}, later)
	want := `# HELP rocketmq_proxy_waiting_messages ` + helpOf(m, "rocketmq_proxy_waiting_messages") + `
# TYPE rocketmq_proxy_waiting_messages gauge
rocketmq_proxy_waiting_messages{name="mailer",namespace="shop",topic="a"} 7
rocketmq_proxy_waiting_messages{name="mailer",namespace="shop",topic="b"} 0
# HELP rocketmq_proxy_oldest_waiting_seconds ` + helpOf(m, "rocketmq_proxy_oldest_waiting_seconds") + `
# TYPE rocketmq_proxy_oldest_waiting_seconds gauge
rocketmq_proxy_oldest_waiting_seconds{name="mailer",namespace="shop",topic="a"} 0
rocketmq_proxy_oldest_waiting_seconds{name="mailer",namespace="shop",topic="b"} 0
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "rocketmq_proxy_waiting_messages", "rocketmq_proxy_oldest_waiting_seconds"); err != nil {
		t.Error(err)
	}
	m.SetLag("shop", "mailer", []driver.Lag{{Topic: "a"}}, later)
	if n := series(); n != 2 {
		t.Errorf("%d series after it was worked off, want the two zeros", n)
	}
	m.SetLag("shop", "mailer", []driver.Lag{{Topic: "a", Waiting: 1}}, time.Now().Add(-time.Second))
	if n := series(); n != 0 {
		t.Errorf("%d series of an answer that is too old", n)
	}
	m.SetLag("shop", "mailer", []driver.Lag{{Topic: "a", Waiting: 1}}, later)
	live = nil
	series() // a scrape takes out what has gone
	if n := series(); n != 0 {
		t.Errorf("%d series of a Consumer that has gone", n)
	}
	(*Metrics)(nil).SetLag("shop", "mailer", nil, later)
}

func helpOf(m *Metrics, name string) string {
	for _, d := range m.Definitions() {
		if d.Name == name {
			return d.Help
		}
	}
	return ""
}
