// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// maxClientIDBytes bounds the text that a receiver gives itself.
const maxClientIDBytes = 128

// receive opens the stream, runs it, and cleans up before it returns, in this order:
//  1. the receiver: what was never written goes back to the window at once;
//  2. acknowledgements under way finish (they are bounded in time), so that none is made on a client that nobody holds;
//  3. the Use: now the registry may close the client.
func (s *Server) receive(ctx context.Context, c *call, stream grpc.ServerStream) error {
	r := &receiveStream{watched: watched{s: s, stream: stream}, c: c, ended: make(chan error, 1)}
	first := &pb.ReceiveRequest{}
	if err := s.readFirst(ctx, stream, first, "consumer"); err != nil {
		return err
	}
	c.namespace, c.name = first.GetNamespace(), first.GetConsumer()
	use, err := s.open(ctx, c, mayReceive, registry.Consumer)
	if err != nil {
		return err
	}
	defer use.Release() // 3.
	window, done, err := windowOf(ctx, use, first.GetClientId(), true)
	if err != nil {
		return err
	}
	defer done()
	r.closing, r.drained = use.Closing(), drainedOf(window)
	r.acks = newStreamAcks(window, s.limits.MaxPendingAckBytes, func(f func()) { s.spawn(ctx, c, f) })
	defer r.acks.close() // 2.
	options, err := receiverOptions(first)
	if err != nil {
		return err
	}
	if r.receiver, err = window.Attach(options); err != nil {
		return err
	}
	defer r.receiver.Close() // 1.
	if acknowledges(first) {
		if _, err := r.acks.add(ctx, first); err != nil {
			return err
		}
	}
	return r.run(ctx)
}

// drainedOf is the signal that the window's drain is over, where the client has one.
func drainedOf(window Window) <-chan struct{} {
	if d, ok := window.(interface{ Drained() <-chan struct{} }); ok {
		return d.Drained()
	}
	return nil
}

// receiveStream is one Receive stream. Its handler's goroutine runs everything but read.
type receiveStream struct {
	watched
	c        *call
	acks     *streamAcks
	receiver *delivery.Receiver
	frame    frame
	// closing: the client is about to be closed. drained: the drain is over.
	closing, drained <-chan struct{}
	// ended gets the reader's last word: nil when the receiver will acknowledge nothing more.
	ended chan error
}

var errStreamAge = failure(codes.Unavailable, reasonStreamAge, "", "the stream has reached its greatest age; open a new one, another host may answer")

var errNotRead = failure(codes.ResourceExhausted, reasonNotRead, "",
	"the receiver did not read from the stream for too long (limit WriteTimeout): read, or ask for fewer messages at once")

// readFirst takes the frame that opens a stream, within the time for it. kind is what it names beside a namespace.
func (s *Server) readFirst(ctx context.Context, stream grpc.ServerStream, into proto.Message, kind string) error {
	var late atomic.Bool
	tooLate := failure(codes.InvalidArgument, reasonInvalid, "",
		fmt.Sprintf("the stream's first frame did not come within %s (limit OpenTimeout): it names namespace and %s", s.limits.OpenTimeout, kind))
	timer := time.AfterFunc(s.limits.OpenTimeout, func() {
		late.Store(true)
		endOfStream(ctx, tooLate)
	})
	defer timer.Stop()
	err := s.read(stream, into)
	switch {
	case late.Load():
		return tooLate
	case errors.Is(err, io.EOF):
		return failure(codes.InvalidArgument, reasonInvalid, "", "the stream ended before its first frame, which names namespace and "+kind)
	default:
		return err
	}
}

// receiverOptions checks what the first frame asks for. What is above the Consumer's limits gets the limits.
func receiverOptions(first *pb.ReceiveRequest) (delivery.ReceiverOptions, error) {
	o := delivery.ReceiverOptions{
		MaxMessages: int(first.GetMaxOutstandingMessages()), MaxBytes: first.GetMaxOutstandingBytes(), ClientID: first.GetClientId(),
	}
	var err error
	switch {
	case o.MaxMessages < 0:
		return o, invalid("max_outstanding_messages", "it is %d; it must be positive, or 0 for the Consumer's maxInFlight", o.MaxMessages)
	case o.MaxBytes < 0:
		return o, invalid("max_outstanding_bytes", "it is %d; it must be positive, or 0 for the Consumer's maxInFlightBytes", o.MaxBytes)
	}
	o.AckDeadline, err = ackDeadline("ack_deadline", first.GetAckDeadline())
	return o, err
}

// run writes until the stream ends. The reader is joined by Server.Close; it ends when this returns, because grpc-go ends the stream then.
func (r *receiveStream) run(ctx context.Context) error {
	r.s.spawn(ctx, r.c, func() { r.read(ctx) })
	return r.watch(ctx, r.write)
}

