// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
)

// ackTimeout bounds one round of acknowledgements. It does not end with the stream: an acknowledgement that arrived should count.
const ackTimeout = 10 * time.Second

// streamAcks makes the acknowledgements of one stream. The reader adds; while there is something to do a goroutine does it, all that waits
// at once; the writer takes the results. What was added and not yet taken is bounded: the reader waits, and the transport makes the sender wait.
type streamAcks struct {
	window Acknowledger
	limit  int
	// results signals the writer, room the reader; both are levels: one signal stands for any number.
	results, room chan struct{}
	start         func(func())

	mu      sync.Mutex // guards what follows
	closed  bool
	working bool
	idle    *sync.Cond // working became false
	waiting acks
	held    int // bytes of everything added and not taken
	done    []*pb.TokenResult
}

// acks is one round.
type acks struct {
	tokens        []string
	nacks         []delivery.Nack
	modifications []delivery.Modify
}

func (a *acks) empty() bool { return len(a.tokens)+len(a.nacks)+len(a.modifications) == 0 }

// newStreamAcks: start runs a function in a goroutine that somebody joins.
func newStreamAcks(window Acknowledger, limit int, start func(func())) *streamAcks {
	a := &streamAcks{window: window, limit: limit, start: start, results: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	a.idle = sync.NewCond(&a.mu)
	return a
}

// add takes the acknowledgements of one frame and waits while too much is held. It answers false when the stream has ended.
func (a *streamAcks) add(ctx context.Context, req *pb.ReceiveRequest) (bool, error) {
	nacks, err := nacksOf(req.Nacks)
	if err != nil {
		return false, err
	}
	modifications, err := modificationsOf(req.Modifications)
	if err != nil {
		return false, err
	}
	if !a.put(req, nacks, modifications) {
		return false, nil
	}
	for a.full() {
		select {
		case <-a.room:
		case <-ctx.Done():
			return false, nil
		}
	}
	return true, nil
}

func (a *streamAcks) put(req *pb.ReceiveRequest, nacks []delivery.Nack, modifications []delivery.Modify) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.waiting.tokens = append(a.waiting.tokens, req.Acks...)
	a.waiting.nacks = append(a.waiting.nacks, nacks...)
	a.waiting.modifications = append(a.waiting.modifications, modifications...)
	a.held += heldSize(req)
	if !a.working && !a.waiting.empty() {
		a.working = true
		a.start(a.work)
	}
	return true
}

// heldSize estimates what a frame costs until its results are taken.
func heldSize(req *pb.ReceiveRequest) int {
	const each = 128 // the result, its pointers and its place in the lists
	return proto.Size(req) + each*(len(req.Acks)+len(req.Nacks)+len(req.Modifications))
}

func (a *streamAcks) full() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.closed && a.held > a.limit
}

// work does what waits until nothing does.
func (a *streamAcks) work() {
	ended := false
	defer func() {
		if !ended {
			a.broken()
		}
	}()
	for {
		round, more := a.next()
		if !more {
			ended = true
			return
		}
		results := a.do(round)
		a.mu.Lock()
		a.done = append(a.done, results...)
		a.mu.Unlock()
		signal(a.results)
	}
}

// broken lets nobody wait for a round that panicked.
func (a *streamAcks) broken() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed, a.working, a.waiting = true, false, acks{}
	a.idle.Broadcast()
	signal(a.room)
}

func (a *streamAcks) next() (acks, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting.empty() {
		a.working = false
		a.idle.Broadcast()
		return acks{}, false
	}
	round := a.waiting
	a.waiting = acks{}
	return round, true
}

func (a *streamAcks) do(round acks) []*pb.TokenResult {
	ctx, cancel := context.WithTimeout(context.Background(), ackTimeout)
	defer cancel()
	out := make([]*pb.TokenResult, 0, len(round.tokens)+len(round.nacks)+len(round.modifications))
	add := func(results []delivery.Result) {
		for i := range results {
			out = append(out, tokenResult(&results[i]))
		}
	}
	if len(round.tokens) > 0 {
		add(a.window.Ack(ctx, round.tokens))
	}
	if len(round.nacks) > 0 {
		add(a.window.Nack(ctx, round.nacks))
	}
	if len(round.modifications) > 0 {
		add(a.window.Modify(ctx, round.modifications))
	}
	return out
}

// take answers up to limit results, in the order in which they were made.
func (a *streamAcks) take(limit int) []*pb.TokenResult {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, size := 0, 0
	for n < len(a.done) && n < limit {
		if size += proto.Size(a.done[n]) + 6; n > 0 && size > frameBytes {
			break
		}
		n++
	}
	out := a.done[:n:n]
	a.done = a.done[n:]
	switch {
	case len(a.done) > 0:
		signal(a.results)
	case !a.working:
		a.done, a.held = nil, 0
	}
	a.held -= min(a.held, size)
	signal(a.room)
	return out
}

// close takes nothing more and returns when no round is under way.
func (a *streamAcks) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.waitIdleLocked()
}

// finish returns when everything that was added has its result.
func (a *streamAcks) finish() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waitIdleLocked()
}

func (a *streamAcks) waitIdleLocked() {
	for a.working {
		a.idle.Wait()
	}
}

func signal(level chan struct{}) {
	select {
	case level <- struct{}{}:
	default:
	}
}

// indexed is the path of a field inside a list.
func indexed(list string, i int, field string) string {
	return list + "[" + strconv.Itoa(i) + "]." + field
}
