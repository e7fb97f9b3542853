// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// TestAHoldThatFiresDoesNotReadTheTimerThatItsStarterStillWrites: the operator of an end-to-end test ended with a data race in armHold. A hold whose timer had
// fired before the assignment would have taken itself for an older one, and kept messages from everybody until their leases ended.
func TestAHoldThatFiresDoesNotReadTheTimerThatItsStarterStillWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(logr.Discard()).newConsumer(driver.ConsumerConfig{
			Connection:    driver.Connection{NameServers: []string{"127.0.0.1:1"}, AllowAddress: func(string) error { return nil }},
			Group:         "g",
			Subscriptions: []driver.Subscription{{Topic: "t"}},
		})
		for round := range 3 {
			c.state.Lock()
			c.state.spare = []*driver.Received{{Handle: "of a lease that is over"}}
			c.armHold()
			c.state.Unlock()
			time.Sleep(holdTime + time.Millisecond)
			c.state.Lock()
			if len(c.state.spare) != 0 || c.state.hold != nil {
				t.Errorf("round %d: %d messages are held after %v without a Fetch", round, len(c.state.spare), holdTime)
			}
			c.state.Unlock()
		}
		mustClose(t, c)
	})
}
