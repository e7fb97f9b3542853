// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestMemoryIsTakenUnderLoadAndGivenBackOnceAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var allocated, live atomic.Uint64
		var times, percent atomic.Int64
		m := heapKeeper{
			allocated: allocated.Load, live: live.Load, giveBack: func() { times.Add(1) },
			setPercent: func(p int) { percent.Store(int64(p)) },
		}
		live.Store(32 << 20) // loadHeap is three times as much
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- m.Start(ctx) }()
		time.Sleep(memoryTick / 2) // between two looks, so that none falls on a change
		for i, step := range []struct {
			what    string
			ticks   int
			grown   uint64 // in each tick
			given   int64
			percent int64
		}{
			{"quiet after the start", quietTicks - 1, 1 << 20, 0, 200},
			{"for long enough", 1, 1 << 20, 1, 200},
			{"still quiet", 2 * quietTicks, 1 << 20, 1, 200},
			{"a little work", quietTicks, quietBytes + 1, 1, 200},
			{"quiet, and no load before", quietTicks, 0, 1, 200},
			{"a load", 1, busyBytes, 1, 300},
			{"the load goes on", 3, 10 * busyBytes, 1, 300},
			{"its end", quietTicks - 1, quietBytes, 1, 300},
			{"not quite", 1, quietBytes + 1, 1, 300},
			{"quiet", quietTicks - 1, quietBytes, 1, 300},
			{"for long enough", 1, quietBytes, 2, 200},
			{"still quiet", 2 * quietTicks, 0, 2, 200},
		} {
			for range step.ticks {
				allocated.Add(step.grown)
				time.Sleep(memoryTick)
			}
			synctest.Wait()
			if given := times.Load(); given != step.given {
				t.Errorf("step %d, %s: memory was given back %d times, want %d", i, step.what, given, step.given)
			}
			if got := percent.Load(); got != step.percent {
				t.Errorf("step %d, %s: %d %%, want %d", i, step.what, got, step.percent)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestTheHeapMayGrowByAFixedAmountUnderLoad(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{
		{0, 400}, {1 << 20, 400}, {24 << 20, 400}, {32 << 20, 300}, {48 << 20, 200}, {1 << 30, 200},
	} {
		if got := percentUnderLoad(c.live); got != c.want {
			t.Errorf("%d MiB live: %d %%, want %d", c.live>>20, got, c.want)
		}
	}
}

func TestMemoryReadsTheRuntime(t *testing.T) {
	m := newHeapKeeper()
	before := m.allocated()
	if before == 0 {
		t.Fatal("nothing was allocated, says the runtime")
	}
	kept := make([]byte, 1<<20)
	if grown := m.allocated() - before; grown < uint64(len(kept)) {
		t.Errorf("grown by %d, at least %d were allocated", grown, len(kept))
	}
	runtime.GC()
	if live := m.live(); live < uint64(len(kept)) {
		t.Errorf("%d bytes live, at least %d are", live, len(kept))
	}
	runtime.KeepAlive(kept)
}

func TestAGCPercentageThatSomebodyChoseIsKept(t *testing.T) {
	t.Setenv("GOGC", "50")
	if newHeapKeeper().setPercent != nil {
		t.Error("GOGC is set, and the percentage is changed all the same")
	}
}
