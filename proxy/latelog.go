// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"slices"

	"github.com/go-logr/logr"
)

// lateValues is a log sink that renders its key/value pairs when a line is written and not when they are given. Each client has a logger that
// names it, most clients never log, and a rendered logger of zap keeps some KiB for as long as the client lives.
type lateValues struct {
	sink   logr.LogSink
	values []any
}

// logLate answers a logger like log.WithValues(values...).
func logLate(log logr.Logger, values ...any) logr.Logger {
	sink := log.GetSink()
	if sink == nil {
		return log
	}
	if deep, ok := sink.(logr.CallDepthLogSink); ok {
		sink = deep.WithCallDepth(1) // lateValues itself
	}
	return logr.New(lateValues{sink: sink, values: values})
}

// Init does nothing: the sink below has been initialised by its first logger.
func (l lateValues) Init(logr.RuntimeInfo) {}

func (l lateValues) Enabled(level int) bool { return l.sink.Enabled(level) }

func (l lateValues) Info(level int, message string, values ...any) {
	l.sink.WithValues(l.values...).Info(level, message, values...)
}

func (l lateValues) Error(err error, message string, values ...any) {
	l.sink.WithValues(l.values...).Error(err, message, values...)
}

func (l lateValues) WithValues(values ...any) logr.LogSink {
	return lateValues{sink: l.sink, values: append(slices.Clip(l.values), values...)}
}

func (l lateValues) WithName(name string) logr.LogSink {
	return lateValues{sink: l.sink.WithName(name), values: l.values}
}
