// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"slices"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// sameProducer reports whether a client that was opened with a does for b. The client id is the registry's matter; AllowAddress is a function
// of the process, not of the object.
func sameProducer(a, b driver.ProducerConfig) bool {
	return sameConnection(a.Connection, b.Connection) && a.Group == b.Group && slices.Equal(a.Topics, b.Topics) &&
		a.SendTimeout == b.SendTimeout && a.Retries == b.Retries && a.CompressAbove == b.CompressAbove && a.MaxMessageBytes == b.MaxMessageBytes &&
		a.Transactions == b.Transactions
}

// sameConsumer is sameProducer for Consumers.
func sameConsumer(a, b driver.ConsumerConfig) bool {
	return sameConnection(a.Connection, b.Connection) && a.Group == b.Group && slices.Equal(a.Subscriptions, b.Subscriptions) &&
		a.StartFrom == b.StartFrom && a.Ordered == b.Ordered && a.StartTime.Equal(b.StartTime)
}

func sameConnection(a, b driver.Connection) bool {
	return slices.Equal(a.NameServers, b.NameServers) && a.Namespace == b.Namespace && a.Credentials == b.Credentials &&
		a.TLS == b.TLS
}
