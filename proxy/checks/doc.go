// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package checks brings the brokers' questions about undecided transactions to the applications of one Producer on one host, and keeps the account of the
// answers.
//
// A [Hub] belongs to a Producer's client. Receivers (TransactionChecks streams) attach to it, and there may be a [Poster], which asks by HTTP. While there is
// somebody to ask, and only then, the hub watches the driver's checks, so that brokers choose this host; a Producer of which nobody is asked costs no
// goroutine. The way of a check:
//
//	driver -> Hub.take -> the receiver whose turn it is and that has room -> its stream -> a resolution -> Hub.Resolve -> driver End
//	driver -> Hub.take -> no receiver has room -> the Poster's queue -> POST -> the answer -> driver End
//
// Each check that was handed out ends with one of the [Outcome]s. What got no answer comes again from the broker, here or on another host, under another
// handle, until the broker gives up; whoever answers an old one decides the same transaction.
//
// One mutex per hub; the driver, observers and receivers' signals are used outside it.
package checks
