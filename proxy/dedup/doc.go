// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package dedup remembers what was sent under which id, and answers a repetition with the first result in place of sending it again.
//
// A [Memory] belongs to one Producer on one host. It looks at messages whose id the caller chose; an id counts for its topic. The first send of an id is
// the owner of its entry; a repetition meanwhile waits for the owner's result and shares it, one that comes within the window after it gets the result from
// memory. What failed is forgotten at once, so that the next repetition is sent. The same id with other content is refused: it is a mistake that would lose
// a message.
//
// A send goes on when its caller has left, for up to [linger] and while such sends are few ([MaxLeftBytes]): a caller that lost its answer comes again with the
// same id, and then there is a result. So sends run in goroutines of their own, which Close joins.
//
// Messages with a sharding key keep the order of their call also where an earlier one of them is a repetition of what is under way: those behind it are sent
// when it is stored, and fail when it fails.
//
// What it does not cover: other hosts, a client that was opened anew (a restart, a changed connection, an idle time-out), entries that were forgotten
// because there were too many, and a broker that stored a message and did not say so in time.
//
// Everything is under one mutex; nothing is sent and nobody waits under it. Entries that are over go with the next send, or by a timer that exists only
// while there are entries.
package dedup
