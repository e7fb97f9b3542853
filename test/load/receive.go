// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
)

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
	r := &receiver{client: proxyv1alpha1.NewConsumerServiceClient(connection), ledger: l, options: o, open: map[string]*pending{}}
	defer r.abandon()
	for try := 0; ctx.Err() == nil; try++ {
		l.Count(func(c *Counts) { c.Streams++ })
		err := r.stream(ctx)
		if over(ctx) { // how a stream ends that nobody wants any more tells nothing
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) && !Retryable(err) {
			return fmt.Errorf("receive: %w", err)
		}
		if r.progress {
			try = 0
		}
		Backoff(ctx, try)
		r.unclear()
		if err := r.ackUnary(ctx); err != nil {
			return err
		}
	}
	return nil
}

// hostOf is the address of a stream's host, once something came.
func hostOf(ctx context.Context) string {
	from, _ := peer.FromContext(ctx)
	return addressOf(from)
}

func addressOf(p *peer.Peer) string {
	if p == nil || p.Addr == nil {
		return "an unknown host"
	}
	return p.Addr.String()
}

// over reports whether the caller has had enough.
func over(ctx context.Context) bool { return ctx.Err() != nil }

// receiver is one application's receiving loop; used from one goroutine.
type receiver struct {
	client  proxyv1alpha1.ConsumerServiceClient
	ledger  *Ledger
	options ReceiveOptions
	open    map[string]*pending // by ack token: acks without a clear answer yet
	// host is the address of who answered last: of the stream's host, or of a call's.
	host     string
	progress bool
}

// pending is an ack without a clear answer yet.
type pending struct {
	id string
	// unclear: RETRY was answered, or nothing.
	unclear bool
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
	var sending sync.Mutex // streams take one Send at a time
	var repeating sync.WaitGroup
	defer repeating.Wait()
	defer cancel() // before the wait
	ack := func(tokens []string) {
		sending.Lock()
		defer sending.Unlock()
		_ = stream.Send(&proxyv1alpha1.ReceiveRequest{Acks: tokens}) // why it failed is what Recv says
	}
	for {
		frame, err := stream.Recv()
		if err != nil {
			return err
		}
		r.progress = true
		r.host = hostOf(stream.Context())
		if again := r.results(frame.GetResults()); len(again) > 0 {
			repeating.Go(func() {
				pause(ctx, 200*time.Millisecond+mathrand.N(300*time.Millisecond))
				ack(again)
			})
		}
		if tokens := r.take(frame.GetDeliveries()); len(tokens) > 0 {
			ack(tokens)
		}
	}
}

func (r *receiver) take(deliveries []*proxyv1alpha1.Delivery) []string {
	tokens := make([]string, 0, len(deliveries))
	now := time.Now()
	for _, d := range deliveries {
		r.ledger.Delivered(Delivery{
			ID: d.GetMessage().GetId(), Body: d.GetMessage().GetBody(), Attempt: d.GetDeliveryAttempt(), Stored: d.GetStoreTime().AsTime(), Host: r.host,
		}, now)
		if r.options.Handle != nil && !r.options.Handle(d) {
			continue
		}
		r.open[d.GetAckToken()] = &pending{id: d.GetMessage().GetId()}
		tokens = append(tokens, d.GetAckToken())
	}
	return tokens
}

// results takes the answers to acks, and returns the tokens that must be sent again.
func (r *receiver) results(results []*proxyv1alpha1.TokenResult) (again []string) {
	for _, result := range results {
		ack, ok := r.open[result.GetAckToken()]
		if !ok {
			continue
		}
		switch result.GetOutcome() {
		case proxyv1alpha1.TokenResult_OK:
			r.ledger.AckOK(ack.id, r.host)
			delete(r.open, result.GetAckToken())
		case proxyv1alpha1.TokenResult_RETRY:
			r.ledger.Count(func(c *Counts) { c.AckRetries++ })
			ack.unclear = true
			again = append(again, result.GetAckToken())
		default: // expired or not this host's: the message comes again, unless an earlier try was done and only its answer is missing
			r.ledger.Count(func(c *Counts) { c.Expired++ })
			if ack.unclear {
				r.ledger.AckUnknown(ack.id)
			}
			delete(r.open, result.GetAckToken())
		}
	}
	return again
}

// unclear notes that what became of the acks that were sent is not known.
func (r *receiver) unclear() {
	for _, ack := range r.open {
		ack.unclear = true
	}
}

// abandon notes, as the application ends, what it has asked for and got no answer to: nobody is going to learn whether the broker took it.
func (r *receiver) abandon() {
	for _, ack := range r.open {
		r.ledger.AckUnknown(ack.id)
	}
}

// ackUnary repeats acks whose answer was lost with a stream.
func (r *receiver) ackUnary(ctx context.Context) error {
	for try := 0; len(r.open) > 0; try++ {
		tokens := make([]string, 0, min(len(r.open), 1000))
		for token := range r.open {
			if tokens = append(tokens, token); len(tokens) == 1000 {
				break
			}
		}
		call, cancel := context.WithTimeout(ctx, 10*time.Second)
		var from peer.Peer
		request := &proxyv1alpha1.AckRequest{Namespace: r.options.Consumer.Namespace, Consumer: r.options.Consumer.Name, AckTokens: tokens}
		answer, err := r.client.Ack(call, request, grpc.Peer(&from))
		cancel()
		r.host = addressOf(&from)
		switch {
		case over(ctx):
			return nil
		case err == nil:
			if again := r.results(answer.GetResults()); len(again) > 0 {
				Backoff(ctx, try)
			}
		case !Retryable(err):
			return fmt.Errorf("ack: %w", err)
		default:
			r.unclear()
			Backoff(ctx, try)
		}
	}
	return nil
}
