// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rocketmq

import (
	"net"
	"os"
	"testing"
)

func TestTheJavaProxyRunsUntilTheClusterStops(t *testing.T) {
	if os.Getenv("LONG") != "1" {
		t.Skip("NOT RUN: it fetches another 100 MB of jars; set LONG=1")
	}
	c := StartForTest(t, Options{})
	if err := c.StartJavaProxy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.JavaProxyPID() == 0 {
		t.Error("it runs, but has no process id")
	}
	if err := c.StartJavaProxy(t.Context()); err == nil {
		t.Error("a second start is no error")
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if pid := c.JavaProxyPID(); pid != 0 {
		t.Errorf("after Stop it runs as %d", pid)
	}
	if conn, err := net.Dial("tcp", c.JavaProxyAddr()); err == nil {
		_ = conn.Close()
		t.Errorf("after Stop something listens on %s", c.JavaProxyAddr())
	}
}
