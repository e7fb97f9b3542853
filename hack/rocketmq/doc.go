// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rocketmq runs a real Apache RocketMQ - one name server and one broker - on loopback, for tests, the demo and
// the benchmark. It needs Java and Maven, no Docker.
//
// Start fetches the jars once (bin/rocketmq/<version>/lib), takes a block of ports that no other user of this package
// holds, starts both JVMs and returns when the broker is registered at its name server. A Cluster can then be hurt
// (KillBroker, PauseBroker, StopNameServer, ...) and asked (ConsumerProgress, ConsumerConnections, ...). Stop leaves no
// process and no file behind; if the parent dies without Stop, the kernel ends the children (Linux).
//
// StartJavaProxy adds RocketMQ's own gRPC proxy in front of the broker, for comparing with it.
//
// Administration speaks RocketMQ's remoting protocol directly, some thirty lines of it, because a JVM per question costs
// about a second. It shares no code with the wire client that it helps to test. Admin runs the real mqadmin for the rest.
//
// Options.Join adds a second broker to a running cluster; Options.TLS makes both servers demand encrypted connections, with certificates in Cluster.TLS.
//
// Tests use Shared, which starts one cluster for a test binary on first use:
//
//	var broker = rocketmq.NewShared(rocketmq.Options{})
//
//	func TestMain(m *testing.M) { os.Exit(broker.Run(m)) }
//
//	func TestSend(t *testing.T) { c := broker.Cluster(t); ... }
//
// Times on two idle cores: the jars 10-40 s once, a start about 4 s, a broker restart about 3 s.
package rocketmq
