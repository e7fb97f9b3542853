// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/checks"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

const (
	// checksAtOnce is how many resolutions of one frame are done side by side.
	checksAtOnce = 16
	// frameChecks and frameCheckBytes are what goes into one frame; a single larger check goes alone.
	frameChecks     = 64
	frameCheckBytes = 1 << 20
	// resolveTimeout bounds one resolution. It does not end with the stream: a decision that arrived should count.
	resolveTimeout = 20 * time.Second
	// expireEvery is how often a stream looks for checks that got no answer.
	expireEvery = 5 * time.Second
	// checkGrace is how long a stream waits for answers when its host stops asking.
	checkGrace = 5 * time.Second
)

// transactionChecks opens the stream, runs it, and cleans up before it returns: the receiver, so that nothing more comes; the resolutions under way,
// which finish (they are bounded in time); the Use, so that the registry may close the client.
func (s *Server) transactionChecks(ctx context.Context, c *call, stream grpc.ServerStream) error {
	first := &pb.TransactionChecksRequest{}
	if err := s.readFirst(ctx, stream, first, "producer"); err != nil {
		return err
	}
	c.namespace, c.name = first.GetNamespace(), first.GetProducer()
	use, err := s.open(ctx, c, maySend, registry.Producer)
	if err != nil {
		return err
	}
	defer use.Release()
	if len(first.GetResolutions()) > 0 {
		return invalid("resolutions", "the stream's first frame has none: nothing was asked yet")
	}
	receiver, err := use.Client().(Transactor).WatchChecks()
	if err != nil {
		return err
	}
	defer receiver.Close()
	cs := &checkStream{
		watched: watched{s: s, stream: stream}, c: c, receiver: receiver, closing: use.Closing(), ended: make(chan error, 1), done: make(chan struct{}, 1),
		room: make(chan struct{}, 1),
	}
	defer cs.finish()
	return cs.run(ctx)
}

// checkStream is one TransactionChecks stream. Its handler's goroutine runs everything but read and what that starts.
type checkStream struct {
	watched
	c        *call
	receiver *checks.Receiver
	closing  <-chan struct{}
	// ended gets the reader's last word: nil when the application will answer nothing more.
	ended chan error
	// done signals the writer that there are results, room the reader that some were taken.
	done, room chan struct{}

	mu      sync.Mutex // guards what follows
	closed  bool
	results []*pb.TransactionResult
	held    int // bytes of results
	working sync.WaitGroup
}

// finish lets resolutions under way end and takes no more.
func (cs *checkStream) finish() {
	cs.mu.Lock()
	cs.closed = true
	cs.mu.Unlock()
	signal(cs.room)
	cs.working.Wait()
}

// run writes until the stream ends. The reader is joined by Server.Close; it ends when this returns, because grpc-go ends the stream then.
func (cs *checkStream) run(ctx context.Context) error {
	cs.s.spawn(ctx, cs.c, func() { cs.ended <- cs.read() })
	return cs.watch(ctx, cs.write)
}

// read takes frames until the application ends its side or the stream ends. It reads the next one when the last one is done, and most of its results were taken.
func (cs *checkStream) read() error {
	req := &pb.TransactionChecksRequest{}
	for {
		if err := cs.s.read(cs.stream, req); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		switch n := len(req.Resolutions); {
		case req.Namespace != "":
			return invalid("namespace", "only the stream's first frame may set it")
		case req.Producer != "":
			return invalid("producer", "only the stream's first frame may set it")
		case n > cs.s.limits.MaxTokensPerCall:
			return invalid("resolutions", "there are %d; one frame takes at most %d (limit MaxTokensPerCall)", n, cs.s.limits.MaxTokensPerCall)
		}
		if !cs.resolve(req.Resolutions) || !cs.waitForRoom() {
			return nil
		}
	}
}

// resolve does one frame's resolutions, some at a time; false when the stream has ended.
func (cs *checkStream) resolve(resolutions []*pb.TransactionResolution) bool {
	cs.mu.Lock()
	if cs.closed {
		cs.mu.Unlock()
		return false
	}
	cs.working.Add(1)
	cs.mu.Unlock()
	defer cs.working.Done()
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	slots := make(chan struct{}, checksAtOnce)
	var all sync.WaitGroup
	for i, r := range resolutions {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			result := cs.resolveOne(ctx, i, r)
			cs.mu.Lock()
			cs.results = append(cs.results, result)
			cs.held += resultSize(result)
			cs.mu.Unlock()
			signal(cs.done)
		})
	}
	all.Wait()
	return true
}

// resultSize estimates what a result costs until it is taken.
func resultSize(r *pb.TransactionResult) int {
	const each = 128 // it, its pointers and its place in the list
	return proto.Size(r) + each
}

// waitForRoom waits while what the application has not read of its results is above MaxPendingAckBytes; false when the stream has ended.
func (cs *checkStream) waitForRoom() bool {
	for {
		cs.mu.Lock()
		closed, full := cs.closed, cs.held > cs.s.limits.MaxPendingAckBytes
		cs.mu.Unlock()
		if closed || !full {
			return !closed
		}
		<-cs.room
	}
}

func (cs *checkStream) resolveOne(ctx context.Context, i int, r *pb.TransactionResolution) *pb.TransactionResult {
	result := &pb.TransactionResult{Transaction: r.GetTransaction()}
	fail := func(field, format string, args ...any) *pb.TransactionResult {
		result.Error = refuse(reasonInvalid, "resolutions["+strconv.Itoa(i)+"]."+field, format, args...)
		return result
	}
	decision, known := decisions[r.GetDecision()]
	switch {
	case r.GetTransaction() == "":
		return fail("transaction", "it is missing; it is the check's")
	case !known && r.GetDecision() != pb.Decision_UNKNOWN:
		return fail("decision", "it is %s; it must be COMMIT, ROLLBACK or UNKNOWN", r.GetDecision())
	}
	id, err := cs.receiver.Resolve(ctx, r.GetTransaction(), decision)
	if err != nil {
		result.Error = sendError(err)
		return result
	}
	if result.MessageId = id; decision != "" {
		cs.s.observer.Transactions(cs.c.namespace, cs.c.name, stepOf[decision])
	}
	if decision == driver.Commit {
		cs.s.observer.Sent(cs.c.namespace, cs.c.name, "OK", 1)
	}
	return result
}
