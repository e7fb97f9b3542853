// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"reflect"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// sameSettings reports whether a client would notice no difference. The generation, the time-outs that only the registry looks at, and
// functions are no difference.
func sameSettings(a, b Spec) bool {
	return a.Driver == b.Driver && a.Group == b.Group &&
		reflect.DeepEqual(plainProducer(a.Producer), plainProducer(b.Producer)) &&
		reflect.DeepEqual(plainConsumer(a.Consumer), plainConsumer(b.Consumer))
}

func plainProducer(p *ProducerSpec) *ProducerSpec {
	if p == nil {
		return nil
	}
	plain := *p
	plain.Config.ClientID = ""
	plain.Config.Connection.AllowAddress = nil
	return &plain
}

func plainConsumer(c *ConsumerSpec) *ConsumerSpec {
	if c == nil {
		return nil
	}
	plain := *c
	plain.Config.ClientID = ""
	plain.Config.Connection.AllowAddress = nil
	return &plain
}

// withClientID answers a copy of spec whose client is named id.
func withClientID(spec Spec, id driver.ClientID) Spec {
	if spec.Producer != nil {
		p := *spec.Producer
		p.Config.ClientID = id
		spec.Producer = &p
	}
	if spec.Consumer != nil {
		c := *spec.Consumer
		c.Config.ClientID = id
		spec.Consumer = &c
	}
	return spec
}
