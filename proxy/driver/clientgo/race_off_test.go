// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package clientgo

// largest is what the suite takes for the broker's limit of a message.
const largest = 4 << 20
