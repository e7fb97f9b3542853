// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// restTick is how often the host looks whether a load has ended.
	restTick = 5 * time.Second
	// busyBytes allocated in a tick are a load, restBytes are none. In between nothing is done: a collection would cost more than it gives.
	busyBytes = 64 << 20
	restBytes = 8 << 20
)

// rester gives the memory of a load back to the system soon after its end. Left to itself the Go runtime collects a quiet process every two minutes and
// returns what it does not need little by little, so that a host would look as large as its last load for a long time. Its functions are fields for tests.
type rester struct {
	// allocated is how many bytes this process has allocated in all.
	allocated func() uint64
	// giveBack collects and returns memory; it takes some 10 ms.
	giveBack func()
}

func newRester() rester {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	return rester{
		allocated: func() uint64 {
			metrics.Read(sample)
			return sample[0].Value.Uint64()
		},
		giveBack: debug.FreeOSMemory,
	}
}

// Start runs until ctx ends. It is a manager.Runnable: the manager joins it.
func (r rester) Start(ctx context.Context) error {
	ticker := time.NewTicker(restTick)
	defer ticker.Stop()
	before, busy := r.allocated(), true // the start is a load
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := r.allocated()
		switch grown := now - before; {
		case grown >= busyBytes:
			busy = true
		case busy && grown <= restBytes:
			r.giveBack()
			busy = false
		}
		before = now
	}
}
