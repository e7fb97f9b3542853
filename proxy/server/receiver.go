// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
)

// Broadcaster is a Consumer's client whose receivers get every message, each by a window of its own.
type Broadcaster interface {
	// ReceiverWindow answers the window of the receiver with that client id and what lets it go; it may open it first, and blocks for at most ctx. One that
	// was never here is refused unless it may be new.
	ReceiverWindow(ctx context.Context, clientID string, mayBeNew bool) (Window, func(), error)
}

// windowOf is the window that a receiver, which may be new, or an acknowledgement of its deliveries wants. The caller calls done when it needs it no more.
func windowOf(ctx context.Context, use Use, clientID string, mayBeNew bool) (w Window, done func(), err error) {
	if len(clientID) > maxClientIDBytes {
		return nil, nil, invalid("client_id", "it has %d bytes; it may have %d", len(clientID), maxClientIDBytes)
	}
	b, broadcasts := use.Client().(Broadcaster)
	if !broadcasts {
		return use.Client().(Window), func() {}, nil
	}
	if clientID == "" {
		return nil, nil, invalid("client_id", "it is missing; this Consumer has the model Broadcasting, which keeps the progress of each receiver under its client_id")
	}
	return b.ReceiverWindow(ctx, clientID, mayBeNew)
}
