// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
)

// shared is one RocketMQ 5.5.0 with ACL for all tests that want a real one. It asks for undecided transactions every 2 s.
var shared = rocketmq.NewShared(rocketmq.Options{ACL: true, ExtraBrokerConf: map[string]string{
	"transactionTimeOut": "1500", "transactionCheckInterval": "2000",
}})

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

// noLeaks demands that the test leaves no goroutine at all: this driver has no exceptions. Call it first.
func noLeaks(t *testing.T) {
	t.Helper()
	already := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, already) })
}
