// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"slices"
	"testing"

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
