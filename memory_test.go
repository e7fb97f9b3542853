// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestMemoryIsGivenBackOnceAfterEachLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var allocated atomic.Uint64
		var times atomic.Int64
		r := rester{allocated: allocated.Load, giveBack: func() { times.Add(1) }}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Start(ctx) }()
		time.Sleep(restTick / 2) // between two looks, so that none falls on a change
		for i, step := range []struct {
			what  string
			grown uint64
			given int64
		}{
			{"quiet after the start", 1 << 20, 1},
			{"still quiet", 1 << 20, 1},
			{"a little work", restBytes + 1, 1},
			{"quiet, and no load before", 0, 1},
			{"a load", busyBytes, 1},
			{"the load goes on", 10 * busyBytes, 1},
			{"its end", restBytes + 1, 1},
			{"quiet", restBytes, 2},
			{"still quiet", 0, 2},
		} {
			allocated.Add(step.grown)
			time.Sleep(restTick)
			synctest.Wait()
			if given := times.Load(); given != step.given {
				t.Errorf("step %d, %s: memory was given back %d times, want %d", i, step.what, given, step.given)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestTheResterReadsTheRuntime(t *testing.T) {
	r := newRester()
	before := r.allocated()
	if before == 0 {
		t.Fatal("nothing was allocated, says the runtime")
	}
	kept := make([]byte, 1<<20)
	if grown := r.allocated() - before; grown < uint64(len(kept)) {
		t.Errorf("grown by %d, at least %d were allocated", grown, len(kept))
	}
}
