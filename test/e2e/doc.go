// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package e2e proves the promises from outside: bin/manager as a process under its shipped role, a real API server, a real Apache RocketMQ,
// and applications that only know the data plane. Nothing in here calls into the operator; what is asserted are the API server's objects,
// the broker's client lists and offsets, and the process's own figures.
//
// A test without LONG=1 takes seconds to a minute; LONG=1 runs the full sizes of ../../docs/testing.md.
package e2e
