// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/clientgo"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/memory"
)

// drivers are the ways to RocketMQ of this process. It implements controllers.Drivers.
type drivers struct {
	clientGo driver.Driver
	memory   driver.Driver // nil unless --enable-memory-driver
}

func newDrivers(withMemory bool, log logr.Logger) (drivers, error) {
	library, err := clientgo.New(log.WithName("clientgo"))
	if err != nil {
		return drivers{}, err
	}
	d := drivers{clientGo: library}
	if withMemory {
		d.memory = memory.New(memory.NewBroker(memory.Options{}))
	}
	return d, nil
}

func (d drivers) all() []driver.Driver {
	if d.memory == nil {
		return []driver.Driver{d.clientGo}
	}
	return []driver.Driver{d.clientGo, d.memory}
}

// Resolve: Auto is the library for RocketMQ of every version, unless the embedded broker was asked for.
func (d drivers) Resolve(requested v1alpha1.DriverName) (string, driver.Capabilities, error) {
	chosen := d.clientGo
	switch requested {
	case v1alpha1.DriverClientGo:
	case v1alpha1.DriverAuto, "":
		if d.memory != nil {
			chosen = d.memory
		}
	default:
		return "", driver.Capabilities{}, fmt.Errorf("driver: this version of the operator has no driver %q: use Auto or ClientGo", requested)
	}
	return chosen.Name(), chosen.Capabilities(), nil
}
