// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// crdFields is a table of the fields of spec or status of a resource ("producers", "consumers").
func crdFields(root, resource, part string) (string, error) {
	content, err := os.ReadFile(filepath.Join(root, "config/crd/bases", "proxy.rocketmq.io_"+resource+".yaml"))
	if err != nil {
		return "", err
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(content, &crd); err != nil {
		return "", err
	}
	schema, ok := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties[part]
	if !ok {
		return "", fmt.Errorf("%s has no %s", resource, part)
	}
	var out strings.Builder
	out.WriteString("| field | type | default | meaning |\n| --- | --- | --- | --- |\n")
	writeFields(&out, "", schema)
	if rules := ruleList(schema); rules != "" {
		out.WriteString("\nRefused by the API server:\n" + rules)
	}
	return strings.TrimRight(out.String(), "\n"), nil
}

// writeFields writes a row per field, parents before children, in the order of their names.
func writeFields(out *strings.Builder, prefix string, schema apiextensionsv1.JSONSchemaProps) {
	names := make([]string, 0, len(schema.Properties))
	for name := range schema.Properties {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		field := schema.Properties[name]
		required := ""
		if slices.Contains(schema.Required, name) {
			required = " (required)"
		}
		fmt.Fprintf(out, "| `%s%s` | %s%s | %s | %s |\n", prefix, name, typeName(field), required, defaultOf(field), cell(field.Description))
		switch {
		case name == "conditions": // Kubernetes' own type, with Kubernetes' own long comments
		case len(field.Properties) > 0:
			writeFields(out, prefix+name+".", field)
		case field.Items != nil && len(field.Items.Schema.Properties) > 0:
			writeFields(out, prefix+name+"[].", *field.Items.Schema)
		}
	}
}

func typeName(field apiextensionsv1.JSONSchemaProps) string {
	switch {
	case len(field.Enum) > 0:
		values := make([]string, len(field.Enum))
		for i, value := range field.Enum {
			values[i] = strings.Trim(string(value.Raw), `"`)
		}
		return strings.Join(values, " or ")
	case field.Type == "array" && field.Items != nil:
		return "list of " + typeName(*field.Items.Schema)
	case field.Minimum != nil && field.Maximum != nil:
		return fmt.Sprintf("%s, %d to %d", field.Type, int64(*field.Minimum), int64(*field.Maximum))
	default:
		return field.Type
	}
}

func defaultOf(field apiextensionsv1.JSONSchemaProps) string {
	if field.Default == nil {
		return ""
	}
	return "`" + strings.Trim(string(field.Default.Raw), `"`) + "`"
}

// ruleList collects the messages of the CEL rules of a schema and everything below it, each once.
func ruleList(schema apiextensionsv1.JSONSchemaProps) string {
	seen := map[string]bool{}
	var messages []string
	var walk func(apiextensionsv1.JSONSchemaProps)
	walk = func(s apiextensionsv1.JSONSchemaProps) {
		for _, rule := range s.XValidations {
			if rule.Message != "" && !seen[rule.Message] {
				seen[rule.Message] = true
				messages = append(messages, "- "+rule.Message+"\n")
			}
		}
		if s.Items != nil {
			walk(*s.Items.Schema)
		}
		names := make([]string, 0, len(s.Properties))
		for name := range s.Properties {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			walk(s.Properties[name])
		}
	}
	walk(schema)
	return strings.Join(messages, "")
}

// cell makes a text fit into one cell of a table.
func cell(text string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "|", "\\|")
}
