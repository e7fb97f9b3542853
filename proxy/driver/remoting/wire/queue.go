// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// mayQueue, push, drop and makeRoom want the lock.
func (l *link) mayQueue(bytes int) error {
	switch {
	case l.closed:
		return errClosed()
	case l.retired:
		return errRetired
	case len(l.out) > 0 && l.queued+bytes > l.client.options.QueueBytes, len(l.calls) >= maxCalls:
		return errFull
	}
	return nil
}

func (l *link) push(x *call) {
	l.out = append(l.out, x)
	l.queued += x.bytes
	if l.conn != nil {
		l.wake.Broadcast()
	}
}

// drop takes x out of everything; it reports whether x had not ended before.
func (l *link) drop(x *call) bool {
	if l.calls[x.opaque] != x {
		return false
	}
	delete(l.calls, x.opaque)
	if x.conn == nil {
		l.queued -= x.bytes
		freeFrame(x.frame)
		x.frame = nil
	}
	l.makeRoom()
	return true
}

func (l *link) makeRoom() {
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
}

// awaitRoom waits until something has left the queue, if there is no room for so many bytes.
func (l *link) awaitRoom(ctx context.Context, bytes int) error {
	l.mu.Lock()
	if !errors.Is(l.mayQueue(bytes), errFull) {
		l.mu.Unlock()
		return nil
	}
	if l.room == nil {
		l.room = make(chan struct{})
	}
	room := l.room
	l.mu.Unlock()
	select {
	case <-room:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for room in the queue to %s: %w", l.address, ctx.Err())
	}
}

// takeRound waits for calls and gives them to c: about roundBytes of them. None when c is over. The frames belong to the writer from then on.
func (l *link) takeRound(c *conn, round []*call) []*call {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !c.over {
		bytes, n, now := 0, 0, time.Now()
		for ; n < len(l.out) && bytes < roundBytes; n++ {
			x := l.out[n]
			l.out[n] = nil
			if x.frame == nil {
				continue // it ended in the queue
			}
			x.conn, x.sent = c, now
			l.queued -= x.bytes
			bytes += x.bytes
			round = append(round, x)
		}
		l.out = l.out[n:]
		if len(l.out) == 0 {
			l.out = nil
		}
		if len(round) > 0 {
			l.makeRoom()
			return round
		}
		l.wake.Wait()
	}
	return nil
}

// reply queues an answer to a request of the peer. With a full queue it is lost: the peer asks again, and we must not take more memory.
func (l *link) reply(cmd *Command) {
	frame := newFrame()
	var err error
	if *frame, err = AppendFrame((*frame)[:0], cmd); err != nil {
		freeFrame(frame)
		return
	}
	x := &call{frame: frame, bytes: len(*frame)}
	l.mu.Lock()
	ok := l.conn != nil && l.mayQueue(x.bytes) == nil
	if ok {
		l.push(x)
	}
	l.mu.Unlock()
	if !ok {
		freeFrame(frame)
	}
}

// dropReplies forgets answers that were for the connection that is over. It wants the lock.
func (l *link) dropReplies() {
	l.out = slices.DeleteFunc(l.out, func(x *call) bool {
		if x.opaque == 0 && x.frame != nil {
			l.queued -= x.bytes
			freeFrame(x.frame)
			return true
		}
		return false
	})
}

// throttled is what callers get who cannot wait for room.
func (l *link) throttled() error {
	return driver.Errorf(driver.Throttled, "", "too many requests wait for %s (limits: %d bytes to be sent, %d answers)", l.address, l.client.options.QueueBytes, maxCalls)
}
