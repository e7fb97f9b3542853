// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"reflect"
	"testing"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// A field of Connection that is not compared would let a client go on with what the user has changed.
func TestAChangeOfAnyFieldOfTheConnectionIsAnotherConnection(t *testing.T) {
	base := driver.Connection{NameServers: []string{"a:1"}, TLS: driver.TLS{Enabled: true, CA: "x"}}
	if !sameConnection(base, base) {
		t.Fatal("a connection is not the same as itself")
	}
	changes := map[string]driver.Connection{
		"NameServers": {NameServers: []string{"b:1"}, TLS: base.TLS},
		"Namespace":   {NameServers: base.NameServers, TLS: base.TLS, Namespace: "n"},
		"Credentials": {NameServers: base.NameServers, TLS: base.TLS, Credentials: driver.Credentials{AccessKey: "a"}},
		"TLS":         {NameServers: base.NameServers, TLS: driver.TLS{Enabled: true, CA: "y"}},
	}
	for i := range reflect.TypeFor[driver.Connection]().NumField() {
		name := reflect.TypeFor[driver.Connection]().Field(i).Name
		changed, known := changes[name]
		if name == "AllowAddress" {
			continue // a function of the process
		}
		if !known {
			t.Errorf("%s is a new field: compare it in sameConnection, and change it here", name)
		} else if sameConnection(base, changed) {
			t.Errorf("a change of %s makes no difference", name)
		}
	}
}
