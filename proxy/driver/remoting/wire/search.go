// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"maps"
	"strconv"
	"time"
)

// FirstAt is the offset of the first message of q that was stored at t or later, to the millisecond; the next offset when there is none. It is exact, which
// a broker's own search (SearchOffset) is not: one before 5.0 answers the message that is nearest in time, be it older, and 5.5.0 the first place of
// the queue's file when its oldest message is younger than t, be that place one that was deleted (ConsumeQueue.binarySearchInQueueByTime). So its answer is
// taken for a guess; messages on both sides of it are read in group's name, which must exist, and where the guess is wrong, or the credentials do not allow
// the question, some more of them, by halves.
func (c *Client) FirstAt(ctx context.Context, q Queue, group string, t time.Time) (int64, error) {
	low, high, err := c.Bounds(ctx, q, group)
	if err != nil || low >= high {
		return high, err
	}
	// Everything before low is older than t; high is not, or is the next offset.
	look := func(at int64) error {
		stored, offset, err := c.StoredAt(ctx, q, group, at, high)
		switch {
		case err != nil:
			return err
		case offset < high && stored.UnixMilli() < t.UnixMilli():
			low = offset + 1
		default:
			high = at // there is nothing between at and offset
		}
		return nil
	}
	if guess, err := c.SearchOffset(ctx, q, t); err == nil {
		for _, at := range []int64{guess, guess - 1} {
			if at >= low && at < high {
				if err := look(at); err != nil {
					return 0, err
				}
			}
		}
	} else if code, ok := CodeOf(err); !ok || code != CodeNoPermission {
		return 0, err
	}
	for low < high {
		if err := look(low + (high-low)/2); err != nil {
			return 0, err
		}
	}
	return high, nil
}

// StoredAt is when the first message of q at offset at or after it, before end, was stored, and its offset; end when there is none.
func (c *Client) StoredAt(ctx context.Context, q Queue, group string, at, end int64) (time.Time, int64, error) {
	for at < end {
		answer, err := c.pull(ctx, q, group, at, 1, filterAll)
		if answer == nil {
			return time.Time{}, 0, err
		}
		if err == nil {
			messages, err := DecodeMessages(answer.Body)
			if err == nil && (len(messages) == 0 || messages[0].Offset < at) {
				err = frameErrorf("a pull from offset %d brought no message from there", at)
			}
			if err != nil {
				return time.Time{}, 0, err
			}
			return messages[0].Stored, min(messages[0].Offset, end), nil
		}
		// A hole, or what was deleted since: the broker says where to go on.
		next, parsed := strconv.ParseInt(answer.Fields["nextBeginOffset"], 10, 64)
		if parsed != nil || next <= at {
			return time.Time{}, 0, err
		}
		at = next
	}
	return time.Time{}, end, nil
}

// pull asks for up to n messages of q with one of tags from offset on, without waiting. The answer is not nil where there is one that says something about offsets, then with the
// broker's error if no message came.
func (c *Client) pull(ctx context.Context, q Queue, group string, offset int64, n int, tags string) (*Command, error) {
	cmd := queueCommand(reqPullMessage, q)
	maps.Copy(cmd.Fields, map[string]string{
		"consumerGroup": group, "queueOffset": strconv.FormatInt(offset, 10), "maxMsgNums": strconv.Itoa(n), "sysFlag": strconv.Itoa(pullSubscription),
		"commitOffset": "0", "suspendTimeoutMillis": "0", "subVersion": "0", "expressionType": filterTag, "subscription": tags,
	})
	answer, err := c.Invoke(ctx, q.Address, cmd)
	switch code, _ := CodeOf(err); code {
	case CodeSuccess, CodePullNotFound, CodePullRetryImmediately, CodePullOffsetMoved:
		return answer, err
	default:
		return nil, err
	}
}
