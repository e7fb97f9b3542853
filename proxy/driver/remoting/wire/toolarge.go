// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"regexp"
	"strconv"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// brokersLimit is how brokers 4.9 and 5.5 tell their maxMessageSize, with code 13, for whatever makes a message too large (seen; SendMessageProcessor).
var brokersLimit = regexp.MustCompile(`body length limit (\d+)B`)

// ExplainTooLarge makes of a broker's refusal of one message with a body of so many bytes, before compression, one that names the field and the limit. Brokers
// tell the limit only, and tell it for other reasons too; any other error is returned as it is.
func ExplainTooLarge(err error, body int) error {
	if driver.ReasonOf(err) != driver.InvalidMessage {
		return err
	}
	told := brokersLimit.FindStringSubmatch(err.Error())
	if told == nil {
		return err
	}
	limit, parseErr := strconv.Atoi(told[1])
	if parseErr != nil || body <= limit {
		return err
	}
	return &driver.Error{Reason: driver.InvalidMessage, Field: "body", Err: err, Message: "the body has " + strconv.Itoa(body) +
		" bytes; the broker takes at most " + told[1] + " (its maxMessageSize, for what a body has after compression)"}
}
