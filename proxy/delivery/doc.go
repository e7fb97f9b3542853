// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package delivery is the window between RocketMQ and the applications that receive: it decides who gets which message, remembers what is
// in flight, and turns ack tokens into acknowledgements.
//
// A [Window] belongs to one Consumer on one host. Receivers (streams, long polls) attach with a credit in messages and bytes. While some
// receiver has credit, one goroutine (the dispatcher) fetches from the driver: never more than the credits of the receivers with the same
// lease, never more than the window's room. So a full window stops the fetching, and nothing is ever discarded. A Consumer that nobody
// receives from costs no goroutine.
//
// The life of a leased message (flight.go):
//
//	Fetch -> queued (placed with a receiver, in turn) -> taken (its token exists) -> written -> acknowledged, nacked, or expired
//	Fetch -> held (fits no byte credit; placed first when it does) -> queued, or given back when half of its lease is gone
//	Fetch -> burying (attempts exhausted) -> dead-letter topic; when the write fails the original stays and comes again
//
// What no application has seen is given back (attempt unchanged): when its receiver goes away, when the transport refuses it, when half of
// its lease is gone before it was taken, and when the window drains. What was written stays leased to its deadline. Nothing is nacked by us.
//
// # Order
//
// The messages of an ordered Consumer come in batches, one for each queue at a time; lanes.go has the rules for them, and lineup.go what they mean for
// acknowledgements. Whatever is said above holds for each message; the lanes add what a message's end means for those behind it.
//
// # Tokens
//
// A token (token.go, sealer.go) is sealed and self-contained: who delivered, which delivery, which of its deadlines, and the driver's
// handle. Another host can open it when it has the key. It asks the host that made it (peers.go), whose table knows the delivery; when that is gone or
// cannot be reached, it uses the handle if the driver allows (Capabilities.AckFromAnyHost), and what that costs is in hosts_test.go and DESIGN.md. Keys can be replaced while windows work, and a token of a key that
// is not known yet is RETRY while it is looked up (unknownkeys.go). Delivery
// ids are sequential, so that "not in flight, not void, deadline not passed" means acknowledged: a repeated ack is OK without a memory of
// what was acknowledged. Only void tokens (nacked, given back, shortened) are remembered, until their deadline and in a bounded number.
//
// # Locks and time
//
// One mutex per window; driver calls, observers and token sealing happen outside it (effects.go collects them). One heap and one timer
// serve all deadlines. Time is the window's steady clock, which a change of the wall clock does not move.
//
// # Trade-offs taken
//
// While a message is held because it is larger than what is left of its receivers' byte credit, fetching for their lease stops for a quarter
// of that message's lease, so that a receiver runs empty and can take it; then the others go on. A Fetch under way is not shortened when one
// of several receivers leaves: what nobody wants any more is given back when it arrives. One Fetch has one lease, so that receivers with
// different leases take turns, Fetch by Fetch; a turn lasts until something arrives.
//
// A batch that is larger than its receiver's credit waits here for the rest of it while its lease runs; so one Fetch of an ordered Consumer asks for no
// more than the largest credit.
//
// If you debug: "why is nothing delivered" - wantLocked in dispatch.go; "why EXPIRED" - judge and endedLocked in ack.go; "why did it come
// again" - sweepLocked in expiry.go.
package delivery
