// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	_ "embed"
	"fmt"
	"runtime"
	"strings"
	"time"
)

// render makes the markdown of docs/benchmarks.md.
func (b *bench) render(r results, once onceFigures) string {
	var out strings.Builder
	fmt.Fprintf(&out, "# Benchmarks\n\nWritten by `make bench` on %s: RocketMQ 5.5.0, %d cores, %s, 1 KiB bodies, %s, median of %d interleaved rounds of %s after one that is not counted.\n"+
		"Load generator, broker and contender share the cores: only ratios can be compared; those of the aims are the median of each round's.\n\n",
		time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), transport(b.tls), b.rounds, b.window)
	out.WriteString(figuresTable(r))
	out.WriteString("\nraw client = rocketmq-client-go used directly, CPU of that process; protocol alone = our client for RocketMQ's protocol, used directly; grpc-go echo = " +
		"a bare server with the same requests, deadlines, answers and frames; " +
		"least proxy = gRPC, the protocol and gathering what waits, and nothing else: what such a proxy can reach here at all; " +
		"Java proxy = RocketMQ's own, 5.5.0, with its own SDK, rocketmq-client-java 5.2.0, " +
		"64 threads that send and 32 that receive; sends use one connection, the four streams one each; CPU of the proxy is the operator's process; broker and load are the CPU of the broker and of the load generator, where it is a process of its own, for the same message, all in microseconds. End to end is the time from sender to receiver, one process being both.\n")
	for _, driver := range b.drivers {
		fmt.Fprintf(&out, "\n## Aims of driver %s\n\n%s", driver, aimsTable(aims(driver, r, once)))
	}
	out.WriteString("\n## Resident memory, MiB\n\n" + b.memoryTable(once))
	out.WriteString("\n" + notes)
	return out.String()
}

// memoryTable has what was taken once of memory.
func (b *bench) memoryTable(once onceFigures) string {
	var out strings.Builder
	out.WriteString("| process | after its start | with 100 Producers and 100 Consumers | at the end of a load | 15 s later |\n| --- | ---: | ---: | ---: | ---: |\n")
	for _, driver := range b.drivers {
		m := once.memory[driver]
		fmt.Fprintf(&out, "| %s | %.1f | %.1f | %.1f | %.1f |\n", names[driver], m.idle, m.declared, m.loaded, m.rested)
	}
	fmt.Fprintf(&out, "| Java proxy, heap of 512 MiB to 1 GiB | | | | %.1f |\n", once.java)
	return out.String()
}

// notes say where the rest goes. They are written by hand, after a look at profiles (--profile).
//
//go:embed notes.md
var notes string

func transport(tls bool) string {
	if tls {
		return "TLS and bearer tokens on both Go gRPC servers"
	}
	return "no TLS on any connection, bearer tokens on both Go gRPC servers"
}

func medianOf(r results) map[string]map[string]figure {
	m := map[string]map[string]figure{}
	for row, of := range r {
		m[row] = map[string]figure{}
		for who, figures := range of {
			m[row][who] = median(figures)
		}
	}
	return m
}

// figuresTable has the medians of what ran.
func figuresTable(r results) string {
	if len(r) == 0 {
		return ""
	}
	var out strings.Builder
	out.WriteString("| what | who | msgs/s | p50 ms | p99 ms | CPU us/msg | broker | load |\n| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	m := medianOf(r)
	for _, row := range allRows {
		for _, who := range append([]string{whoRaw, whoDirect, whoEcho, whoLeast, whoJava}, allDrivers...) {
			if f, ok := m[row][who]; ok {
				fmt.Fprintf(&out, "| %s | %s | %.0f | %s | %s | %.1f | %s | %s |\n",
					row, names[who], f.Rate, blankZero(f.P50), blankZero(f.P99), f.CPU, blankZero(f.Broker), blankZero(f.Load))
			}
		}
	}
	return out.String()
}

func blankZero(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", v)
}

func aimsTable(all []aim) string {
	var out strings.Builder
	out.WriteString("| aim | measured | limit | | margin |\n| --- | ---: | ---: | --- | ---: |\n")
	for _, a := range all {
		sign := "<="
		if a.least {
			sign = ">="
		}
		fmt.Fprintf(&out, "| %s | %.2f%s | %s %.2f%s | %s | %+.0f %% |\n", a.what, a.value, a.unit, sign, a.limit, a.unit, a.verdict(), a.margin())
	}
	return out.String()
}
