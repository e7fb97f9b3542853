// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// prover asks RocketMQ what the library cannot tell. It always asks anew, and checks all addresses: the library may dial each of them.
type prover struct {
	proof.Prover
	wire *wire.Client
}

func newProver(w *wire.Client, c driver.Connection) *prover {
	return &prover{wire: w, Prover: proof.Prover{Wire: w, Namespace: c.Namespace, Routes: proof.Fresh{Wire: w, Allow: c.AllowAddress}}}
}
