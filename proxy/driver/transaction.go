// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"time"
)

// Transactional is what a Producer offers beside sending when its driver has Capabilities.Transactions and its configuration asked for them. All methods
// are safe for concurrent use.
//
// A transaction is one message that the broker keeps back until somebody decides. While nobody does, the broker asks (a check), about every half minute
// and some 15 times, then it gives the message up: it is not delivered.
type Transactional interface {
	// Begin stores m, which has neither a time nor anything else that only ordinary messages have, so that nobody gets it yet. It does not try again
	// what may have been stored: each Begin is a transaction of its own, also under the same id. What was stored by a Begin that failed is
	// asked for in checks.
	Begin(ctx context.Context, m *Message) (Transaction, error)

	// End commits or rolls back, and returns when the broker has confirmed it. The handle may be of any process's client of this group, that of Begin or
	// that of any check. It delivers a transaction once, whoever else ends it at the same time, through whichever handle. Ending again the same way
	// answers the same. Errors: TransactionEnded (it was ended the other way, as far as that can be told: a commit always, a rollback by the client that
	// did it), InvalidHandle, TooLate (the broker does not have the message any more), or a retryable one, whose effect is unknown: end again.
	End(ctx context.Context, h TransactionHandle, d Decision) error

	// WatchChecks makes checks of this producer's transactions come to take, until stop. Brokers ask the processes of which somebody watches, in turn. take must
	// not block; false = nobody here could be asked, and the check counts as not answered. It is not called for a transaction that is known to be
	// ended. stop joins calls of take under way. Close stops too.
	WatchChecks(take func(Check) bool) (stop func())
}

// TransactionHandle names a transaction towards its driver. It is text so that it can travel inside a sealed handle.
type TransactionHandle string

// Transaction is one that was begun.
type Transaction struct {
	// MessageID is the id of the message in RocketMQ (property UNIQ_KEY): the caller's Message.ID.
	MessageID string
	Handle    TransactionHandle
	// Broker has it.
	Broker string
}

// Decision is what becomes of a transaction.
type Decision string

// The decisions.
const (
	Commit   Decision = "COMMIT"
	Rollback Decision = "ROLLBACK"
)

// Check is a broker's question what became of a transaction.
type Check struct {
	Message
	// Handle ends the transaction that the question is about.
	Handle TransactionHandle
	// Times counts the checks of this transaction, this one included.
	Times    int
	BornTime time.Time
}

// ValidateTransaction checks what Begin takes, beside ValidateMessage.
func ValidateTransaction(m *Message) error {
	switch {
	case m != nil && m.When.Later():
		return Errorf(InvalidMessage, "delay", "a message of a transaction cannot be delivered later: commit it when its time has come")
	case m != nil && m.ShardingKey != "":
		return Errorf(InvalidMessage, "sharding_key", "a message of a transaction cannot have a sharding key: it would come after messages that were sent later")
	default:
		return nil
	}
}

// ErrNoTransactions is what producers answer whose configuration did not ask for transactions.
func ErrNoTransactions() error {
	return Errorf(Unsupported, "", "this Producer was not made for transactions: declare spec.transactions")
}
