// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"sync/atomic"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
)

// failureLog writes failures of calls at a bounded rate: a caller in a tight loop must not fill the disk. What was left out is counted and told with
// the next line.
type failureLog struct {
	out     logr.Logger
	limit   *rate.Limiter
	skipped atomic.Int64
}

const (
	failureLinesPerSecond = 10
	failureLinesBurst     = 50
)

func newFailureLog(out logr.Logger) *failureLog {
	return &failureLog{out: out, limit: rate.NewLimiter(failureLinesPerSecond, failureLinesBurst)}
}

// log takes a constant message and key/value pairs without secrets or bodies.
func (f *failureLog) log(message string, pairs ...any) {
	if !f.limit.Allow() {
		f.skipped.Add(1)
		return
	}
	if n := f.skipped.Swap(0); n > 0 {
		pairs = append(pairs, "skippedLines", n)
	}
	f.out.Info(message, pairs...)
}
