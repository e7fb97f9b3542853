// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"encoding/base64"
	"strconv"
	"strings"
	"time"
)

// RecallHandle names a timer message that waits at a broker: what a broker since 5.4 answers to its send (RecallMessageHandle.HandleV1: base64url of
// "v1 topic broker deliverMillis uniqKey").
type RecallHandle struct {
	// Topic has its namespace.
	Topic, Broker string
	DeliverAt     time.Time
	ID            string
}

// ParseRecallHandle reads the text of a handle, which may come from anybody.
func ParseRecallHandle(text string) (RecallHandle, error) {
	const longest = 1024
	if len(text) > longest {
		return RecallHandle{}, frameErrorf("a recall handle of %d bytes", len(text))
	}
	plain, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return RecallHandle{}, frameErrorf("a recall handle that is not base64")
	}
	parts := strings.Split(string(plain), " ")
	if len(parts) != 5 || parts[0] != "v1" {
		return RecallHandle{}, frameErrorf("a recall handle that has not the five parts of version 1")
	}
	ms, err := strconv.ParseInt(parts[3], 10, 64)
	if err != nil || parts[1] == "" || parts[2] == "" || parts[4] == "" {
		return RecallHandle{}, frameErrorf("a recall handle whose time is not a number, or with an empty part")
	}
	return RecallHandle{Topic: parts[1], Broker: parts[2], DeliverAt: time.UnixMilli(ms), ID: parts[4]}, nil
}

// Recall cancels the timer message that handle names, at its broker (code 370). The broker writes a message that deletes the other one when its time has
// come; so it answers yes to any handle whose time is ahead. CodeNoPermission: recallMessageEnable is off at the broker, the default, or a right is
// missing; CodeIllegalOperation: the handle is wrong for topic, or its time has passed.
func (c *Client) Recall(ctx context.Context, address, producerGroup, topic, broker, handle string) error {
	_, err := c.Invoke(ctx, address, &Command{Code: reqRecallMessage, Fields: map[string]string{
		"producerGroup": producerGroup, "topic": topic, "recallHandle": handle, "bname": broker,
	}})
	return err
}
