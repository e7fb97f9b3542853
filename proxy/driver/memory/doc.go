// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package memory is an embedded broker in this process with RocketMQ's semantics, and the driver that leads to it. It serves the quickstart
// and the tests of everything above; nothing is written to disk and nothing survives the process.
//
//	broker := memory.NewBroker(memory.Options{})
//	drv := memory.New(broker)
//
// It keeps every promise of the driver package exactly: leases and nack delays to the clock's precision, attempts counted, handles valid from
// any Consumer of the group, acknowledgements final when Ack returns. A test that needs a broker that misbehaves asks [Broker.Faults].
//
// How it works: a topic has queues of messages with offsets; a group has a [cursor] per topic with a position per queue. What was fetched and not
// acknowledged is held by the cursor in one of three places: leased or delayed (a heap by due time) or ready (a list that is served before new
// messages). There is no goroutine and, but for the checks of
// transactions while somebody watches them, no timer: whoever calls moves what is due, and a waiting Fetch arms one timer for the next due time on
// its caller's goroutine. Time is that of package time, so the whole works inside a testing/synctest bubble when the Broker is made in it.
//
// Bounds: messages and bytes per topic, bytes per broker, topics and groups. At a bound, messages that all groups have acknowledged are dropped,
// the oldest first. When that is not enough Send answers driver.Throttled with the limit's name: what somebody still has to get is never
// dropped, and neither is what no group has ever read.
//
// One mutex guards the broker; under it nothing blocks, copies bodies or calls out.
//
// Files: broker.go the broker and its options, topic.go queues and retention, cursor.go positions and leases, handle.go the text form of a
// lease, transactions.go and checks.go messages that wait for a decision, filter.go and sql*.go filters, faults.go faults for tests, driver.go, producer.go and consumer.go the driver.
package memory
