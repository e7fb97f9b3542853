// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rocketmq

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
)

// WaitFunction is the function in which one goroutine per running JVM sits. Tests that check for leaked goroutines while
// a Shared cluster runs pass it to goleak.IgnoreAnyFunction.
const WaitFunction = "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq.(*process).wait"

// RequireForTest is the one rule of when tests use a real RocketMQ: with ROCKETMQ_TESTS=1 (`make test` sets it where Java
// and Maven are). Without it the test is skipped with a line that says so, but in CI (CI=true) it fails: a layer that
// silently does not run is as good as deleted. With it, missing Java or Maven is a failure as well.
func RequireForTest(t testing.TB) {
	t.Helper()
	action, message := decide(os.Getenv("ROCKETMQ_TESTS") == "1", os.Getenv("CI") == "true", Available())
	switch action {
	case testFails:
		t.Fatal(message)
	case testSkips:
		t.Skip(message)
	case testRuns:
	}
}

type testAction int

const (
	testRuns testAction = iota
	testSkips
	testFails
)

func decide(wanted, ci bool, unavailable error) (testAction, string) {
	switch {
	case wanted && unavailable != nil:
		return testFails, fmt.Sprintf("ROCKETMQ_TESTS=1, but: %v", unavailable)
	case wanted:
		return testRuns, ""
	case ci:
		return testFails, "CI must run the tests against a real RocketMQ: set ROCKETMQ_TESTS=1 (make test does, where java and mvn are on the PATH)"
	default:
		return testSkips, "NOT RUN: this test needs a real RocketMQ; set ROCKETMQ_TESTS=1 and have java and mvn on the PATH"
	}
}

// Shared is one cluster for all tests of a test binary, started by the first test that asks for it.
type Shared struct {
	options Options
	once    sync.Once
	cluster *Cluster
	err     error
}

// NewShared prepares a shared cluster; nothing runs yet. A nil options.Log goes to standard error.
func NewShared(options Options) *Shared {
	if options.Log == nil {
		options.Log = os.Stderr
	}
	return &Shared{options: options}
}

// Run runs the tests and stops the cluster afterwards; its result is for os.Exit in TestMain.
func (s *Shared) Run(m *testing.M) int {
	code := m.Run()
	if err := s.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "rocketmq: stop the shared cluster:", err)
		return max(code, 1)
	}
	return code
}

// Stop is for a TestMain that has more to do than Run; it is no error when the cluster never started.
func (s *Shared) Stop() error {
	if s.cluster == nil {
		return nil
	}
	return s.cluster.Stop()
}

// Cluster returns the running cluster, starting it on first use. It applies RequireForTest first. Tests that hurt the
// broker must leave it running, and must not run in parallel with others.
func (s *Shared) Cluster(t testing.TB) *Cluster {
	t.Helper()
	RequireForTest(t)
	s.once.Do(func() { s.cluster, s.err = Start(context.Background(), s.options) })
	if s.err != nil {
		t.Fatalf("start the shared RocketMQ: %v", s.err)
	}
	return s.cluster
}

// StartForTest runs a cluster for one test and stops it at the test's end. It applies RequireForTest first.
func StartForTest(t testing.TB, options Options) *Cluster {
	t.Helper()
	RequireForTest(t)
	if options.Log == nil {
		options.Log = os.Stderr
	}
	cluster, err := Start(t.Context(), options)
	if err != nil {
		t.Fatalf("start RocketMQ: %v", err)
	}
	t.Cleanup(func() {
		if err := cluster.Stop(); err != nil {
			t.Errorf("stop RocketMQ: %v", err)
		}
	})
	return cluster
}
