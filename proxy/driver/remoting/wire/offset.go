// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"strconv"
	"time"
)

// Position is a group's committed offset in a queue.
type Position struct {
	Offset int64
	// Known is false when the group has none.
	Known bool
	// Doubtful: the answer is 0 and comes from a broker before 5.0, which answers 0 as well when the group has no position in a queue whose
	// first message is still in memory.
	Doubtful bool
}

// ConsumerOffset asks for group's position in q.
func (c *Client) ConsumerOffset(ctx context.Context, q Queue, group string) (Position, error) {
	cmd := queueCommand(reqQueryConsumerOffset, q)
	cmd.Fields["consumerGroup"] = group
	cmd.Fields["setZeroIfNotFound"] = "false"
	answer, err := c.Invoke(ctx, q.Address, cmd)
	if code, ok := CodeOf(err); ok && code == CodeQueryNotFound {
		return Position{}, nil
	}
	if err != nil {
		return Position{}, err
	}
	offset, err := offsetOf(answer)
	return Position{Offset: offset, Known: err == nil, Doubtful: offset == 0 && !answer.IsVersion5()}, err
}

// SetConsumerOffset stores group's position in q and waits for the broker's answer.
func (c *Client) SetConsumerOffset(ctx context.Context, q Queue, group string, offset int64) error {
	cmd := queueCommand(reqUpdateConsumerOffset, q)
	cmd.Fields["consumerGroup"] = group
	cmd.Fields["commitOffset"] = strconv.FormatInt(offset, 10)
	_, err := c.Invoke(ctx, q.Address, cmd)
	return err
}

// ResetOffset moves group to offset in q, as its next pop finds it, whatever the broker has in memory of earlier pops (INVOKE_BROKER_TO_RESET_OFFSET, done by
// the broker itself since 5.1 with useServerSideResetOffset, the default). The group must exist, and offset be between the oldest and the next one. It needs
// the right "Update" where there is ACL 2.0.
func (c *Client) ResetOffset(ctx context.Context, q Queue, group string, offset int64) error {
	cmd := queueCommand(reqResetOffset, q)
	cmd.Fields["group"] = group
	cmd.Fields["offset"] = strconv.FormatInt(offset, 10)
	cmd.Fields["timestamp"] = "-1"
	cmd.Fields["isForce"] = "true"
	_, err := c.Invoke(ctx, q.Address, cmd)
	return err
}

// MaxOffset is the offset that the next message of q will get, but for what the broker has stored and not yet dispatched: that takes it milliseconds after
// its answer to the send (measured on 5.5.0, which does not heed the request's field "committed").
func (c *Client) MaxOffset(ctx context.Context, q Queue) (int64, error) {
	return c.queueOffset(ctx, queueCommand(reqGetMaxOffset, q), q)
}

// MinOffset is the offset of the oldest message of q that is still stored.
func (c *Client) MinOffset(ctx context.Context, q Queue) (int64, error) {
	return c.queueOffset(ctx, queueCommand(reqGetMinOffset, q), q)
}

// SearchOffset is the offset of the first message of q that was stored at t or later.
func (c *Client) SearchOffset(ctx context.Context, q Queue, t time.Time) (int64, error) {
	cmd := queueCommand(reqSearchOffset, q)
	cmd.Fields["timestamp"] = strconv.FormatInt(t.UnixMilli(), 10)
	return c.queueOffset(ctx, cmd, q)
}

// Bounds are the oldest and the next offset of q. Where the credentials allow reading but not asking for offsets (ACL 2.0 wants the right "Get" for
// that, and a consumer has "Sub"), a pull of nothing in group's name tells both; the group must exist.
func (c *Client) Bounds(ctx context.Context, q Queue, group string) (oldest, next int64, err error) {
	next, err = c.MaxOffset(ctx, q)
	if code, ok := CodeOf(err); ok && code == CodeNoPermission {
		return c.boundsByPull(ctx, q, group)
	}
	if err != nil {
		return 0, 0, err
	}
	oldest, err = c.MinOffset(ctx, q)
	return oldest, next, err
}

// noSuchTag matches no message, so that the pull brings none.
const noSuchTag = "proxy-asks-for-offsets-only"

// pullSubscription is the bit of a pull's sysFlag that says that the filter is in the request.
const pullSubscription = 1 << 2

func (c *Client) boundsByPull(ctx context.Context, q Queue, group string) (oldest, next int64, err error) {
	answer, err := c.pull(ctx, q, group, 0, 1, noSuchTag)
	if answer == nil {
		return 0, 0, err
	}
	oldest, err = strconv.ParseInt(answer.Fields["minOffset"], 10, 64)
	if err == nil {
		next, err = strconv.ParseInt(answer.Fields["maxOffset"], 10, 64)
	}
	if err != nil {
		return 0, 0, frameErrorf("the answer to a pull has offsets %q and %q", answer.Fields["minOffset"], answer.Fields["maxOffset"])
	}
	return oldest, next, nil
}

func (c *Client) queueOffset(ctx context.Context, cmd *Command, q Queue) (int64, error) {
	answer, err := c.Invoke(ctx, q.Address, cmd)
	if err != nil {
		return 0, err
	}
	return offsetOf(answer)
}

func queueCommand(code int, q Queue) *Command {
	return &Command{Code: code, Fields: map[string]string{"topic": q.Topic, "queueId": strconv.Itoa(q.ID), "bname": q.Broker}}
}

func offsetOf(answer *Command) (int64, error) {
	text, ok := answer.Fields["offset"]
	if !ok {
		return 0, frameErrorf("the answer has no offset")
	}
	offset, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, frameErrorf("offset %q is not a number", text)
	}
	return offset, nil
}
