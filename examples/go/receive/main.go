// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command receive prints messages, one "id<TAB>text" a line, and acknowledges each after it was handled. STOP_AFTER=n ends it after n messages.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"
	"time"

	"google.golang.org/grpc"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/examples/go/connect"
)

// credit is how many deliveries may be with this program at a time.
const credit = 32

type receiver struct {
	client    proxyv1alpha1.ConsumerServiceClient
	namespace string
	consumer  string
	// seen holds the ids of messages that were handled. A real application asks its database: "insert ... on conflict do nothing" in
	// the transaction of the work itself, so that it also survives a restart.
	seen      map[string]bool
	stopAfter int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	conn, err := connect.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	stopAfter, err := strconv.Atoi(connect.Env("STOP_AFTER", "0"))
	if err != nil {
		return fmt.Errorf("STOP_AFTER: %w", err)
	}
	r := &receiver{
		client: proxyv1alpha1.NewConsumerServiceClient(conn), stopAfter: stopAfter, seen: map[string]bool{},
		namespace: connect.Env("NAMESPACE", "default"), consumer: connect.Env("CONSUMER", "orders-mailer"),
	}
	for try := 0; ; try++ {
		handled := len(r.seen)
		err := r.stream(ctx)
		switch {
		case r.done():
			return nil
		case err != nil && !connect.Worthwhile(err):
			return err
		case err != nil:
			log.Printf("open the stream again: %v", err)
		}
		if len(r.seen) > handled {
			try = 0 // it worked in between: the next pause is short again
		}
		if err := connect.Pause(ctx, try); err != nil {
			return err
		}
	}
}

func (r *receiver) done() bool { return r.stopAfter > 0 && len(r.seen) >= r.stopAfter }

// stream receives until the stream ends, the proxy drains (nil), or enough was handled (nil).
func (r *receiver) stream(parent context.Context) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	stream, err := r.client.Receive(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&proxyv1alpha1.ReceiveRequest{
		Namespace: r.namespace, Consumer: r.consumer, MaxOutstandingMessages: credit, ClientId: "example-go",
	}); err != nil {
		_, err = stream.Recv() // says why the stream ended; Send only says that it did
		return err
	}
	// The work is done beside the reading loop: a receiver that does not read loses its stream. The channel never blocks the loop,
	// because no more than the credit is outstanding.
	work, finished := make(chan *proxyv1alpha1.Delivery, credit), make(chan []string, 1)
	go func() { finished <- r.work(stream, work, cancel) }()
	err = read(stream, work)
	close(work)
	unconfirmed := <-finished
	// What was handled on a stream that broke stays ours until its deadline: acknowledge it by the unary call.
	if ackErr := r.ack(parent, unconfirmed); err == nil {
		err = ackErr
	}
	return err
}

// read passes deliveries on until the stream ends; nil when the proxy asks for a new stream.
func read(stream grpc.BidiStreamingClient[proxyv1alpha1.ReceiveRequest, proxyv1alpha1.ReceiveResponse], work chan<- *proxyv1alpha1.Delivery) error {
	for {
		frame, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, delivery := range frame.GetDeliveries() {
			work <- delivery
		}
		if frame.GetDraining() {
			return nil
		}
	}
}

// work handles deliveries one after the other. It acknowledges on the stream (only this goroutine sends) and answers the tokens that the
// broken or draining stream may not have taken; acknowledging twice is harmless.
func (r *receiver) work(stream grpc.BidiStreamingClient[proxyv1alpha1.ReceiveRequest, proxyv1alpha1.ReceiveResponse],
	work <-chan *proxyv1alpha1.Delivery, cancel context.CancelFunc) []string {
	var recent []string
	for delivery := range work {
		if id := delivery.GetMessage().GetId(); !r.seen[id] {
			if r.done() {
				continue // not acknowledged: it comes again, to the next receiver
			}
			fmt.Printf("%s\t%s\n", id, delivery.GetMessage().GetBody()) // the work; only after it the ack
			r.seen[id] = true
		}
		recent = append(recent, delivery.GetAckToken())
		// An error here shows in read; the token is acknowledged afterwards.
		_ = stream.Send(&proxyv1alpha1.ReceiveRequest{Acks: []string{delivery.GetAckToken()}})
		// The proxy hands out no more than the credit: whatever lies further back has been acknowledged, or it would not have sent this one.
		recent = recent[max(0, len(recent)-2*credit):]
		if r.done() {
			cancel()
		}
	}
	return recent
}

// ack acknowledges by the unary call until every token has an answer: OK, or EXPIRED (the message comes again and is recognised by its id).
func (r *receiver) ack(ctx context.Context, tokens []string) error {
	for try := 0; len(tokens) > 0; try++ {
		callCtx, cancel := context.WithTimeout(ctx, 15*time.Second)
		answer, err := r.client.Ack(callCtx, &proxyv1alpha1.AckRequest{Namespace: r.namespace, Consumer: r.consumer, AckTokens: tokens})
		cancel()
		if err != nil && !connect.Worthwhile(err) {
			return err
		}
		if err == nil {
			tokens = nil
			for _, result := range answer.GetResults() {
				if result.GetOutcome() == proxyv1alpha1.TokenResult_RETRY {
					tokens = append(tokens, result.GetAckToken())
				}
			}
		}
		if len(tokens) == 0 {
			return nil
		}
		if try > 8 {
			log.Printf("%d acknowledgements not taken; these messages come again", len(tokens))
			return nil
		}
		if err := connect.Pause(ctx, try); err != nil {
			return err
		}
	}
	return nil
}
