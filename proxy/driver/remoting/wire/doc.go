// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package wire is a client of RocketMQ's remoting protocol: frames, signatures, connections and the requests that the drivers need.
//
// A [Client] belongs to one Producer or Consumer and holds at most one connection per address, each with two goroutines (a reader and a
// writer) and any number of requests in flight. No lock is held while the network is waited for. Every address is checked before it is dialled:
// a name is resolved once, each IP:port is asked for with Connection.AllowAddress, and the checked IP is what is dialled.
//
// A connection that does not answer is found by the requests' own deadlines: when one passes and nothing at all was read since it was sent, the
// connection is given up, its other requests fail at once, and the next request dials again.
//
// What a peer sends is never trusted: lengths are bounded before anything is allocated (the constants in frame.go), the header's text is
// decoded into known fields, and a frame that does not parse ends its connection.
//
// Where to look: frame.go, header.go the bytes; sign.go the ACL signature; dial.go addresses; conn.go one connection; client.go all of
// them; route.go, loosejson.go what name servers answer; group.go, offset.go, message.go, stats.go the requests; codes.go, errors.go the answers' codes.
package wire
