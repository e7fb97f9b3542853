// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"strings"
	"testing"
)

func effectiveGroupFor(namespace, name string) string { return defaultProducerGroup(namespace, name) }

func TestDefaultGroupIsLegalAndUnique(t *testing.T) {
	long := strings.Repeat("a", 200)
	for _, c := range []struct{ name, namespace, object, want string }{
		{"namespace and name are joined", "shop", "orders", "shop_orders"},
		{"a dot is not legal in a group", "shop", "orders.v1", "shop_orders_v1"},
		{"a long name is cut and made unique by a hash", "shop", long, "shop_" + strings.Repeat("a", 106) + "_"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := effectiveGroupFor(c.namespace, c.object)
			if !strings.HasPrefix(got, c.want) || len(got) > 120 {
				t.Errorf("group of %s/%s = %q (%d bytes), want %q... and at most 120 bytes", c.namespace, c.object, got, len(got), c.want)
			}
		})
	}
	if a, b := effectiveGroupFor("shop", long+"x"), effectiveGroupFor("shop", long+"y"); a == b {
		t.Errorf("two long names have the same group %q", a)
	}
}
