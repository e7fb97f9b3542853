// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// parties are the processes whose CPU a measurement costs; 0 = not looked at. load is the load generator where it is not the tested process itself.
type parties struct{ tested, broker, load int }

// costs is CPU time of the parties.
type costs struct{ tested, broker, load time.Duration }

func (p parties) costs() (c costs, err error) {
	for _, party := range []struct {
		pid  int
		used *time.Duration
	}{{p.tested, &c.tested}, {p.broker, &c.broker}, {p.load, &c.load}} {
		if party.pid == 0 {
			continue
		}
		if *party.used, err = cpuTime(party.pid); err != nil {
			return c, err
		}
	}
	return c, nil
}

// charge tells what each of n messages cost.
func (f *figure) charge(before, after costs, n float64) {
	each := func(used time.Duration) float64 { return float64(used.Microseconds()) / n }
	f.CPU, f.Broker, f.Load = each(after.tested-before.tested), each(after.broker-before.broker), each(after.load-before.load)
}

// cpuTime is a process's user and system time, in steps of 10 ms (Linux's clock tick).
func cpuTime(pid int) (time.Duration, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the name in brackets and may hold blanks: count from its end.
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	if len(fields) < 13 {
		return 0, errors.New("/proc/<pid>/stat has too few fields")
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
