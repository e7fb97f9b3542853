// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package remoting is the driver on our own client of RocketMQ's remoting protocol: brokers of the line 5.x, for Consumers by POP.
//
// Everything that can be shared is: a cluster (cluster.go) is one RocketMQ as one identity sees it, and holds the connections (one to each broker),
// the routes and what is thought of each broker. Producers and Consumers count their use of it; the last one that closes ends its connections and
// goroutines before its Close returns. So 5,000 declared Producers cost their own few fields each, and one goroutine, the cluster's keeper, does
// for all of them what has to be done on a timer:
//
//	routes (refresh.go)  those in use are asked for again, busy ones every 30 s, idle ones every 5 min, those in trouble every 5 s
//	checks (health.go)   the name servers and each broker are asked every 30 s, every 5 s while something is wrong; Err answers from that
//	forget (refresh.go)  topics and brokers that nobody names
//
// The way of a message out:
//
//	Send (send.go) -> valid ones are packed into requests -> a queue of a broker that is not avoided (avoid.go), by turns -> wire.SendBatch, or
//	wire.Send for one alone -> on a failure another broker, inside the caller's deadline and the Producer's retries, under the same ids
//
// A route outlives name servers that are away, and brokers that they have forgotten: the brokers' own answers and refused connections say what is
// true. Brokers that fail or are slow are avoided for 0.5 s, doubled with each failure up to 30 s; then one request tries them. When all are avoided
// the one whose time ends first is asked all the same.
//
// If you debug a Producer that is not Ready, read producer.go and proof/; one that is Ready and fails: avoid.go and routes.go; a goroutine that
// stays: cluster.go.
package remoting
