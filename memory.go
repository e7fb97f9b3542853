// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// memoryTick is how often the host looks what it allocates.
	memoryTick = time.Second
	// busyBytes allocated in a tick are a load, quietBytes are none. In between nothing is done: a collection would cost more than it gives.
	busyBytes  = 16 << 20
	quietBytes = 2 << 20
	// quietTicks without a load end one.
	quietTicks = 5
	// restPercent is the GC percentage of a host at rest: what is live is little (tens of MiB) and turned over fast, and at the runtime's 100 the
	// collector takes 10 to 17 % of the CPU under load.
	restPercent = 200
	// loadHeap is how far the heap may grow beyond what is live between two collections under load, up to mostPercent and at least by restPercent.
	loadHeap    = 96 << 20
	mostPercent = 400
)

// heapKeeper trades memory for CPU while the host is under load, and gives it back soon after the load's end. Left to itself the Go runtime collects a quiet
// process every two minutes and returns what it does not need little by little, so that a host would look as large as its last load for a long time. A
// memory limit (GOMEMLIMIT) goes before all this: near it the runtime collects as often as it must. Its functions are fields for tests.
type heapKeeper struct {
	// allocated is how many bytes this process has allocated in all, live how many the last collection left.
	allocated, live func() uint64
	// setPercent sets the GC percentage; nil = somebody else has chosen it (GOGC).
	setPercent func(int)
	// giveBack collects and returns memory; it takes some 10 ms.
	giveBack func()
}

func newHeapKeeper() heapKeeper {
	m := heapKeeper{allocated: runtimeBytes("/gc/heap/allocs:bytes"), live: runtimeBytes("/gc/heap/live:bytes"), giveBack: debug.FreeOSMemory}
	if _, chosen := os.LookupEnv("GOGC"); !chosen {
		m.setPercent = func(percent int) { debug.SetGCPercent(percent) }
	}
	return m
}

// runtimeBytes reads one of the runtime's metrics; the function that it returns is for one goroutine.
func runtimeBytes(name string) func() uint64 {
	sample := []metrics.Sample{{Name: name}}
	return func() uint64 {
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
}

// Start runs until ctx ends. It is a manager.Runnable: the manager joins it.
func (m heapKeeper) Start(ctx context.Context) error {
	ticker := time.NewTicker(memoryTick)
	defer ticker.Stop()
	m.percent(restPercent)
	before, busy, quiet := m.allocated(), true, 0 // the start is a load
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := m.allocated()
		switch grown := now - before; {
		case grown >= busyBytes:
			busy, quiet = true, 0
			m.percent(percentUnderLoad(m.live()))
		case grown > quietBytes:
			quiet = 0
		default:
			if quiet++; busy && quiet == quietTicks {
				m.percent(restPercent)
				m.giveBack()
				busy = false
			}
		}
		before = now
	}
}

func (m heapKeeper) percent(percent int) {
	if m.setPercent != nil {
		m.setPercent(percent)
	}
}

// percentUnderLoad lets the heap grow by loadHeap beyond live bytes, or by restPercent of them when that is more.
func percentUnderLoad(live uint64) int {
	if live == 0 {
		return mostPercent
	}
	return int(min(max(loadHeap*100/live, restPercent), mostPercent))
}
