// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
)

// shared is one RocketMQ 5.5.0 with ACL for the tests that want a real one.
var shared = rocketmq.NewShared(rocketmq.Options{ACL: true})

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

// noLeaks fails the test when it leaves a goroutine. Call it first.
func noLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction(rocketmq.WaitFunction)) })
}
