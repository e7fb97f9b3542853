// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
)

// The structure comes from the compiled descriptor; only the comments, which the descriptor of generated Go code does not hold, are
// taken from the .proto's text. The text is our own and regular: one declaration on a line, its comment above it.

// declaration matches what can carry a comment: the kind of block or the field's name.
var (
	blockLine = regexp.MustCompile(`^(service|message|enum|oneof|rpc)\s+(\w+)`)
	fieldLine = regexp.MustCompile(`^(?:repeated\s+)?[\w.<>, ]+?\s+(\w+)\s*=\s*\d+;`)
	valueLine = regexp.MustCompile(`^([A-Z_]+)\s*=\s*\d+;`)
	postLine  = regexp.MustCompile(`^post:\s*"([^"]+)"`)
)

// protoText holds the comments of a .proto by full name below its package ("Message.topic", "ConsumerService.Pull"), and HTTP paths of calls.
type protoText struct {
	comments map[string]string
	posts    map[string]string
}

func readProto(root string) (protoText, error) {
	content, err := os.ReadFile(filepath.Join(root, "api/proxy/v1alpha1/proxy.proto"))
	if err != nil {
		return protoText{}, err
	}
	text := protoText{comments: map[string]string{}, posts: map[string]string{}}
	var scope, comment []string
	for _, line := range strings.Split(string(content), "\n") {
		line = strings.TrimSpace(line)
		if words, ok := strings.CutPrefix(line, "//"); ok {
			comment = append(comment, strings.TrimSpace(words))
			continue
		}
		if post := postLine.FindStringSubmatch(line); post != nil {
			text.posts[name(scope)] = post[1]
		}
		scope = text.declare(line, scope, strings.Join(comment, " "))
		comment = nil
	}
	return text, nil
}

// declare notes what a line declares and answers the scope after it.
func (p protoText) declare(line string, scope []string, comment string) []string {
	if block := blockLine.FindStringSubmatch(line); block != nil {
		if block[1] == "oneof" {
			return append(append([]string{}, scope...), "")
		}
		inner := append(append([]string{}, scope...), block[2])
		p.comments[name(inner)] = comment
		if strings.HasSuffix(line, ";") {
			return scope
		}
		return inner
	}
	switch {
	case strings.HasSuffix(line, "{"):
		return append(append([]string{}, scope...), "")
	case line == "}" || line == "};":
		return scope[:len(scope)-1]
	}
	for _, pattern := range []*regexp.Regexp{fieldLine, valueLine} {
		if found := pattern.FindStringSubmatch(line); found != nil {
			p.comments[name(append(append([]string{}, scope...), found[1]))] = comment
			return scope
		}
	}
	return scope
}

// name joins a scope; the names of a oneof and of option blocks are not part of it.
func name(scope []string) string {
	var parts []string
	for _, part := range scope {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ".")
}

// messageTables writes a section with a table for each message.
func messageTables(root string, names []string) (string, error) {
	text, err := readProto(root)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	described := map[protoreflect.Name]bool{} // enums that several messages use
	for i, n := range names {
		message := proxyv1alpha1.File_proxy_v1alpha1_proxy_proto.Messages().ByName(protoreflect.Name(n))
		if message == nil {
			return "", fmt.Errorf("the protocol has no message %s", n)
		}
		if i > 0 {
			out.WriteString("\n")
		}
		fmt.Fprintf(&out, "### %s\n", n)
		if comment := text.comments[n]; comment != "" {
			out.WriteString(comment + "\n")
		}
		out.WriteString("\n| field | type | meaning |\n| --- | --- | --- |\n")
		for f := range message.Fields().Len() {
			field := message.Fields().Get(f)
			comment := text.comments[n+"."+string(field.Name())]
			fmt.Fprintf(&out, "| `%s` | %s | %s |\n", field.Name(), protoType(field), cell(comment))
		}
		for e := range message.Enums().Len() {
			writeEnum(&out, text, message.Enums().Get(e))
		}
		for f := range message.Fields().Len() {
			if enum := message.Fields().Get(f).Enum(); enum != nil && enum.Parent() == message.Parent() && !described[enum.Name()] {
				described[enum.Name()] = true
				writeEnum(&out, text, enum)
			}
		}
	}
	return strings.TrimRight(out.String(), "\n"), nil
}

func writeEnum(out *strings.Builder, text protoText, enum protoreflect.EnumDescriptor) {
	fmt.Fprintf(out, "\n%s:\n", enum.Name())
	scope := string(enum.Name())
	if message, nested := enum.Parent().(protoreflect.MessageDescriptor); nested {
		scope = string(message.Name()) + "." + scope
	}
	for v := range enum.Values().Len() {
		value := enum.Values().Get(v)
		if comment := text.comments[scope+"."+string(value.Name())]; comment != "" {
			fmt.Fprintf(out, "- `%s`: %s\n", value.Name(), strings.TrimPrefix(comment, string(value.Name())+": "))
		}
	}
}

func protoType(field protoreflect.FieldDescriptor) string {
	if field.IsMap() {
		return "map of " + field.MapValue().Kind().String()
	}
	kind := field.Kind().String()
	switch {
	case field.Message() != nil:
		kind = string(field.Message().Name())
	case field.Enum() != nil:
		kind = string(field.Enum().Name())
	}
	if field.IsList() {
		return "list of " + kind
	}
	return kind
}

// callTable describes one call ("ConsumerService.Pull"): its two forms and its comment.
func callTable(root, call string) (string, error) {
	text, err := readProto(root)
	if err != nil {
		return "", err
	}
	service, method, _ := strings.Cut(call, ".")
	descriptor := proxyv1alpha1.File_proxy_v1alpha1_proxy_proto.Services().ByName(protoreflect.Name(service))
	if descriptor == nil || descriptor.Methods().ByName(protoreflect.Name(method)) == nil {
		return "", fmt.Errorf("the protocol has no call %s", call)
	}
	m := descriptor.Methods().ByName(protoreflect.Name(method))
	http := "gRPC only (a stream)"
	if post := text.posts[call]; post != "" {
		http = "`POST " + post + "`"
	}
	return fmt.Sprintf("%s\n\n| gRPC | HTTP/JSON | request | answer |\n| --- | --- | --- | --- |\n| `%s/%s` | %s | %s | %s |",
		text.comments[call], descriptor.FullName(), method, http, m.Input().Name(), m.Output().Name()), nil
}
