// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
)

// Object names a Producer or Consumer.
type Object struct{ Namespace, Name string }

// SendOptions say what Send sends.
type SendOptions struct {
	Producer Object
	Topic    string
	// Prefix starts each id; ids are unique for a prefix.
	Prefix string
	// Enough, when closed, ends Send after the messages that are under way; nil = never.
	Enough chan struct{}
	// Messages in total, from Callers goroutines, Bytes each.
	Messages, Callers, Bytes int
	// Pause between two sends of a caller.
	Pause time.Duration
	// Stubborn also retries FAILED_PRECONDITION, for tests in which somebody repairs the object meanwhile.
	Stubborn bool
}

// Send sends until all messages have an OK, Enough is closed or ctx ends. What may be retried is retried with the same id, as the docs tell applications to.
// The error is the first refusal that may not be retried.
func Send(ctx context.Context, connection *grpc.ClientConn, l *Ledger, o SendOptions) error {
	client := proxyv1alpha1.NewProducerServiceClient(connection)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range o.Callers {
		wg.Go(func() {
			for {
				n := int(next.Add(1))
				if n > o.Messages || over(ctx) || o.enough() {
					return
				}
				if err := sendOne(ctx, client, l, o, fmt.Sprintf("%s-%d", o.Prefix, n)); err != nil {
					cancel(err)
					return
				}
				if o.Pause > 0 {
					pause(ctx, o.Pause)
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func sendOne(ctx context.Context, client proxyv1alpha1.ProducerServiceClient, l *Ledger, o SendOptions, id string) error {
	body := make([]byte, o.Bytes)
	if _, err := rand.Read(body); err != nil {
		return err
	}
	l.Trying(id, body)
	request := &proxyv1alpha1.SendRequest{Namespace: o.Producer.Namespace, Producer: o.Producer.Name, Messages: []*proxyv1alpha1.Message{
		{Topic: o.Topic, Id: id, Content: &proxyv1alpha1.Message_Body{Body: body}},
	}}
	for try := 0; ; try++ {
		call, cancel := context.WithTimeout(ctx, 10*time.Second)
		answer, err := client.Send(call, request)
		cancel()
		if err == nil {
			if got := answer.GetResults()[0].GetMessageId(); got != id {
				return fmt.Errorf("send %s: the answer names %q", id, got)
			}
			l.SendOK(id)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !Retryable(err) && (!o.Stubborn || status.Code(err) != codes.FailedPrecondition) {
			return fmt.Errorf("send %s: %w", id, err)
		}
		l.Count(func(c *Counts) { c.SendRetries++ })
		Backoff(ctx, try)
	}
}

func (o *SendOptions) enough() bool {
	select {
	case <-o.Enough:
		return true
	default:
		return false
	}
}

// Retryable is the rule that the API documents for applications.
func Retryable(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted, codes.Aborted, codes.DeadlineExceeded:
		return true
	default:
		return false
	}
}

// Backoff waits 50 ms to 2 s, doubled with each try, with jitter.
func Backoff(ctx context.Context, try int) {
	longest := min(2*time.Second, 50*time.Millisecond<<min(try, 6))
	pause(ctx, longest/2+mathrand.N(longest/2))
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// ReceiveOptions say how Receive reads.
type ReceiveOptions struct {
	Consumer    Object
	Outstanding int32
	// Handle is called for each delivery before its ack; false = leave it to its deadline. Nil = acknowledge all.
	Handle func(*proxyv1alpha1.Delivery) bool
}

// Receive keeps one stream open, reopened whenever it ends, and acknowledges what comes until ctx ends. An ack without an answer (the stream
// broke) is repeated by the unary call. The error is the first that an application could not get over.
func Receive(ctx context.Context, connection *grpc.ClientConn, l *Ledger, o ReceiveOptions) error {
	r := &receiver{client: proxyv1alpha1.NewConsumerServiceClient(connection), ledger: l, options: o, open: map[string]string{}}
	for try := 0; ctx.Err() == nil; try++ {
		l.Count(func(c *Counts) { c.Streams++ })
		err := r.stream(ctx)
		if over(ctx) { // how a stream ends that nobody wants any more tells nothing
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) && !Retryable(err) && status.Code(err) != codes.FailedPrecondition {
			return fmt.Errorf("receive: %w", err)
		}
		if r.progress {
			try = 0
		}
		Backoff(ctx, try)
		if err := r.ackUnary(ctx); err != nil {
			return err
		}
	}
	return nil
}

// over reports whether the caller has had enough.
func over(ctx context.Context) bool { return ctx.Err() != nil }

// receiver is one application's receiving loop; used from one goroutine.
type receiver struct {
	client   proxyv1alpha1.ConsumerServiceClient
	ledger   *Ledger
	options  ReceiveOptions
	open     map[string]string // ack token -> id, acks without an answer yet
	progress bool
}

func (r *receiver) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.progress = false
	stream, err := r.client.Receive(ctx)
	if err != nil {
		return err
	}
	first := &proxyv1alpha1.ReceiveRequest{Namespace: r.options.Consumer.Namespace, Consumer: r.options.Consumer.Name, MaxOutstandingMessages: r.options.Outstanding}
	if err := stream.Send(first); err != nil {
		_, err = stream.Recv() // the reason is there
		return err
	}
	for {
		frame, err := stream.Recv()
		if err != nil {
			return err
		}
		r.progress = true
		r.results(frame.GetResults())
		if tokens := r.take(frame.GetDeliveries()); len(tokens) > 0 {
			if err := stream.Send(&proxyv1alpha1.ReceiveRequest{Acks: tokens}); err != nil {
				_, err = stream.Recv()
				return err
			}
		}
	}
}

func (r *receiver) take(deliveries []*proxyv1alpha1.Delivery) []string {
	tokens := make([]string, 0, len(deliveries))
	now := time.Now()
	for _, d := range deliveries {
		r.ledger.Delivered(d.GetMessage().GetId(), d.GetMessage().GetBody(), now)
		if r.options.Handle != nil && !r.options.Handle(d) {
			continue
		}
		r.open[d.GetAckToken()] = d.GetMessage().GetId()
		tokens = append(tokens, d.GetAckToken())
	}
	return tokens
}

func (r *receiver) results(results []*proxyv1alpha1.TokenResult) {
	for _, result := range results {
		id, ok := r.open[result.GetAckToken()]
		if !ok {
			continue
		}
		switch result.GetOutcome() {
		case proxyv1alpha1.TokenResult_OK:
			r.ledger.AckOK(id)
			delete(r.open, result.GetAckToken())
		case proxyv1alpha1.TokenResult_RETRY:
			r.ledger.Count(func(c *Counts) { c.AckRetries++ })
		default: // expired or not this host's: the message comes again
			r.ledger.Count(func(c *Counts) { c.Expired++ })
			delete(r.open, result.GetAckToken())
		}
	}
}

// ackUnary repeats acks whose answer was lost with a stream.
func (r *receiver) ackUnary(ctx context.Context) error {
	for try := 0; len(r.open) > 0 && try < 20; try++ {
		tokens := make([]string, 0, min(len(r.open), 1000))
		for token := range r.open {
			if tokens = append(tokens, token); len(tokens) == 1000 {
				break
			}
		}
		call, cancel := context.WithTimeout(ctx, 10*time.Second)
		answer, err := r.client.Ack(call, &proxyv1alpha1.AckRequest{Namespace: r.options.Consumer.Namespace, Consumer: r.options.Consumer.Name, AckTokens: tokens})
		cancel()
		switch {
		case over(ctx):
			return nil
		case err == nil:
			r.results(answer.GetResults())
		case !Retryable(err) && status.Code(err) != codes.FailedPrecondition:
			return fmt.Errorf("ack: %w", err)
		default:
			Backoff(ctx, try)
		}
	}
	clear(r.open) // they come again at their deadline
	return nil
}

// AwaitAcked waits until every message that was acknowledged to a sender has an ack-ok.
func AwaitAcked(ctx context.Context, l *Ledger) error {
	for {
		missing, changed := l.Missing()
		if missing == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d messages without an ack-ok: %w", missing, ctx.Err())
		case <-changed:
		}
	}
}
