// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"testing"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func TestABroadcastingConsumerIsNotMoved(t *testing.T) {
	b := &BroadcastClient{}
	if _, err := b.Seek(t.Context(), driver.Target{To: driver.Latest}); driver.ReasonOf(err) != driver.Unsupported {
		t.Errorf("moved: %v", err)
	}
	if _, err := b.Seek(t.Context(), driver.Target{}); driver.ReasonOf(err) != driver.Invalid {
		t.Errorf("moved to nowhere: %v", err)
	}
}
