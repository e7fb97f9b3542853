// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package wire is a client of RocketMQ's remoting protocol: frames, signatures, connections and the requests that the drivers need.
//
// A [Client] holds at most one connection per address, shared by all its callers, and any number of requests in flight on it. No lock is held while the
// network is waited for. Every address is checked before it is dialled: a name is resolved for each attempt, each IP:port is asked for with
// Connection.AllowAddress, and the checked IP is what is dialled.
//
// The way of a request: Go or Invoke encodes it in the caller's goroutine and puts it into the queue of the address's link, which dials if there is no
// connection. The connection's writer takes what waits, up to 256 KiB, and writes it with one system call; its reader gives each answer to the request
// of the same number. So there are two goroutines a connection, one while dialling, and none for a waiting request: all deadlines of an address share one
// timer, whose goroutine lives only while it rings. Callers of Go are called back by the goroutine that saw the end (reader, timer, or the one that found the
// connection over), and must not block it.
//
// What is bounded: bytes that wait to be written (Options.QueueBytes) and answers that are waited for (maxCalls), per address. Beyond, Go refuses and
// Invoke waits. A failed attempt to connect is followed by a pause, in which callers get its error at once; at most 3 s, which is how much later than
// the broker we may be back. A connection on which the peer never sent a whole frame counts as a failed attempt.
//
// A connection that does not answer is found in three ways: a request's deadline passes and not a byte was read since it was written; a peer that owes
// answers is silent for 10 s and then for 5 s more after being asked something cheap (sweep.go says why this is not left to TCP); a write makes no
// progress for 10 s. Then its requests fail at once, and what was not written goes on with the next connection. A request that was written is never
// repeated here: whether the peer has acted on it is unknown, and what to do then is the driver's business.
//
// What a peer sends is never trusted: lengths are bounded before anything is allocated, the header's text is decoded into known fields, and a
// frame that does not parse ends its connection. A message whose body does not unpack stays packed and is marked, so that it does not hold up others.
//
// Where to look: frame.go, header.go, fastheader.go the bytes; sign.go the ACL signature; dial.go, secure.go addresses and TLS; link.go one address,
// queue.go what waits there, sweep.go its timer, conn.go one connection, client.go all of them; nameserver.go, route.go, loosejson.go what name servers
// answer; message.go, batch.go sending; transaction.go half messages, checks and locks; pop.go, pophandle.go, ack.go receiving by POP; stored.go, compress.go messages as brokers send them; group.go,
// offset.go, stats.go the other requests; codes.go, errors.go the answers' codes.
package wire
