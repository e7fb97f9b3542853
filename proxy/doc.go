// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package proxy is the embedded proxy: it puts the parts together and runs them. It knows no Kubernetes; what it needs of it (who may do what,
// whether an object is live) comes in through interfaces and functions. Start reading here.
//
// # The way of a message
//
// Out: server/send.go checks each message and finds the Producer's client in the registry; batching.Queue sends at once, or together with what
// waits while a request is under way; driver.Producer stores it in RocketMQ; the answer goes back the same way. OK means that the broker has it.
//
// In: a receiver (server/receive.go a stream, server/pull.go a long poll) attaches to the Consumer's delivery.Window with its credit. The window calls
// driver.Consumer.Fetch for as much as receivers want and the window may hold, seals a token for each message, and hands it to one receiver.
// "Written" means that the transport took it; what was not written goes back at once.
//
// Back: the token comes in a stream's frame or a unary call (server/stream_acks.go, server/ack.go), the window opens it and acknowledges through the
// driver. What is not acknowledged by its deadline comes again.
//
// A transaction: server/transactions.go begins and ends it through the Producer's client (transactions.go), which seals its name for every host; what nobody ends
// comes back as a check (package checks) to a stream (server/checks.go) or an address.
//
// # Back-pressure
//
// Nothing is dropped, so each place that can fill up has a number: a receiver's credit, Consumer.maxInFlight and maxInFlightBytes (the window then
// stops fetching), batching.Settings.MaxWaitingMessages (a Send is then refused), server.Limits.MaxPendingAckBytes (a stream is then not read), and
// gRPC's flow control (a write waits; after Limits.WriteTimeout the stream ends).
//
// # Locks
//
// Each part has one lock of its own: the registry, each window, each queue, the server's admission. None is held while another part is called, so
// there is no order between them to keep.
//
// # Files
//
// clients.go what the registry runs; proxy.go listening and the stop order; same.go when a changed object needs another client; metrics the
// metrics of all parts.
package proxy
