// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/controllers"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/choice"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/clientgo"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/memory"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting"
	brokerversion "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/version"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// newDrivers makes the ways to RocketMQ of this process, and the chooser among them, which wakes objects by wake. The caller closes the chooser.
func newDrivers(withMemory bool, wake func(registry.Key), log logr.Logger) (controllers.DriverSet, *choice.Chooser[registry.Key], error) {
	library, err := clientgo.New(log.WithName("clientgo"))
	if err != nil {
		return controllers.DriverSet{}, nil, err
	}
	chooser := choice.New(choice.Options[registry.Key]{Probe: brokerversion.Probe, Wake: wake, Log: log.WithName("choice")})
	set := controllers.DriverSet{ClientGo: library, Remoting: remoting.New(log.WithName("remoting")), Lines: chooser}
	if withMemory {
		set.Memory = memory.New(memory.NewBroker(memory.Options{}))
	}
	return set, chooser, nil
}
