// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
)

// panel is one graph: what it shows, in which unit, by which queries (legend to expression).
type panel struct {
	title, unit, about string
	queries            []query
}

type query struct{ legend, expr string }

// row is a headline with its panels.
type row struct {
	title  string
	panels []panel
}

// dashboard makes the Grafana dashboard, three panels beside each other.
func dashboard() ([]byte, error) {
	var panels []any
	id, y := 1, 0
	for _, r := range rows {
		panels = append(panels, map[string]any{"type": "row", "id": id, "title": r.title, "collapsed": false, "panels": []any{}, "gridPos": grid(0, y, 24, 1)})
		id, y = id+1, y+1
		for i, p := range r.panels {
			panels = append(panels, graph(id, p, grid(i%3*8, y+i/3*8, 8, 8)))
			id++
		}
		y += (len(r.panels) + 2) / 3 * 8
	}
	model := map[string]any{
		"uid": "rocketmq-proxy", "title": "RocketMQ proxy", "tags": []string{"rocketmq"}, "schemaVersion": 39, "version": 1, "editable": true,
		"refresh": "30s", "time": map[string]string{"from": "now-3h", "to": "now"}, "timezone": "browser", "panels": panels,
		"templating": map[string]any{"list": []any{
			map[string]any{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
			variable("pod", "Host", "label_values(rocketmq_proxy_build_info, pod)"),
			variable("namespace", "Namespace of objects", `label_values({__name__=~"rocketmq_proxy_(sent_messages|deliveries)_total"}, namespace)`),
			variable("name", "Object", `label_values({__name__=~"rocketmq_proxy_(sent_messages|deliveries)_total", namespace=~"$namespace"}, name)`),
		}},
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(model)
	return out.Bytes(), err
}

func grid(x, y, w, h int) map[string]int { return map[string]int{"x": x, "y": y, "w": w, "h": h} }

func variable(name, label, values string) map[string]any {
	return map[string]any{
		"name": name, "label": label, "type": "query", "query": values, "refresh": 2, "sort": 1, "multi": true, "includeAll": true, "allValue": ".*",
		"current":    map[string]any{"text": "All", "value": "$__all"},
		"datasource": map[string]string{"type": "prometheus", "uid": "${datasource}"},
	}
}

func graph(id int, p panel, position map[string]int) map[string]any {
	source := map[string]string{"type": "prometheus", "uid": "${datasource}"}
	targets := make([]any, len(p.queries))
	for i, q := range p.queries {
		targets[i] = map[string]any{"refId": string(rune('A' + i)), "expr": q.expr, "legendFormat": q.legend, "datasource": source}
	}
	return map[string]any{
		"type": "timeseries", "id": id, "title": p.title, "description": p.about, "datasource": source, "gridPos": position, "targets": targets,
		"fieldConfig": map[string]any{"defaults": map[string]any{"unit": p.unit, "min": 0, "custom": map[string]any{"fillOpacity": 8}}, "overrides": []any{}},
		"options":     map[string]any{"legend": map[string]any{"displayMode": "table", "placement": "bottom", "calcs": []string{"lastNotNull", "max"}}, "tooltip": map[string]string{"mode": "multi"}},
	}
}
