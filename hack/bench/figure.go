// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"
)

// figure is what one contender did in one window.
type figure struct {
	// Rate is messages per second.
	Rate float64 `json:"rate"`
	// P50 and P99 of a call, in milliseconds; 0 where calls are not timed.
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	// CPU is microseconds of CPU per message of the process under test, Broker that of the broker, Load that of the load generator where it is a
	// process of its own.
	CPU    float64 `json:"cpu"`
	Broker float64 `json:"broker"`
	Load   float64 `json:"load"`
}

// call does one call and answers how many messages it carried.
type call func(context.Context) (int, error)

// warm calls for a second, so that connections, pools and the broker's JIT are ready.
func warm(ctx context.Context, callers int, do call) error {
	_, err := drive(ctx, callers, time.Second, parties{tested: os.Getpid()}, do)
	return err
}

// drive runs do from callers goroutines for window and measures.
func drive(ctx context.Context, callers int, window time.Duration, who parties, do call) (figure, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	before, err := who.costs()
	if err != nil {
		return figure{}, err
	}
	began := time.Now()
	took := make([][]time.Duration, callers)
	messages := make([]int, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for time.Since(began) < window && ctx.Err() == nil {
				start := time.Now()
				n, err := do(ctx)
				if err != nil {
					cancel(err)
					return
				}
				took[i] = append(took[i], time.Since(start))
				messages[i] += n
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(began)
	if ctx.Err() != nil {
		return figure{}, context.Cause(ctx)
	}
	after, err := who.costs()
	if err != nil {
		return figure{}, err
	}
	all, total := slices.Concat(took...), 0
	for _, n := range messages {
		total += n
	}
	if total == 0 {
		return figure{}, errors.New("no call came to an end")
	}
	slices.Sort(all)
	f := figure{Rate: float64(total) / elapsed.Seconds(), P50: milliseconds(all[len(all)/2]), P99: milliseconds(all[len(all)*99/100])}
	f.charge(before, after, float64(total))
	return f, nil
}

// watch measures what count gains in a window.
func watch(ctx context.Context, window time.Duration, who parties, count func() int64) (figure, error) {
	before, err := who.costs()
	if err != nil {
		return figure{}, err
	}
	began, start := time.Now(), count()
	select {
	case <-ctx.Done():
		return figure{}, ctx.Err()
	case <-time.After(window):
	}
	n, elapsed := count()-start, time.Since(began)
	after, err := who.costs()
	if err != nil {
		return figure{}, err
	}
	if n == 0 {
		return figure{}, errors.New("nothing came in the window")
	}
	f := figure{Rate: float64(n) / elapsed.Seconds()}
	f.charge(before, after, float64(n))
	return f, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// median of each value on its own.
func median(figures []figure) figure {
	pick := func(value func(figure) float64) float64 {
		values := make([]float64, len(figures))
		for i, f := range figures {
			values[i] = value(f)
		}
		return middle(values)
	}
	return figure{
		Rate: pick(func(f figure) float64 { return f.Rate }), CPU: pick(func(f figure) float64 { return f.CPU }),
		Broker: pick(func(f figure) float64 { return f.Broker }), Load: pick(func(f figure) float64 { return f.Load }),
		P50: pick(func(f figure) float64 { return f.P50 }), P99: pick(func(f figure) float64 { return f.P99 }),
	}
}
