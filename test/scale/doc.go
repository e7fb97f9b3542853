// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package scale measures what declared objects cost: the time until all are Ready after a start of the operator, the requests to the API server,
// goroutines and memory, and whether a few busy objects notice the many idle ones. LONG=1 declares 5,000 Producers and 5,000 Consumers, as the
// project's aim says; the short form declares a few hundred and judges what one object costs. The operator is a process of its own, built without
// the race detector.
package scale
