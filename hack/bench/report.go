// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

const (
	rowUnary   = "Send, 64 callers"
	rowBatch   = "Send of 32 messages, 16 callers"
	rowSingle  = "Send, 1 caller"
	rowReceive = "Receive + ack, 4 streams"
)

// residentMiB is a process's resident memory.
func residentMiB(pid int) (float64, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(content))
	if len(fields) < 2 {
		return 0, fmt.Errorf("statm of %d has no second field", pid)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return float64(pages) * float64(os.Getpagesize()) / (1 << 20), err
}

// applyToReady starts the operator with the memory driver and measures, for 21 Producers one after the other, the time from the answer of
// the API server to the create until the Ready condition is true: one watch, no polling.
func (b *bench) applyToReady(ctx context.Context) (time.Duration, error) {
	say("apply -> Ready on the memory driver")
	op, err := b.control.StartOperator(ctx, localenv.OperatorOptions{HostID: "bench-memory"})
	if err != nil {
		return 0, err
	}
	b.stops = append(b.stops, op.Stop)
	took := make([]time.Duration, 21)
	for i := range took {
		if took[i], err = b.oneReady(ctx, fmt.Sprintf("ready%d", i)); err != nil {
			return 0, err
		}
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// oneReady reads both times from the object itself: its managed fields and condition have only seconds, so the watch's clock counts.
func (b *bench) oneReady(ctx context.Context, name string) (time.Duration, error) {
	reader, writer := io.Pipe()
	defer func() { _ = reader.Close() }()
	watchCtx, stop := context.WithCancel(ctx)
	defer stop()
	go func() { // ends with the watch: stop cancels it
		_ = writer.CloseWithError(b.control.Kubectl(watchCtx, writer, "get", "-n", namespace, "rmqp", "--field-selector=metadata.name="+name, "-o", "json", "--watch"))
	}()
	if err := b.control.Apply(ctx, manifest("Producer", name, "topics: [t]")); err != nil {
		return 0, err
	}
	var created time.Time
	for decoder := json.NewDecoder(reader); ; {
		var object struct {
			Status struct {
				Conditions []struct{ Type, Status string }
			}
		}
		if err := decoder.Decode(&object); err != nil {
			return 0, fmt.Errorf("watch %s: %w", name, err)
		}
		if created.IsZero() {
			created = time.Now()
		}
		for _, condition := range object.Status.Conditions {
			if condition.Type == "Ready" && condition.Status == "True" {
				return time.Since(created), nil
			}
		}
	}
}

// aim is one of the ratios that the project promised itself.
type aim struct {
	what  string
	value float64
	limit float64
	least bool // limit is the least; else the most
	unit  string
}

func (a aim) verdict() string {
	if a.least && a.value >= a.limit || !a.least && a.value <= a.limit {
		return "met"
	}
	return "MISSED"
}

// render makes the markdown of docs/benchmarks.md.
func render(b *bench, figures map[string]map[string][]figure, once onceFigures) string {
	var out strings.Builder
	fmt.Fprintf(&out, "# Benchmarks\n\nWritten by `make bench` on %s: RocketMQ 5.5.0, %d cores, %s, 1 KiB bodies, %s, median of %d interleaved rounds of %s.\n"+
		"Load generator, broker and contender share the cores: only ratios of one run can be compared.\n\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), transport(b.tls), b.rounds, b.window)
	out.WriteString("| what | who | msgs/s | p50 ms | p99 ms | CPU us/msg |\n| --- | --- | ---: | ---: | ---: | ---: |\n")
	m := map[string]map[string]figure{}
	for _, row := range []string{rowUnary, rowBatch, rowSingle, rowReceive} {
		m[row] = map[string]figure{}
		for _, who := range []string{"raw", "echo", "proxy"} {
			f := median(figures[row][who])
			m[row][who] = f
			fmt.Fprintf(&out, "| %s | %s | %.0f | %s | %s | %.1f |\n", row, names[who], f.Rate, blankZero(f.P50), blankZero(f.P99), f.CPU)
		}
	}
	out.WriteString("\nraw = rocketmq-client-go used directly (CPU of that process); echo = a bare grpc-go server with the same requests and answers; CPU of the proxy is the operator's process.\n\n")
	out.WriteString("| aim | measured | limit | |\n| --- | ---: | ---: | --- |\n")
	for _, a := range aims(m, once) {
		sign := "<="
		if a.least {
			sign = ">="
		}
		fmt.Fprintf(&out, "| %s | %.2f%s | %s %.2f%s | %s |\n", a.what, a.value, a.unit, sign, a.limit, a.unit, a.verdict())
	}
	fmt.Fprintf(&out, "\nResident memory of the operator right after its start, without objects: %.1f MiB.\n", once.idleMiB)
	return out.String()
}

func transport(tls bool) string {
	if tls {
		return "TLS and bearer tokens on both gRPC servers"
	}
	return "no TLS on any connection, bearer tokens on both gRPC servers"
}

var names = map[string]string{"raw": "raw client", "echo": "grpc-go echo", "proxy": "proxy"}

func blankZero(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", v)
}

func aims(m map[string]map[string]figure, once onceFigures) []aim {
	unary, batch, single, receive := m[rowUnary], m[rowBatch], m[rowSingle], m[rowReceive]
	return []aim{
		{what: "unary Send with 64 callers: proxy / raw SendSync", value: unary["proxy"].Rate / unary["raw"].Rate, limit: 1, least: true},
		{what: "unary Send with 64 callers: CPU a message, proxy / echo", value: unary["proxy"].CPU / unary["echo"].CPU, limit: 2},
		{what: "32 messages per Send, 16 callers: proxy / raw batches", value: batch["proxy"].Rate / batch["raw"].Rate, limit: 0.6, least: true},
		{what: "Receive + ack by stream: proxy / raw push consumer", value: receive["proxy"].Rate / receive["raw"].Rate, limit: 0.3, least: true},
		{what: "one caller's p50 against raw p50 + 2 x echo p50", value: single["proxy"].P50, limit: single["raw"].P50 + 2*single["echo"].P50, unit: " ms"},
		{what: "resident memory with 100 Producers and 100 Consumers", value: once.loadedMiB, limit: 120, unit: " MiB"},
		{what: "apply -> Ready, p50, memory driver", value: float64(once.readyP50.Milliseconds()), limit: 250, unit: " ms"},
	}
}
