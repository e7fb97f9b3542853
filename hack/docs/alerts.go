// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// prometheusRule is what this program reads of a PrometheusRule.
type prometheusRule struct {
	Spec struct {
		Groups []struct {
			Rules []struct {
				Alert       string            `json:"alert"`
				Expr        string            `json:"expr"`
				For         string            `json:"for"`
				Labels      map[string]string `json:"labels"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	} `json:"spec"`
}

// alertSections writes a section for each alert: when it fires, what it means, what to do.
func alertSections(root string) (string, error) {
	content, err := os.ReadFile(filepath.Join(root, "config/prometheus/rules.yaml"))
	if err != nil {
		return "", err
	}
	var rule prometheusRule
	if err := yaml.Unmarshal(content, &rule); err != nil {
		return "", err
	}
	var out strings.Builder
	for _, group := range rule.Spec.Groups {
		for _, r := range group.Rules {
			if r.Alert == "" {
				continue
			}
			for _, key := range []string{"summary", "description", "action"} {
				if r.Annotations[key] == "" {
					return "", fmt.Errorf("alert %s has no annotation %s", r.Alert, key)
				}
			}
			wait := "at once"
			if r.For != "" {
				wait = "after " + r.For
			}
			fmt.Fprintf(&out, "### %s\nSeverity %s, %s, when\n```promql\n%s\n```\n%s\n\n**What to do.** %s\n\n",
				r.Alert, r.Labels["severity"], wait, strings.TrimSpace(r.Expr), r.Annotations["description"], r.Annotations["action"])
		}
	}
	return strings.TrimRight(out.String(), "\n"), nil
}
