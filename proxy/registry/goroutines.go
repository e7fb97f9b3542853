// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"runtime/pprof"
	"strconv"
	"strings"
)

// stray is a goroutine of a client, by the client's id and the function that the goroutine was started with.
type stray struct {
	client   string
	function string
}

// readStrays counts the goroutines of this process that carry the label of a client of this incarnation, without those that a driver expects
// its library to leave behind.
func readStrays(incarnation string, opener Opener) map[stray]int {
	expected := func([]string) bool { return false }
	if explainer, ok := opener.(LeftoverExplainer); ok {
		expected = explainer.ExpectsLeftover
	}
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		panic("registry: write the goroutine profile to memory: " + err.Error())
	}
	all := parseGoroutines(&profile, expected)
	mine := "_" + incarnation + "_"
	for s := range all {
		if !strings.Contains(s.client, mine) {
			delete(all, s)
		}
	}
	return all
}

// parseGoroutines reads the text form of the goroutine profile: blocks of "<count> @ <addresses>", an optional "# labels: {json}" and a
// line for each frame, "#\t<address>\t<function>+<offset>\t<file>:<line>", innermost first.
func parseGoroutines(profile io.Reader, expected func(stack []string) bool) map[stray]int {
	found := map[stray]int{}
	var count int
	var block stray
	var stack []string
	end := func() {
		if block.client != "" && !expected(stack) {
			found[block] += count
		}
		count, block, stack = 0, stray{}, nil
	}
	lines := bufio.NewScanner(profile)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "":
			end()
		case strings.HasPrefix(line, "# labels: "):
			block.client = labelOf(strings.TrimPrefix(line, "# labels: "))
		case strings.HasPrefix(line, "#"):
			if function := functionOf(line); function != "" {
				block.function, stack = function, append(stack, function)
			}
		case strings.Contains(line, " @ "):
			count, _ = strconv.Atoi(line[:strings.Index(line, " @ ")]) // not a number: counts 0
		}
	}
	end()
	return found
}

// labelOf reads the client's label. The runtime writes the labels like JSON.
func labelOf(text string) string {
	var labels map[string]string
	if json.Unmarshal([]byte(text), &labels) != nil {
		return "" // somebody else's label with characters that JSON does not have; ours has none
	}
	return labels[clientLabel]
}

// functionOf reads the function of a frame, without the offset; the last one of a block is where the goroutine began.
func functionOf(line string) string {
	fields := strings.Split(line, "\t")
	if len(fields) < 3 {
		return ""
	}
	name := strings.TrimSpace(fields[2])
	if i := strings.LastIndex(name, "+0x"); i > 0 {
		name = name[:i]
	}
	return name
}
