// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package examples runs the programs of examples/ as they are against the real proxy on the memory driver, with TLS and tokens, and through
// something in between that refuses calls, loses answers and cuts connections. Afterwards every line that was sent was handled exactly once
// and nothing is left in flight.
package examples
