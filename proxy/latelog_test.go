// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"slices"
	"testing"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
)

func TestALoggerThatRendersLateWritesTheSameLines(t *testing.T) {
	var lines []string
	log := funcr.New(func(prefix, line string) { lines = append(lines, prefix+" "+line) }, funcr.Options{LogCaller: funcr.All, Verbosity: 1})
	write := func(log logr.Logger) []string {
		lines = nil
		log.Info("one", "a", 1)
		log.V(1).Info("two")
		log.V(2).Info("not shown")
		log.Error(errors.New("bad"), "three", "b", 2)
		more := log.WithName("part").WithValues("c", 3)
		more.Info("four", "d", 4)
		more.WithValues("e", 5).Info("five")
		more.WithValues("f", 6).Info("six")
		return lines
	}
	for _, log := range []logr.Logger{log, log.WithName("clients").WithValues("host", "h")} {
		want := write(log.WithValues("kind", "Producer", "name", "orders"))
		if got := write(logLate(log, "kind", "Producer", "name", "orders")); !slices.Equal(got, want) || len(got) != 6 {
			t.Errorf("written:\n%q\nwant:\n%q", got, want)
		}
	}
	write(logLate(logr.Discard(), "kind", "Producer"))
}
