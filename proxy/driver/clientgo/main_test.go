// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"os"
	"testing"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
)

// shared is one RocketMQ 5.5.0 with ACL for all tests that want a real one.
var shared = rocketmq.NewShared(rocketmq.Options{ACL: true})

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }
