// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package driver is the one small interface between the proxy and RocketMQ.
//
// A [Driver] opens a [Producer] or a [Consumer] from a plain configuration and proves that it works before it returns. The registry owns
// what was opened: it alone calls Open and Close. The delivery window is the only caller of Fetch, Ack, Nack, Extend, GiveBack and
// DeadLetter; the send queue is the only caller of Send.
//
// Receiving is pull with leases, because that is the one form that all ways to RocketMQ can keep honestly: Fetch is called against the
// credit of receivers, so a receiver that stops stops the fetching and nothing is discarded; each message carries a [Handle] and a
// deadline; what is not acknowledged by then comes again. POP works like that in the broker. For the library's push consumer the
// clientgo driver keeps the leases itself, in this process, and says so in its [Capabilities].
//
// What a driver cannot promise it declares in Capabilities, and drivertest checks every driver against its own declaration on a real broker.
//
// Files: driver.go is the contract, errors.go the errors that everything above decides by; memory, clientgo and remoting are the drivers.
package driver
