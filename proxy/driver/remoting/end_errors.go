// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"strings"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// surelyRefused reports whether err of a commit says that nothing was stored. Code 1 can be anything, but for the sentences of EndTransactionProcessor
// before it stores (5.5.0).
func surelyRefused(err error) bool {
	code, answered := wire.CodeOf(err)
	if !answered {
		return false
	}
	switch code {
	case wire.CodeSystemBusy, wire.CodeNoPermission, wire.CodeSlaveNotAvailable, wire.CodeIllegalOperation, wire.CodeNotSupported:
		return true
	default:
		return wire.IsHalfGone(err) || isWrongHalf(err)
	}
}

// isWrongHalf: there is a half message at the place, but it is another one.
func isWrongHalf(err error) bool {
	code, answered := wire.CodeOf(err)
	text := ""
	if err != nil {
		text = err.Error()
	}
	return answered && code == wire.CodeSystemError && (strings.Contains(text, "producer group wrong") || strings.Contains(text, "offset wrong"))
}

// judge is what a failure means to the caller.
func (e *ending) judge(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return driver.Errorf(driver.Timeout, "", "the time to end the transaction is over, and whether it was ended is not known: end it again: %w", err)
	case wire.IsHalfGone(err):
		return driver.Errorf(driver.TooLate, "", "broker %s does not have the message any more: it was kept back for too long", e.h.Broker)
	case isWrongHalf(err):
		return driver.Errorf(driver.InvalidHandle, "transaction", "broker %s has no transaction of this Producer there: %w", e.h.Broker, err)
	default:
		return wire.Errorf(err, "end the transaction at broker %s", e.h.Broker)
	}
}

func errEnded(how driver.Decision) error {
	word := map[driver.Decision]string{driver.Commit: "committed", driver.Rollback: "rolled back"}[how]
	return driver.Errorf(driver.TransactionEnded, "", "the transaction was %s before; that cannot be changed", word)
}

// noteOf leaves out what is this transaction's trouble alone.
func noteOf(err error) error {
	if code, answered := wire.CodeOf(err); answered && code != wire.CodeNoPermission {
		return nil
	}
	return err
}
