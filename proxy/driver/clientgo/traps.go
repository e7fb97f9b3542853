// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

// What rocketmq-client-go v2.1.3-0.20251226070945-2173d070fd1b does, what this driver does about it, and what remains ("remains:"). RocketMQ's own
// behaviour is marked with "broker".
//
// Life
//   - Clients with the default instance name share connections, credentials and name servers: each client has its ClientID as instance name.
//   - New without Start leaves an entry in a global map, Shutdown before Start panics: start follows New at once, and a Start that failed is not shut down.
//   - Producer.Start touches no network, Consumer.Start logs what is wrong: prove.go asks first. A producer's routes are fetched right after its start.
//   - Start and Shutdown may hang on a dead broker (they dial and write under locks): they run beside the caller, who returns when his context ends.
//   - Shutdown closes the channels of all queues while pull loops may be sending to them, which ends the process (upstream #1051): see shutdown in close.go.
//     The inlet is shut and the library's table of queues is empty before Shutdown runs, each of which is enough.
//   - Shutdown does not wait for callbacks, and their later success counts for nothing: acknowledgements end first, the position is committed with an
//     answer, and callbacks are let go last, when their return means nothing.
//   - A heartbeat beside Shutdown connects again and leaves a member in the group that reads nothing, for up to two minutes: Shutdown runs under the library's
//     own lock of heartbeats. Rebalances are held back in the same way.
//   - Shutdown leaves the name server's connection open for up to 120 s: it is closed through the library's own field.
//   - remains: each closed consumer leaves 15 statistics goroutines, 5 of them until the next month (upstream #1147), one clean-up goroutine for
//     ConsumeTimeout, timers in their first sleep (10 s) and polls under way (30 s). Leftovers counts them; IdleConsumers is false for this reason.
//   - Time-outs are one global for all clients and the option to set them races with running clients: set once, before the first client (library.go).
//     A dial holds a client-wide lock; it takes 5 s at most instead of 15.
//   - The logger is global, logs each hiccup as an error and whole messages: rlog.go keeps it quiet and messages out.
//
// Names and addresses
//   - Host names of name servers are refused, and the resolver is asked every two minutes under a lock: resolver.go resolves beside it. remains: a
//     changed address reaches the library after up to two and a half minutes.
//   - There is no hook for dialling: name servers and every broker address of the routes are checked before the start and every 30 s; Err reports a
//     refused one. remains: a name server that announces a bad address is believed until the next check, and a broker that is announced
//     by a host name is resolved again by the library when it dials.
//   - TLS is encryption without identity: not offered.
//   - The namespace is put in front of the message's own topic, again at each try: this driver adds it itself, to a new message per try.
//
// Sending
//   - SendSync with results other than SendOK has no error: they are NotReplicated here.
//   - Retries go beyond the caller's deadline, to the same broker, and try "no permission" again: they are off, send.go does them.
//   - A call may wait for another one's attempt to connect, without a context: it runs in a goroutine that Close waits for.
//   - A batch has no message ids and is never compressed: ids are set on every message; what shall be compressed goes alone.
//   - broker: batches above 4 MiB are lost whole, empty bodies and some properties break it: checked before, batches stay below 1 MiB. A refused batch is
//     tried message by message.
//   - SendOneWay loses silently, request-reply and Pull are broken: not used.
//
// Receiving
//   - Credentials and SQL filters that are wrong are never reported: prove.go.
//   - broker, library: where a new group begins depends on the age of the topic and is known late: position.go writes it before the start. remains: on 4.x
//     a group whose first start was interrupted may begin a young queue at its oldest message.
//   - A group's first retry comes after 40 s, when its retry topic has been found: position.go makes the topic before the start.
//   - PullThresholdForQueue is overwritten at each rebalance, flow control sleeps 50 ms: both are out of the way, the inlet bounds what waits.
//   - A queue that did not pull for 120 s is started anew with everything in flight (upstream #941): the inlet parks for 60 s at most, there is a callback for
//     every message, and a new loop of a queue voids the leases of the old one, so that an acknowledgement is not answered OK in vain.
//   - ConsumeTimeout sends back what is old, counts it, and after 16 times dead-letters what nobody has seen: each message's start time is set so that
//     it never looks old. Leases end here instead.
//   - A failed send-back calls the callback again, with a nil pointer near: this driver never answers "retry later" while it runs.
//   - A callback's panic blocks its queue, (ConsumeSuccess, err) acknowledges: the callback only waits for a verdict.
//   - A rebalance that takes one queue forgets the uncommitted offsets of the others. remains: a crash soon after that repeats up to 5 s of
//     acknowledgements. Close commits what this driver knows.
//   - An empty member list, as a broker gives right after its restart, drops every queue: balance.go keeps them.
//   - A queue that moves away takes its messages along: its leases are void at once, with LeaseExpired.
//   - The committed offset is the lowest open one of the queue: a message that is leased for long holds it down. remains: after a crash up to 65,535
//     messages behind it come again. Close gives such a message back through the retry topic instead, with its count as it was.
//   - Rounded delays: RocketMQ's levels (level 1 is 1 s, the last 2 h); the answer says which. remains: a broker with another messageDelayLevel delays
//     otherwise than answered.
//   - The count of deliveries in this process is not in the broker: after a reopen it starts again from the broker's (ExactAttempts is false).
//   - broker: what a member that pops (the driver Remoting) has not acknowledged or has given back waits in topics of its own, which the library does
//     not read: popretry.go subscribes them. remains: one that comes into being while the consumer runs is noticed after up to 30 s; attempts
//     that the pops counted are kept, as a lower bound.
//   - remains: two members of one group on two hosts share its queues as RocketMQ does, but acknowledge only what they hold (SingleHost).
