// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"slices"
	"strings"
	"time"
)

// Groups are the names of the groups at the broker that begin with prefix, in order. Brokers have no shorter question: the answer has every group, so ask
// rarely. It needs the right to list groups where there is ACL.
func (c *Client) Groups(ctx context.Context, address, prefix string) ([]string, error) {
	answer, err := c.Invoke(ctx, address, &Command{Code: reqAllGroups, Fields: map[string]string{}})
	if err != nil {
		return nil, err
	}
	var all struct {
		Table map[string]struct{} `json:"subscriptionGroupTable"`
	}
	if err := unmarshalLoose(answer.Body, &all); err != nil {
		return nil, frameErrorf("the list of groups: %v", err)
	}
	var names []string
	for name := range all.Table {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// DeleteGroup takes a group and its positions off the broker; one that is not there is no error. It needs the right to delete it where there is ACL.
func (c *Client) DeleteGroup(ctx context.Context, address, group string) error {
	_, err := c.Invoke(ctx, address, &Command{Code: reqDeleteGroup, Fields: map[string]string{"groupName": group, "cleanOffset": "true"}})
	return err
}

// DeleteTopic takes a topic and what is in it off the broker; one that is not there is no error.
func (c *Client) DeleteTopic(ctx context.Context, address, topic string) error {
	_, err := c.Invoke(ctx, address, &Command{Code: reqDeleteTopic, Fields: map[string]string{"topic": topic}})
	return err
}

// seenQueue is the queue under whose number a group's offsets have when somebody last used it, in minutes since 1970. No topic has so many queues. Brokers
// keep offsets of any number (ConsumerManageProcessor, 5.5.0), replicate them, and delete them with the group; what lists a group's progress asks for
// queues that exist.
const seenQueue = 1 << 20

// MarkSeen notes at the broker of q that group is in use at t. The group must exist there.
func (c *Client) MarkSeen(ctx context.Context, q Queue, group string, t time.Time) error {
	q.ID = seenQueue
	return c.SetConsumerOffset(ctx, q, group, t.Unix()/60)
}

// LastSeen is when group was last marked at the broker of q; zero = never.
func (c *Client) LastSeen(ctx context.Context, q Queue, group string) (time.Time, error) {
	q.ID = seenQueue
	at, err := c.ConsumerOffset(ctx, q, group)
	if err != nil || !at.Known {
		return time.Time{}, err
	}
	return time.Unix(at.Offset*60, 0), nil
}
