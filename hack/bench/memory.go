// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

// loadedObjects is how many of the 100 Producers carry the load after which memory is read.
const loadedObjects = 10

// onceFigures are taken once, after the rounds.
type onceFigures struct {
	memory   map[string]memory // by driver
	java     float64           // resident MiB of the Java proxy after the rounds
	readyP50 time.Duration
}

// memory of a fresh operator in MiB: without objects, restAfter 100 Producers and 100 Consumers are ready, at the end of a load on some of them, and
// restAfter that.
type memory struct{ idle, declared, loaded, rested float64 }

// restAfter is longer than the operator takes to give a load's memory back.
const restAfter = 15 * time.Second

// measureOnce reads the operator's memory per driver and apply -> Ready on the memory driver.
func (b *bench) measureOnce(ctx context.Context) (onceFigures, error) {
	f := onceFigures{memory: map[string]memory{}}
	var err error
	if b.java != nil {
		if f.java, err = residentMiB(b.broker.JavaProxyPID()); err != nil {
			return f, err
		}
	}
	if err := b.broker.CreateTopic(ctx, "four", 4, nil); err != nil {
		return f, err
	}
	for _, driver := range b.drivers {
		if f.memory[driver], err = b.memoryOf(ctx, driver); err != nil {
			return f, fmt.Errorf("memory with driver %s: %w", driver, err)
		}
	}
	if err := b.operator.Stop(); err != nil {
		return f, err
	}
	f.readyP50, err = b.applyToReady(ctx)
	return f, err
}

// memoryOf restarts the operator without objects and declares 100 Producers and 100 Consumers on a topic of 4 queues.
func (b *bench) memoryOf(ctx context.Context, driver string) (m memory, err error) {
	say("100 Producers and 100 Consumers on %s: resident memory", driver)
	if err := b.remove(ctx, "rmqp,rmqc", "--all"); err != nil {
		return m, err
	}
	if err := b.operator.Stop(); err != nil {
		return m, err
	}
	o := b.operatorOptions()
	o.Ports = b.operator.Ports
	if b.operator, err = b.control.StartOperator(ctx, o); err != nil {
		return m, err
	}
	b.stops = append(b.stops, b.operator.Stop)
	if m.idle, err = residentMiB(b.operator.PID()); err != nil {
		return m, err
	}
	if err := b.declare(ctx, driver, 100); err != nil {
		return m, err
	}
	if m.declared, err = b.restedMiB(ctx); err != nil {
		return m, err
	}
	if err := b.loadSome(ctx); err != nil {
		return m, err
	}
	if m.loaded, err = residentMiB(b.operator.PID()); err != nil {
		return m, err
	}
	if m.rested, err = b.restedMiB(ctx); err != nil {
		return m, err
	}
	return m, b.remove(ctx, "rmqp,rmqc", "--all")
}

// restedMiB is the operator's resident memory when it has come to rest.
func (b *bench) restedMiB(ctx context.Context) (float64, error) {
	select {
	case <-time.After(restAfter):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return residentMiB(b.operator.PID())
}

// declare makes n Producers p0... and n Consumers c0... and waits until all are Ready.
func (b *bench) declare(ctx context.Context, driver string, n int) error {
	var all strings.Builder
	for i := range n {
		all.WriteString(manifest("Producer", fmt.Sprintf("p%d", i), "driver: "+driver, "topics: [four]"))
		all.WriteString(manifest("Consumer", fmt.Sprintf("c%d", i), "driver: "+driver, fmt.Sprintf("group: g_%s_c%d", driver, i), "subscriptions: [{topic: four}]", "startFrom: Earliest"))
	}
	if err := b.control.Apply(ctx, all.String()); err != nil {
		return err
	}
	return b.control.Kubectl(ctx, io.Discard, "wait", "-n", namespace, "--for=condition=Ready", "--timeout=180s", "--all", "rmqp,rmqc")
}

// loadSome puts the load of the rows on some of the objects: single messages, batches, receivers.
func (b *bench) loadSome(ctx context.Context) error {
	var producers, consumers []string
	for i := range loadedObjects {
		producers = append(producers, fmt.Sprintf("p%d", i))
		consumers = append(consumers, fmt.Sprintf("c%d", i))
	}
	if _, err := b.send(ctx, b.proxy(), 64, sendRequests(1, "four", producers...)); err != nil {
		return err
	}
	if _, err := b.send(ctx, b.proxy(), 16, sendRequests(32, "four", producers...)); err != nil {
		return err
	}
	_, err := b.receive(ctx, b.proxy(), consumers...)
	return err
}

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