// read takes frames until the receiver ends its side or the stream ends.
func (r *receiveStream) read(ctx context.Context) {
	req := &pb.ReceiveRequest{}
	for {
		if err := r.s.read(r.stream, req); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			r.ended <- err
			return
		}
		if err := laterFrame(req); err != nil {
			r.ended <- err
			return
		}
		if more, err := r.acks.add(ctx, req); !more {
			r.ended <- err
			return
		}
	}
}

func acknowledges(req *pb.ReceiveRequest) bool {
	return len(req.Acks)+len(req.Nacks)+len(req.Modifications) > 0
}

// laterFrame refuses a frame that tries to open the stream again: it would not have the effect that its sender expects.
func laterFrame(req *pb.ReceiveRequest) error {
	var field string
	switch {
	case req.Namespace != "":
		field = "namespace"
	case req.Consumer != "":
		field = "consumer"
	case req.MaxOutstandingMessages != 0:
		field = "max_outstanding_messages"
	case req.MaxOutstandingBytes != 0:
		field = "max_outstanding_bytes"
	case req.AckDeadline != nil:
		field = "ack_deadline"
	case req.ClientId != "":
		field = "client_id"
	default:
		return nil
	}
	return invalid(field, "only the stream's first frame may set it")
}

// write is the handler's loop: it waits for something to tell and tells it. Each return has a reason that the receiver can act on.
func (r *receiveStream) write(ctx context.Context) error {
	limits := r.s.limits
	age := time.NewTimer(jitter(limits.MaxConnectionAge, rand.Float64()))
	defer age.Stop()
	check := time.NewTimer(jitter(limits.ReauthorizeEvery, rand.Float64()))
	defer check.Stop()
	var checked chan error
	var tooOld <-chan time.Time
	draining := r.receiver.Draining()
	for {
		notice := false
		select {
		case <-r.receiver.Ready():
		case <-r.acks.results:
		case <-draining:
			notice, draining = true, nil
		case <-age.C:
			notice, tooOld = true, time.After(limits.StreamGrace)
		case <-tooOld:
			return r.end(errStreamAge)
		case <-r.drained:
			return r.end(r.s.drainingError())
		case <-r.closing:
			return r.end(r.s.drainingError())
		case err := <-r.ended:
			if err != nil {
				return r.end(err)
			}
			return r.end(nil)
		case <-check.C:
			checked = r.s.checkAgain(ctx, r.c, mayReceive)
		case err := <-checked:
			if refused(err) {
				return r.end(err)
			}
			checked = nil
			check.Reset(jitter(limits.ReauthorizeEvery, rand.Float64()))
		case <-ctx.Done():
			return contextFailure(ctx)
		}
		if err := r.tell(notice, tooOld == nil); err != nil {
			return err
		}
	}
}

// tell writes what there is: a notice, results, and, when wanted, deliveries.
func (r *receiveStream) tell(notice, deliver bool) error {
	r.frame.response.Draining = notice
	r.frame.response.Results = r.acks.take(frameResults)
	var taken []delivery.Delivery
	if deliver {
		taken = r.receiver.Take(frameMessages, frameBytes)
	}
	if !notice && len(r.frame.response.Results) == 0 && len(taken) == 0 {
		return nil
	}
	defer r.frame.release()
	n := r.frame.fill(taken)
	if n < len(taken) {
		r.receiver.Unwritten(taken[n:])
	}
	if err := r.send(&r.frame.response); err != nil {
		if n > 0 {
			r.receiver.Unwritten(taken[:n])
		}
		return err
	}
	if n > 0 {
		r.receiver.Written(taken[:n])
	}
	return nil
}

// end gives back what was not written, tells the results of what was acknowledged until now, and answers why.
func (r *receiveStream) end(why error) error {
	r.receiver.Close()
	r.acks.finish()
	for {
		r.frame.response.Results = r.acks.take(frameResults)
		if len(r.frame.response.Results) == 0 {
			return why
		}
		if err := r.send(&r.frame.response); err != nil {
			return err
		}
		r.frame.release()
	}
}

// checkAgain asks whether a stream's token and right still hold, without making what it writes wait for the answer. It ends within the time for a call, and
// the next one begins only after it.
func (s *Server) checkAgain(ctx context.Context, c *call, r right) chan error {
	answer := make(chan error, 1)
	if s.auth == nil {
		answer <- nil
		return answer
	}
	s.spawn(ctx, c, func() {
		ctx, cancel := context.WithTimeout(ctx, s.limits.OpenTimeout)
		defer cancel()
		caller, err := s.authenticate(ctx)
		if err == nil {
			err = s.authorize(ctx, caller, r, c.namespace, c.name)
		}
		answer <- err
	})
	return answer
}

// refused: only a clear no ends a stream. When nobody can be asked - the API server is away - it goes on.
func refused(err error) bool {
	code := status.Code(err)
	return code == codes.Unauthenticated || code == codes.PermissionDenied
}
