// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"bufio"
	"bytes"
	"encoding/json"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
)

// leftoverNames names the library's goroutines by a function on their stack, the first that fits. TestLeftoversHaveNames keeps them true.
var leftoverNames = []struct{ function, name string }{
	{"consumer.(*statsItemSet).init", "statistics"},                   // until the next minute, hour and month (upstream #1147)
	{"consumer.(*pushConsumer).Start", "cleanExpiredMsg"},             // for ConsumeTimeout
	{"consumer.(*pushConsumer).pullMessage", "pull"},                  // a poll under way: up to 30 s
	{"consumer.(*pushConsumer).consumeMessage", "callback"},           // on its way out
	{"internal.(*rmqClient).Start", "timer"},                          // its first sleep: up to 10 s
	{"remote.(*remotingClient).receiveResponse", "connection"},        // a connection that closing missed: up to libraryRead
	{"internal.(*rmqClient).RebalanceImmediately", "rebalance"},       // under way
	{"internal.(*rmqClient).RebalanceIfNotPaused", "rebalance"},       // under way
	{"remote.(*remotingClient).processCMD", "broker request"},         // under way
	{"clientgo.(*producer).try", "send"},                              // a connection attempt under way
	{"clientgo.call", "start"},                                        // a Start that nobody waits for any more
	{"clientgo.(*leases)", "lease table"},                             // ours; never expected
	{"apache/rocketmq-client-go/v2/", "other library goroutine"},      // never expected
	{"github.com/rocketmq-proxy-operator/", "other driver goroutine"}, // never expected
}

// lasting are the names of what may be there for longer than the time between two audits. Everything else ends within half a minute; whoever
// meets it after that has met a leak.
var lasting = []string{"statistics", "cleanExpiredMsg", "connection"}

// ExpectsLeftover reports whether a goroutine of a closed client with this stack (functions, innermost first) is one that the library is
// known to leave behind for long. It implements registry.LeftoverExplainer.
func (d *Driver) ExpectsLeftover(stack []string) bool {
	return slices.Contains(lasting, (&goroutines{stack: stack}).name())
}

// countLeftovers counts by name the goroutines that carry the label of a client that is closed.
func (d *Driver) countLeftovers() map[string]int {
	counts := make(map[string]int)
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		d.driverLog("The goroutine profile cannot be read", err)
		return counts
	}
	groups := parseProfile(profile.Bytes())
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, g := range groups {
		if _, live := d.live[g.label]; !live && strings.HasPrefix(g.label, d.mark) {
			counts[g.name()] += g.count
		}
	}
	return counts
}

func (d *Driver) driverLog(msg string, err error) {
	d.log.V(verboseError).Info(msg, "reason", err.Error())
}

// goroutines are those of one stack and one set of labels.
type goroutines struct {
	count int
	label string // of this driver; "" = none
	stack []string
}

func (g *goroutines) name() string {
	for _, n := range leftoverNames {
		for _, function := range g.stack {
			if strings.Contains(function, n.function) {
				return n.name
			}
		}
	}
	return "unknown"
}

// parseProfile reads runtime/pprof's text form (debug=1):
//
//	3 @ 0x47e1 0x1a2b
//	# labels: {"rocketmq_client":"a#1"}
//	#	0x47e0	time.Sleep+0x12	/path/file.go:12
func parseProfile(text []byte) []goroutines {
	var all []goroutines
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if count, _, ok := strings.Cut(line, " @ "); ok && !strings.HasPrefix(line, "#") {
			if n, err := strconv.Atoi(count); err == nil {
				all = append(all, goroutines{count: n})
			}
			continue
		}
		if len(all) == 0 {
			continue
		}
		last := &all[len(all)-1]
		if labels, ok := strings.CutPrefix(line, "# labels: "); ok {
			var set map[string]string
			if json.Unmarshal([]byte(labels), &set) == nil {
				last.label = set[labelKey]
			}
		} else if fields := strings.Split(line, "\t"); len(fields) >= 3 && fields[0] == "#" {
			last.stack = append(last.stack, fields[2])
		}
	}
	return all
}
