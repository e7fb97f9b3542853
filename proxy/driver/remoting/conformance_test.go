// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/drivertest"
)

func (h *harness) Driver() driver.Driver { return h.driver }

func (h *harness) Facts() drivertest.Facts {
	f := drivertest.Facts{
		// A broker delivers again 2 to 3 s after a lease's end; a slow moment of one that shares two cores with the test comes on top.
		Late: 8 * time.Second, Early: 2 * clockSlack, Nack: 3 * time.Second, Open: 20 * time.Second, SQL: true,
		RestartBroker: h.restart, MaxMessageBytes: 4 << 20, Check: 15 * time.Second,
	}
	if !h.user.IsZero() {
		wrong := h.Connection()
		wrong.Credentials.SecretKey = "wrong"
		f.Unauthorized = &wrong
	}
	return f
}

func TestConformance(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	before := goleak.IgnoreCurrent()
	drivertest.Run(t, h)
	// The suite restarts the broker, whose process is waited for.
	goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction(rocketmq.WaitFunction))
}
