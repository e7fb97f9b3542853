// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"slices"
	"strings"
)

// Markdown is docs/metrics.md; a test fails when the file is another.
func Markdown(definitions []Definition) string {
	var out strings.Builder
	out.WriteString(`# Metrics

<!-- Made from proxy/metrics/metrics.go by: go test ./proxy/metrics -run TestTheDocumentIsUpToDate -update -->

Every metric of the proxy, as it is served on the metrics port. No label has a value that a caller chose; series with the labels namespace and
name begin when their object is used for the first time and go when it is deleted. The manager's own metrics (controller_runtime_*, workqueue_*, go_*, process_*) are served beside them.

| name | type | labels | meaning |
| --- | --- | --- | --- |
`)
	sorted := slices.Clone(definitions)
	slices.SortFunc(sorted, func(a, b Definition) int { return strings.Compare(a.Name, b.Name) })
	for _, d := range sorted {
		labels := strings.Join(d.Labels, ", ")
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", d.Name, d.Type, labels, d.Help)
	}
	return out.String()
}
