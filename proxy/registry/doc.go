// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package registry knows which RocketMQ clients run in this process, and is the only one that opens and closes them.
//
// # Use
//
// A reconciler states what it sees, on every pass: Acquire(spec) for an object that should run, Release(key) for one that is dying, gone,
// suspended or of another UID. Both return at once; Notify says when it is worth looking again. The data plane takes a client by the
// object's name with Use, and gives it back with Use.Release.
//
// # How it works
//
// There is one entry per object UID and one lock. Whatever happens (a call, a timer, a worker's result) notes a fact in the entry and
// wakes it; advance (turn.go) then looks at all facts and does the next thing that they ask for. The state is derived from the facts
// and is never set. A turn under the lock only decides; goroutines, Notify, Observer and log lines follow when the lock has been left.
//
//		            Acquire            confirmed, opened
//		 Stopped ------------> Starting ------------> Running <-----------------------+
//		    ^                   |   ^                  |   |                          |
//		    |   no answer, error|   |back-off,         |   | unused for IdleTimeout   | opened
//		    |   group in use    v   |group free        |   v                          |
//		    |                  Failed <----------------+  Draining --> Idle -- Use --> Starting
//		    |                   |     client lost,     |
//		    |  Release          |     older object     | Release
//		    +---- Draining <----+----------------------+        Starting and Idle as well
//
//	  - Write-ahead: the entry is visible, as Starting, before Confirm reads the object uncached, and Open follows only on an answer that is
//	    younger than 3 s. While an entry exists the host does not report the object as released, so an object that is live after the entry
//	    appeared cannot go without waiting for it. That is why a client that ran is opened again (Idle, lost connection) without the API server.
//	  - An entry stays until the last Close of its clients has returned: an Open that was cancelled and answers late is closed first.
//	  - A changed spec: what only the registry looks at is adopted; else Client.Update is asked; else the client is replaced: a producer's
//	    new client is up before the old one drains, a consumer's spec is probed, then the old client closes, then the new one opens. A
//	    change while another is being tried cancels that try, so the latest wins and a wrong name server does not delay the right one.
//	  - Group: see group.go. The older object (creation, then UID) has it. A younger one that runs is stopped only when the older has
//	    been confirmed by the API server, so a stale view cannot evict anybody, and the older opens when the younger has been closed.
//	  - Opening is bounded per set of name servers (slots.go); who waits there has no goroutine. Only work has goroutines: one attempt
//	    and the closing clients of an entry. Back-off, idle time-outs and health are timers, one health timer for all.
//	  - Uses are a count in the client (not the entry): when the drain begins, nobody can take that client any more and the count only falls.
//	  - Audit compares with an uncached list, and goroutines by their pprof label "client"; a goroutine that a driver shares between clients
//	    must therefore be started without that label (pprof.SetGoroutineLabels(context.Background()) as its first line).
//
// # The seed report
//
// What the risk analysis of the earlier proxy found, and why it cannot be here:
//
//   - Producers are created, never released: an entry is the only way to a client, and Release, IdleTimeout, Close and Audit each end in
//     retire, which drains and closes (TestSeedReport_ProducersAreReleased...).
//   - Stream clean-up in goroutines that nobody waits for: Use.Release is synchronous; workers are started by goRun and arm, counted
//     under the lock, and joined by Close (TestSeedReport_EveryGoroutineIsJoined...).
//   - Unlock, clean, lock again: a turn holds the lock once and acts after it (TestSeedReport_NothingIsCalledUnderTheLock...).
//   - A full channel drops: there is no channel of work; facts are level-triggered and cannot be lost (TestSeedReport_NoChangeIsDropped...).
//   - A check every 30 s for one minute without use: an exact idle time-out per object (TestSeedReport_IdleClientsAreClosed...).
//   - Leak metrics that count nothing: Audit finds, counts and repairs (TestSeedReport_LeaksAreCountedAndRepaired...).
//
// # Trade-offs
//
// One lock for all entries: a turn is microseconds, and one lock is one order. A group that moves between name servers leaves the old place
// before it is proven in the new. A consumer whose probe succeeded and whose Open then fails has no client until a try succeeds: two
// clients with different subscriptions in one group would lose messages.
package registry
