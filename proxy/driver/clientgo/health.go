// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

const (
	// checkEvery is how often a running client's names, addresses and credentials are looked at; checkAgain applies while something is wrong.
	checkEvery = 30 * time.Second
	checkAgain = 5 * time.Second
	checkLimit = 15 * time.Second
)

// health is what Err answers: the last check's finding, and what calls ran into since.
type health struct {
	fault atomic.Pointer[error]
}

func (h *health) err() error {
	if err := h.fault.Load(); err != nil {
		return *err
	}
	return nil
}

// note takes the outcome of a call or a check. Only faults of the connection or the credentials are kept, not a time-out, which may be the
// caller's impatience; any success ends them.
func (h *health) note(err error) {
	if err == nil {
		if h.fault.Load() != nil {
			h.fault.Store(nil)
		}
		return
	}
	switch driver.ReasonOf(err) {
	case driver.Unavailable, driver.Unauthorized, driver.AddressRefused, driver.TopicNotFound, driver.InvalidFilter:
		h.fault.Store(&err)
	default:
	}
}

// watch checks until life ends. The library reports none of this: lost name servers, credentials taken away and new broker addresses are only
// in its log.
func (h *health) watch(life context.Context, check func(context.Context) error) {
	timer := time.NewTimer(checkEvery)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-life.Done():
			return
		}
		ctx, cancel := context.WithTimeout(life, checkLimit)
		err := check(ctx)
		cancel()
		if life.Err() != nil {
			return
		}
		if err != nil && driver.ReasonOf(err) == driver.Timeout {
			err = driver.Errorf(driver.Unavailable, "", "no answer within %v: %w", checkLimit, err)
		}
		h.note(err)
		next := checkEvery
		if err != nil {
			next = checkAgain
		}
		timer.Reset(next)
	}
}
