// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// The calls into the driver, in one place: none of them happens under a lock, and a panic of the driver (or of the library behind it)
// becomes an error of that call. It is counted and logged with its stack; the other Consumers of the process live on.

func (w *Window) guard(call string, err *error) {
	p := recover()
	if p == nil {
		return
	}
	*err = driver.Errorf(driver.Unavailable, "", "the driver panicked in %s: %v", call, p)
	w.log.Error(*err, "driver panicked", "call", call, "stack", string(debug.Stack()))
	w.obs.DriverPanicked(call)
}

func (w *Window) callFetch(ctx context.Context, req driver.FetchRequest) (msgs []*driver.Received, err error) {
	defer w.guard("Fetch", &err)
	return w.consumer.Fetch(ctx, req)
}

func (w *Window) callAck(ctx context.Context, handles []driver.Handle) []error {
	return w.callEach("Ack", handles, func() []error { return w.consumer.Ack(ctx, handles) })
}

func (w *Window) callGiveBack(ctx context.Context, handles []driver.Handle) []error {
	return w.callEach("GiveBack", handles, func() []error { return w.consumer.GiveBack(ctx, handles) })
}

// callEach makes sure that there is one answer per handle.
func (w *Window) callEach(name string, handles []driver.Handle, call func() []error) []error {
	errs, err := w.guarded(name, call)
	if err == nil && len(errs) == len(handles) {
		return errs
	}
	if err == nil {
		err = driver.Errorf(driver.Unavailable, "", "the driver answered %d errors for %d handles in %s", len(errs), len(handles), name)
		w.log.Error(err, "driver broke its contract")
	}
	errs = make([]error, len(handles))
	for i := range errs {
		errs[i] = err
	}
	return errs
}

func (w *Window) guarded(name string, call func() []error) (errs []error, err error) {
	defer w.guard(name, &err)
	return call(), nil
}

func (w *Window) callNack(ctx context.Context, h driver.Handle, delay time.Duration) (effective time.Duration, err error) {
	defer w.guard("Nack", &err)
	return w.consumer.Nack(ctx, h, delay)
}

func (w *Window) callExtend(ctx context.Context, h driver.Handle, lease time.Duration) (renewed driver.Handle, deadline time.Time, err error) {
	defer w.guard("Extend", &err)
	return w.consumer.Extend(ctx, h, lease)
}

func (w *Window) callDeadLetter(ctx context.Context, m *driver.Received, reason string) (err error) {
	defer w.guard("DeadLetter", &err)
	return w.consumer.DeadLetter(ctx, m, reason)
}
