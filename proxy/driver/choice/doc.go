// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package choice finds out which line of RocketMQ stands behind a connection, for objects that leave the choice of the driver to the operator.
//
// # Use
//
// A [Chooser] is asked for an object's connection on every pass ([Chooser.Ask]) and answers at once with what it knows. What it does not know it
// finds out in the background, and then wakes everybody who asked; the same when a known answer changes. Objects that are deleted, suspended or
// have chosen a driver themselves are forgotten ([Chooser.Forget]).
//
// # How it works
//
// Objects with the same name servers, credentials and TLS are one subject: thousands of them cause one detection. A subject is looked at again
// every few minutes, sooner after a failure (with back-off and jitter) and when somebody asks ([Chooser.Recheck]). It lives as long as an
// object asks for it; then its timer is stopped and its detection cancelled, so that nothing is left when the last object has gone.
//
// Detections are run by at most Options.Workers goroutines, which exist only while there is something to do. The probe is a function, so this
// package knows no protocol; proxy/driver/remoting/version is the real one.
//
// # What an answer means
//
//   - Unknown without an error: a first detection is under way. With an error: it failed, and is repeated. Nothing may be decided by it: clients
//     that run stay, new ones wait.
//   - A known answer outlives failures: brokers that are away are no reason to think otherwise of them.
//   - From Line4 to Line5 two findings in a row are needed. While brokers are upgraded one by one, one of the old line may be missing from the
//     name servers' list for a moment, and every change of the driver drains and reopens all clients. From Line5 to Line4 one is enough:
//     somebody has seen a broker that does not have what the other driver needs.
package choice
