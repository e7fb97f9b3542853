// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// receiverMark stands between a group and what names a receiver. A group that somebody chose has no % in it, and a RocketMQ namespace and a group have
// exactly one between them, so that no other object can have a group of this form.
const receiverMark = "%%"

// MaxBroadcastGroupBytes bounds the group of a Consumer whose receivers have groups of their own: a mark and a hash follow it.
const MaxBroadcastGroupBytes = MaxGroupBytes - len(receiverMark) - 2*receiverHashBytes

const receiverHashBytes = 10

// ReceiverKey stands for a receiver's name, which may have any characters, in the name of its group: 20 hexadecimal digits.
func ReceiverKey(clientID string) string {
	sum := sha256.Sum256([]byte(clientID))
	return hex.EncodeToString(sum[:receiverHashBytes])
}

// ReceiverGroup is the group of one receiver of a broadcasting Consumer's group; key is ReceiverKey's.
func ReceiverGroup(group, key string) string { return ReceiverGroups(group) + key }

// ReceiverGroups is how the groups of all receivers of group begin.
func ReceiverGroups(group string) string { return group + receiverMark }

// GroupKeeper looks after groups that a broadcasting Consumer makes for its receivers. Drivers with Capabilities.Broadcast implement it. All methods are
// safe for concurrent use, block for at most ctx, and use cfg for the connection, the namespace and the brokers of its subscriptions.
type GroupKeeper interface {
	// MarkGroup notes at the brokers that cfg.Group is in use now, to the minute. The group must exist. For a group that is new it must have returned
	// before anything is fetched.
	MarkGroup(ctx context.Context, cfg ConsumerConfig) error
	// ListGroups are the groups at the brokers whose names begin with prefix.
	ListGroups(ctx context.Context, cfg ConsumerConfig, prefix string) ([]GroupSeen, error)
	// GroupSeen is when cfg.Group was last marked; zero = never.
	GroupSeen(ctx context.Context, cfg ConsumerConfig) (time.Time, error)
	// RemoveGroup deletes cfg.Group with its positions and what was to come again, but not its dead letters. Nobody may be in it. One that is not there is
	// no error.
	RemoveGroup(ctx context.Context, cfg ConsumerConfig) error
}

// GroupSeen is a group and when it was last marked; zero = never.
type GroupSeen struct {
	Group string
	Seen  time.Time
}
