// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command etcd is the etcd server, built from its Go module. The server's own main package lives in a module that pins its
// siblings by relative path and so cannot be built from outside; its entry point can.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
