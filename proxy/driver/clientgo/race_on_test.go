// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build race

package clientgo

// largest is what the suite takes for the broker's limit of a message. With the race detector the library needs seconds to compress 4 MiB, which runs
// into the send's time-out; the message is stored, stored again, and the suite rightly complains.
const largest = 256 << 10
