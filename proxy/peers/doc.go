// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package peers lets the hosts of one operator ask each other about deliveries: an ack token that reaches another host than the one that made it is
// answered by the window that knows the delivery. Without that RocketMQ would be asked, which answers OK to handles that are stale.
//
// A question (peers.go) goes: find the process among the hosts (directory.go: the operator's Leases have the addresses) -> a connection that stands
// (links.go) -> one call of PeerService -> the answer. It ends in one of four ways, and the caller must be able to tell them apart: answered; the process
// is gone; it was surely not asked; unknown. So a call is only made on a connection that is up, and whatever fails before is "not asked".
//
// The other side is answer.go. Hosts prove to each other who they are by the keys of ack tokens, which they share (delivery.Sealer.Seal): what is asked and
// what is answered travels in envelopes, and an answer is sealed for its question. TLS below is for what a network sees; certificates are not compared,
// because those of two hosts may differ while they are renewed, and the keys say more.
//
// All methods of [Peers] are safe for concurrent use. Connections are made when they are needed, closed after five minutes without a question or when
// their host has gone, and all of them by Close.
package peers
