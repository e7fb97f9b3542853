// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package clientgo is the driver on the Apache RocketMQ Go client (rocketmq-client-go/v2): brokers of the lines 4.x and 5.x.
//
// A Producer is one producer of the library, a Consumer one push consumer, each with a ClientID of its own and so with its own connections,
// credentials and name servers. Beside it works a wire client (proxy/driver/remoting/wire) for what the library cannot do: prove credentials, rights,
// filters and addresses before anything starts, set a group's start position, confirm a negative acknowledgement, a dead letter and the last commit.
//
// The library acknowledges a message by the return of its callback. So the leases of driver.Consumer are kept in this process: a callback of one
// message waits in a table (leases.go) until the message is acknowledged, sent back or dead-lettered. What follows from that is declared in
// Capabilities: another host cannot acknowledge; an acknowledgement means that this process took it and will commit it with its queue's lowest open
// offset; after a crash, or when the queue moves to another member, messages come again, acknowledged ones above an open one included, and none is lost.
// An orderly Close brings back nothing that was acknowledged.
//
// The way of a message:
//
//	pull loop -> inlet (inlet.go: parks while enough waits, closed first by Close) -> callback claims it -> waits -> Fetch leases it ->
//	  Ack       the callback returns "consumed"; the library moves the queue's offset and writes it within 5 s
//	  Nack      a copy with a delay is confirmed by the broker, then the same
//	  DeadLetter  a copy in the dead-letter topic is confirmed, then the same
//	  nothing   at the deadline it waits again, in this process, with its attempt raised
//
// Bounds: per queue of a topic at most 31 messages or 4 MiB wait unleased, and one more pull's answer is parked; leased messages are bounded by what
// Fetch asks for. Each message without a verdict is a goroutine. At most one minute passes while a pull is parked; then it is let through and the
// library's pulling stops until what waits is back within its bound.
//
// The library needs watching more than most; traps.go lists what it does and what is done about it. A few fields inside it are reached by
// reflection (library.go); the version is pinned in go.mod, and tests fail when another one has changed them.
//
// If you debug a stop that hangs or panics, read close.go; lost or doubled messages: leases.go and close.go; "Ready but nothing comes": prove.go, position.go
// and balance.go; goroutines that stay: leftovers.go.
package clientgo
