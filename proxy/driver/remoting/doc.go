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
// Messages with a sharding key have their queue (shard.go), and no other broker is tried for them.
//
// A route outlives name servers that are away, and brokers that they have forgotten: the brokers' own answers and refused connections say what is
// true. Brokers that fail or are slow are avoided for 0.5 s, doubled with each failure up to 30 s; then one request tries them. When all are avoided
// the one whose time ends first is asked all the same.
//
// The way of a message back:
//
//	Fetch (fetch.go) -> plan (polls.go): pops against the receivers' credit less what is in the air -> an answer is put into arrived by the connection's
//	reader -> decoded in Fetch's goroutine (receive.go) -> its handle (handle.go) says all that any host needs to acknowledge it
//	Ack (ack.go) -> gathered with the acks of other calls into BATCH_ACK, two requests in the air per group and broker -> judged by the broker's clock
//	Extend, Nack, GiveBack (lease.go) -> a new invisible time; DeadLetter (deadletter.go) -> a copy to the dead-letter topic, then an ack
//
// A Consumer has one lock (polls), held for computing only, and no goroutine: those that wait are the callers' own. The polls of a pair (a topic on a
// broker) are: one long poll while it is quiet; up to 16 pops at once while the broker says that it has more; only questions whether there is something
// while the credit is too small for a long poll on each pair. Polls that outlive a Fetch are adopted by the next one. What comes when none does is
// given back, uncounted, after a second. While nobody fetches there is no poll, no timer and no heartbeat; routes, members of the group and its
// existence are looked after (look.go) in a short goroutine now and then while somebody does.
//
// The way of a transaction:
//
//	Begin (begin.go) -> a half message, at another broker only when one has refused it -> its place is the handle (half.go)
//	End (end.go) -> one call at a time in this process (fates.go) -> a lock at the message's broker and its index, asked at once -> END_TRANSACTION
//	-> the lock goes back when the index has the message (locks.go, by the keeper)
//	a check: onRequest -> a short-lived worker (checks.go) -> in its topic already? answered here; else to who watches (WatchChecks). A producer group is
//	named to brokers while somebody watches (groups.go)
//
// What a broker of 5.5.0 does, seen, and what follows from it here:
//
//	code 0 says nothing about the effect of an ack; a lease's end by the  an ack is asked and answered for inside the lease only, by an estimate of
//	broker's clock is the only truth                                      each broker's clock (clock.go); pop answers and changes show it
//	an ack that cannot be stored is answered 0 as well, and only pop.log   nothing to be done here; docs/drivers.md tells it
//	says so (handlePutMessageResult in AckMessageProcessor; read, not seen)
//	a lease that ended is delivered again 2 to 3 s later; until then a     a change that came too late is undone (changed in lease.go); delays are asked
//	change still has an effect                                            for 2 s shorter (revive)
//	a change after an ack delivers again                                  refused for the last acks of this process; the window refuses the others
//	a pop without an answer code of its own: 210 with restNum > 0 means   tried again after a pause that grows (landed in polls.go)
//	that the queues are locked by other pops
//	a message that is shown as a poll is put away wakes nobody            the first poll after a message is short (patience in polls.go)
//	pops in order keep one batch for each queue, with traps of their own    order.go; the window above acknowledges in order (proxy/delivery/lanes.go)
//	a pop in order without an answer holds its queues until its lease ends  it is asked again under its attempt id (attempt in polls.go)
//	initMode 1 skips or repeats                                           positions are written when a group is made (start.go); pops use 0 always
//	a plain pop of %RETRY%group stops redelivery for all groups            it is popped in order (source in consumer.go)
//	long polls whose connection is closed take nothing                    Close closes the connections at once (Close in consumer.go)
//	brokers move the group's position at the pop                          lag is what nobody has leased (lag.go)
//	a position that is set does not move a pop whose queue the broker has   positions are reset (seek.go); what was popped before is told by the broker's
//	in memory, and a reset does not reach leases and nacks that run         own times, which leases and retries carry, and dropped when it comes
//	a commit is done as often as it is told, at each place that checks    end.go
//	have given the half message
//	what was ended is written down after up to 3 s, and asked for until   a check looks into the index before it asks anybody (checks.go)
//	then
//
// If you debug a Producer that is not Ready, read producer.go and proof/; one that is Ready and fails: avoid.go and routes.go; a goroutine that
// stays: cluster.go; a transaction that is delivered twice, or never: end.go; a Consumer that gets nothing: plan in polls.go; a message that comes again: left in handle.go.
package remoting
