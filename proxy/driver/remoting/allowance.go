// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"runtime"

	"golang.org/x/sync/semaphore"
)

// What one producer may have of what all share. Beyond it the producer's own sends wait for each other.
const (
	// airBytes is how many bytes one producer may have on their way to brokers. All objects of a cluster share one connection to each broker, in which
	// what comes later waits for what is before it: with eight requests of 1 MiB in the air the others' messages waited 0.3 s for them.
	airBytes = 2 << 20
	// largeBody: messages with so many bytes to compress, milliseconds of a core, wait for a core of those that one producer may have.
	largeBody = 128 << 10
)

// allowance is what one producer may use of the connection and of the processor. Waiting is first come, first served.
type allowance struct {
	air, cores *semaphore.Weighted
}

func newAllowance() allowance {
	return allowance{air: semaphore.NewWeighted(airBytes), cores: semaphore.NewWeighted(max(1, int64(runtime.GOMAXPROCS(0))/2))}
}

// board waits for room on the connection; see airBytes.
func (p *producer) board(ctx context.Context, r request) (leave func(), err error) {
	size := 0
	for i := range r.messages {
		size += r.messages[i].Bytes()
	}
	leave, ok := p.gate.Take(ctx, p.allowed.air, min(int64(size), airBytes))
	if !ok {
		return nil, p.ended(ctx, nil)
	}
	return leave, nil
}

// pack makes requests of entries; see pack. What takes long to compress waits for a core.
func (p *producer) pack(ctx context.Context, entries []entry) ([]request, error) {
	large := 0
	for _, e := range entries {
		if n := len(e.message.Body); p.cfg.CompressAbove > 0 && n > p.cfg.CompressAbove {
			large += n
		}
	}
	if large >= largeBody {
		giveBack, ok := p.gate.Take(ctx, p.allowed.cores, 1)
		if !ok {
			return nil, p.ended(ctx, nil)
		}
		defer giveBack()
	}
	return pack(entries, p.cfg.CompressAbove), nil
}
