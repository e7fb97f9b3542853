// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"fmt"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/choice"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// Drivers says which driver an object's client uses. All methods answer at once; they are safe for concurrent use.
type Drivers interface {
	// Resolve answers the driver's name, for status.driver and the registry, and what it can promise. The object of key is woken when the answer
	// becomes known or changes. Errors: ErrUndecided while the answer is being found out, a *Waiting when it could not be and is tried again, a
	// *Stalled for what is the user's to change.
	Resolve(key registry.Key, requested proxyv1alpha1.DriverName, connection driver.Connection) (name string, capabilities driver.Capabilities, err error)
	// Doubt says that the client which was resolved for key does not work: the answer may be out of date.
	Doubt(key registry.Key)
	// Forget says that nothing has to be resolved for key any more.
	Forget(key registry.Key)
}

// ErrUndecided is Resolve's answer while the brokers are being asked for their version for the first time.
var ErrUndecided = errors.New("the brokers are being asked for their version")

// Lines says which line of RocketMQ stands behind a connection; choice.Chooser is the real one.
type Lines interface {
	Ask(who registry.Key, connection driver.Connection) (choice.Finding, error)
	Recheck(who registry.Key)
	Forget(who registry.Key)
}

// DriverSet is the Drivers of a process. Auto is Remoting for brokers that all are of the 5.x line, which have what it needs, and ClientGo for others.
type DriverSet struct {
	ClientGo, Remoting driver.Driver
	// Memory, when it is there, is what Auto means, whatever the brokers are: the operator was started for a demonstration or a test.
	Memory driver.Driver
	Lines  Lines
}

var _ Drivers = DriverSet{}

// All lists the drivers that there are.
func (s DriverSet) All() []driver.Driver {
	all := []driver.Driver{s.ClientGo, s.Remoting}
	if s.Memory != nil {
		all = append(all, s.Memory)
	}
	return all
}

// Resolve implements Drivers.
func (s DriverSet) Resolve(key registry.Key, requested proxyv1alpha1.DriverName, connection driver.Connection) (string, driver.Capabilities, error) {
	if requested == "" {
		requested = proxyv1alpha1.DriverAuto
	}
	auto := requested == proxyv1alpha1.DriverAuto && s.Memory == nil
	if !auto {
		s.Lines.Forget(key)
	}
	var chosen driver.Driver
	why := ""
	switch {
	case auto:
		found, err := s.Lines.Ask(key, connection)
		if err != nil {
			return "", driver.Capabilities{}, versionUnknown(err)
		}
		why = found.Evidence
		switch found.Line {
		case choice.Line5:
			chosen = s.Remoting
		case choice.Line4:
			chosen = s.ClientGo
		default:
			return "", driver.Capabilities{}, ErrUndecided
		}
	case requested == proxyv1alpha1.DriverAuto:
		chosen = s.Memory
	case requested == proxyv1alpha1.DriverClientGo:
		chosen = s.ClientGo
	case requested == proxyv1alpha1.DriverRemoting:
		chosen = s.Remoting
	default:
		return "", driver.Capabilities{}, &Stalled{Reason: proxyv1alpha1.ReasonUnsupported, Err: fmt.Errorf(
			"spec.driver: this version of the operator has no driver %q: use Auto, ClientGo or Remoting", requested)}
	}
	return s.accept(chosen, connection, why)
}

// accept refuses what the driver cannot do with the connection: to go on without encryption would be worse than not at all.
func (s DriverSet) accept(chosen driver.Driver, connection driver.Connection, why string) (string, driver.Capabilities, error) {
	name, capabilities := chosen.Name(), chosen.Capabilities()
	if !connection.TLS.Enabled || capabilities.TLS {
		return name, capabilities, nil
	}
	reason := "spec.connection.tls: the driver " + name + " cannot check certificates: remove tls, or set spec.driver to Remoting"
	if why != "" {
		reason = "spec.connection.tls: tls needs the driver Remoting, which needs RocketMQ 5.x, and spec.driver Auto means " + name + " here: " + why
	}
	return name, capabilities, &Stalled{Reason: proxyv1alpha1.ReasonUnsupported, Err: errors.New(reason)}
}

// versionUnknown keeps the reasons that tell the user what to change; the rest is one reason, whatever failed.
func versionUnknown(err error) error {
	reason := proxyv1alpha1.ReasonBrokerVersionUnknown
	if r := driver.ReasonOf(err); r == driver.AddressRefused || r == driver.Invalid {
		reason = string(r)
	} else if r == driver.Closed {
		reason = proxyv1alpha1.ReasonShuttingDown
	}
	return &Waiting{Reason: reason, Err: fmt.Errorf("spec.driver is Auto, and the brokers could not be asked for their version: %w", err)}
}

// Doubt implements Drivers.
func (s DriverSet) Doubt(key registry.Key) { s.Lines.Recheck(key) }

// Forget implements Drivers.
func (s DriverSet) Forget(key registry.Key) { s.Lines.Forget(key) }
