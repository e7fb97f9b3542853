// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"slices"
	"testing"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// TestTheOwnClassicClientIsNoObstacleToAProbe: it goes when the probe has succeeded. Without this a Consumer could never change from the driver ClientGo to
// this one.
func TestTheOwnClassicClientIsNoObstacleToAProbe(t *testing.T) {
	var online wire.GroupConnections
	for _, id := range []string{"10.0.0.7@shop_billing_0f0e0d0c_ab12_3#7", "10.0.0.8@shop_billing_0f0e0d0c_ff00_1#9", "10.0.0.9@DEFAULT#1", "10.0.0.7@shop_billing_ffffffff_ab12_4"} {
		online.Connections = append(online.Connections, struct {
			ClientID string `json:"clientId"`
			Address  string `json:"clientAddr"`
			Version  int    `json:"version"`
		}{ClientID: id})
	}
	for _, c := range []struct {
		id   driver.ClientID
		want int
	}{
		{"shop_billing_0f0e0d0c_ab12_9", 2}, {"shop_billing_00000000_ab12_9", 4}, {"shop_bill_0f0e0d0c_ab12_9", 4}, {"odd", 4}, {"", 4},
	} {
		if ids := staying(&online, c.id.Object()); len(ids) != c.want || !slices.Contains(ids, "10.0.0.9@DEFAULT#1") {
			t.Errorf("for %q the others are %q, want %d", c.id, ids, c.want)
		}
	}
}

// TestPopsOfTheClassicRetryTopicLeaveNoCheckPoint: one that is not acknowledged in time would stop a revive queue of the broker for every group,
// for ever; see command.
func TestPopsOfTheClassicRetryTopicLeaveNoCheckPoint(t *testing.T) {
	c := New(logr.Discard()).newConsumer(driver.ConsumerConfig{
		Connection: driver.Connection{NameServers: []string{"127.0.0.1:1"}, Namespace: "ns", AllowAddress: func(string) error { return nil }},
		Group:      "g", Subscriptions: []driver.Subscription{{Topic: "a"}, {Topic: "b"}}, StartFrom: driver.Earliest,
	})
	t.Cleanup(c.leaveCluster)
	attempts := map[string]bool{}
	for i, src := range c.sources {
		for range 2 {
			cmd, _ := c.command(&poll{pair: &pair{source: i, broker: "x"}, kind: short, count: 1})
			if got := cmd.Fields["order"] == "true"; got != src.classic {
				t.Errorf("a pop of %s is in order: %v", src.topic, got)
			}
			if attempt := cmd.Fields["attemptId"]; src.classic {
				if attempt == "" || attempts[attempt] {
					t.Errorf("a pop of %s has the attempt %q of another one: it would get the same messages", src.topic, attempt)
				}
				attempts[attempt] = true
			}
		}
	}
	for named, want := range map[string]string{"%RETRY%ns%g_ns%b": "ns%b", "%RETRY%ns%g+ns%a": "ns%a", "ns%a": "ns%a", "ns%other": "ns%other"} {
		if got := c.sentTo(named); got != want {
			t.Errorf("%q was sent to %q, want %q", named, got, want)
		}
	}
}
