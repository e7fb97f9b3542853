// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/metrics"
)

// defined maps each name that can be queried to the labels of its metric. Histograms have three names.
func defined(t *testing.T) map[string][]string {
	t.Helper()
	m, err := metrics.New(prometheus.NewRegistry(), metrics.Build{})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string][]string{}
	for _, d := range m.Definitions() {
		names[d.Name] = d.Labels
		if d.Type == "histogram" {
			delete(names, d.Name)
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				names[d.Name+suffix] = append([]string{"le"}, d.Labels...)
			}
		}
	}
	return names
}

var (
	metricName = regexp.MustCompile(`rocketmq_proxy_[a-z_]+`)
	// selector is a metric with its matchers: name{label="value", ...}.
	selector = regexp.MustCompile(`(rocketmq_proxy_[a-z_]+)\{([^}]*)\}`)
	matcher  = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*`)
	// byClause is an aggregation: sum by (labels) (... metric.
	byClause = regexp.MustCompile(`by \(([^)]*)\) \((?:[a-z_]+\()*(rocketmq_proxy_[a-z_]+)`)
)

// Labels that the scrape adds.
var scrapeLabels = []string{"job", "pod", "instance"}

func TestRulesAndDashboardNameOnlyMetricsThatExist(t *testing.T) {
	names := defined(t)
	for _, file := range []string{"config/prometheus/rules.yaml", "config/prometheus/dashboard.json"} {
		t.Run(file, func(t *testing.T) {
			content, err := os.ReadFile(filepath.Join(root, file))
			if err != nil {
				t.Fatal(err)
			}
			text := strings.ReplaceAll(string(content), `\"`, `"`)
			text = strings.ReplaceAll(text, "rocketmq_proxy_(sent_messages|deliveries)_total", "") // a variable's choice of two names
			for _, name := range metricName.FindAllString(text, -1) {
				if _, ok := names[name]; !ok {
					t.Errorf("no metric is called %s", name)
				}
			}
			for _, found := range selector.FindAllStringSubmatch(text, -1) {
				for _, m := range matcher.FindAllStringSubmatch(found[2], -1) {
					checkLabel(t, names, found[1], m[1])
				}
			}
			for _, found := range byClause.FindAllStringSubmatch(text, -1) {
				for _, label := range strings.Split(found[1], ",") {
					checkLabel(t, names, found[2], strings.TrimSpace(label))
				}
			}
		})
	}
}

func checkLabel(t *testing.T, names map[string][]string, metric, label string) {
	t.Helper()
	labels, ok := names[metric]
	if ok && !slices.Contains(labels, label) && !slices.Contains(scrapeLabels, label) {
		t.Errorf("metric %s has no label %s", metric, label)
	}
}

// A metric that nobody looks at is found on the day that it is needed, or never.
func TestTheDashboardShowsEveryMetric(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "config/prometheus/dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name := range defined(t) {
		if strings.HasSuffix(name, "_sum") || strings.HasSuffix(name, "_count") {
			continue
		}
		if !regexp.MustCompile(name + `[^a-z_]`).Match(content) {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
}
