// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"math/rand/v2"
	"time"
)

const (
	firstBackoff = time.Second
	maxBackoff   = time.Minute
)

// backoff is the wait after so many failures in a row: doubling from 1 s to 60 s, spread from half to one and a half of that, so that
// the clients of a broker that comes back do not come together; never outside of 1 s .. 60 s.
func backoff(failures int) time.Duration {
	d := maxBackoff
	if shift := failures - 1; shift < 6 {
		d = firstBackoff << max(shift, 0)
	}
	low, high := max(d/2, firstBackoff), min(d+d/2, maxBackoff)
	return low + rand.N(high-low+1)
}
