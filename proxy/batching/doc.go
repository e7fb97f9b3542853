// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package batching puts sends that wait anyway into one request: natural batching.
//
// A [Queue] belongs to one Producer. While fewer than InAir requests to a topic are under way, a Send goes to the driver at once, in its
// caller's own goroutine: a lone message pays for no hop and waits for no timer. While InAir are under way, what comes waits, and goes
// next, together, as much as one request may carry (driver.BatchLimits). So the batch size follows the load, and the delay is never more than
// the request that is under way anyway. Of the requests that may be under way, all but one are for few callers or for many: in between, one
// carries most. When what waits fills a whole request, it does not wait for a slot either, up to eight at a time.
//
// Messages with a sharding key wait in lines of their own (lanes.go): one for each queue of the topic, with one request in the air, so that they are stored in
// the order in which they were admitted. They gather all the same: what waits for one queue goes together.
//
// Each message has its own answer. The messages of one Send keep their order: its second request starts after its first was answered. When
// the driver refuses a request as a whole because of a message's content, the request is split until the bad message stands alone; never
// after an unknown effect, because that would duplicate.
//
// Goroutines exist only while something waits (one per request slot of a topic); Close joins them and every waiting caller has an answer.
// What may wait is bounded in messages and bytes over all topics; beyond that Send answers driver.Throttled and names the limit.
//
// Trade-off taken: a caller that gives up (its context ends) gets its answer at once, while its messages that are in a request with
// others' are still sent: the effect is unknown, as its Timeout says.
//
// Files: queue.go is the queue and its life, call.go one caller's part, lanes.go what sharding keys need, request.go one request to the driver.
package batching
