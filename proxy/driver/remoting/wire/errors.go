// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// AnswerError is an answer whose code is not success: the peer understood the request and refused it.
type AnswerError struct {
	Request int
	Address string
	Code    int
	Remark  string
}

func (e *AnswerError) Error() string {
	return fmt.Sprintf("%s answered request %d with code %d: %s", e.Address, e.Request, e.Code, firstLine(e.Remark))
}

// CodeOf is the code of an AnswerError in err's chain, and whether there is one.
func CodeOf(err error) (int, bool) {
	var e *AnswerError
	if errors.As(err, &e) {
		return e.Code, true
	}
	return 0, false
}

// ReasonOfCode says what a response code means to the layers above, for any request.
func ReasonOfCode(code int) driver.Reason {
	switch code {
	case CodeSystemBusy:
		return driver.Throttled
	case CodeFlushDiskTimeout, CodeSlaveNotAvailable, CodeFlushSlaveTimeout:
		return driver.NotReplicated
	case CodeMessageIllegal, CodeInvalidParameter:
		return driver.InvalidMessage
	case CodeNoPermission:
		return driver.Unauthorized
	case CodeTopicNotExist:
		return driver.TopicNotFound
	case CodeSubscriptionBadParse:
		return driver.InvalidFilter
	case CodeNotSupported, CodeVersionNotSupported:
		return driver.Unsupported
	default:
		return driver.Unavailable
	}
}

// Errorf makes a driver's error of err: an answer is classified by its code, the end of a context is Timeout, the rest is Unavailable. An error
// that is a driver's already keeps its reason. The text is what was done, then err's.
func Errorf(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	var known *driver.Error
	if errors.As(err, &known) {
		return &driver.Error{Reason: known.Reason, Field: known.Field, Message: what + ": " + known.Message, Err: err}
	}
	reason := driver.Unavailable
	if code, ok := CodeOf(err); ok {
		reason = ReasonOfCode(code)
	} else if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		reason = driver.Timeout
	}
	return driver.Errorf(reason, "", "%s: %w", what, err)
}

// firstLine cuts a remark: brokers put Java stack traces and whole help texts in it.
func firstLine(remark string) string {
	const limit = 300
	for i, r := range remark {
		if r == '\n' || r == '\r' || i >= limit {
			return remark[:i]
		}
	}
	return remark
}
