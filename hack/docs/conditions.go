// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
)

// constant is one constant of api/v1alpha1/condition_consts.go with its comment.
type constant struct{ name, value, comment string }

// conditionConstants reads the constants whose names begin with prefix, in the order of the file.
func conditionConstants(root, prefix string) ([]constant, error) {
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "api/v1alpha1/condition_consts.go"), nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	var found []constant
	for _, declaration := range file.Decls {
		group, ok := declaration.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			value := spec.(*ast.ValueSpec)
			name := value.Names[0].Name
			literal, ok := value.Values[0].(*ast.BasicLit)
			if !ok || !strings.HasPrefix(name, prefix) {
				continue
			}
			text, err := strconv.Unquote(literal.Value)
			if err != nil {
				return nil, err
			}
			found = append(found, constant{name, text, sentence(name, value.Doc.Text())})
		}
	}
	return found, nil
}

// sentence is a comment without the constant's name that it begins with.
func sentence(name, comment string) string {
	comment = strings.Join(strings.Fields(comment), " ")
	comment = strings.TrimPrefix(comment, name)
	return strings.TrimSpace(strings.TrimPrefix(comment, ":"))
}

func conditionTable(root string) (string, error) {
	conditions, err := conditionConstants(root, "Condition")
	if err != nil {
		return "", err
	}
	var out strings.Builder
	out.WriteString("| condition | meaning |\n| --- | --- |\n")
	for _, c := range conditions {
		fmt.Fprintf(&out, "| `%s` | %s |\n", c.value, cell(c.comment))
	}
	return strings.TrimRight(out.String(), "\n"), nil
}

// reasonTable fails on a reason that has no advice, so that a new reason cannot be forgotten.
func reasonTable(root string) (string, error) {
	reasons, err := conditionConstants(root, "Reason")
	if err != nil {
		return "", err
	}
	var out strings.Builder
	out.WriteString("| reason | meaning | what to do |\n| --- | --- | --- |\n")
	for _, r := range reasons {
		what, ok := advice[r.value]
		if !ok {
			return "", fmt.Errorf("reason %s has no advice in hack/docs/advice.go", r.value)
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s |\n", r.value, cell(r.comment), cell(what))
	}
	return strings.TrimRight(out.String(), "\n"), nil
}
