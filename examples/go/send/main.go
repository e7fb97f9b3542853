// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command send sends each line of standard input as a message and prints the ids that are stored.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/status"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/examples/go/connect"
)

const (
	perCall  = 100             // messages in one call; up to 1000 are allowed
	patience = 5 * time.Minute // how long one batch is tried
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	conn, err := connect.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	client := proxyv1alpha1.NewProducerServiceClient(conn)
	var batch []*proxyv1alpha1.Message
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		batch = append(batch, &proxyv1alpha1.Message{
			// The id is given once, before the first try, and stays the same in every repetition: receivers recognise a repetition by it.
			Id:      uuid.NewString(),
			Topic:   os.Getenv("TOPIC"), // may stay empty when the Producer has one topic
			Tag:     os.Getenv("TAG"),   // what subscriptions filter on; may stay empty
			Content: &proxyv1alpha1.Message_Text{Text: lines.Text()},
		})
		if len(batch) == perCall {
			if err := send(ctx, client, batch); err != nil {
				return err
			}
			batch = nil
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return send(ctx, client, batch)
}

// send returns when every message is stored, or with the first error that repeating cannot change.
func send(ctx context.Context, client proxyv1alpha1.ProducerServiceClient, waiting []*proxyv1alpha1.Message) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for try := 0; len(waiting) > 0; try++ {
		results, err := sendOnce(ctx, client, waiting)
		if err != nil && !connect.Worthwhile(err) {
			return err
		}
		if waiting, err = remaining(waiting, results, err); err != nil {
			return err
		}
		if len(waiting) == 0 {
			return nil
		}
		if err := connect.Pause(ctx, try); err != nil {
			return fmt.Errorf("%d messages not sent: %w", len(waiting), err)
		}
	}
	return nil
}

// sendOnce answers the results of one call. When no message was stored they are in the error's details.
func sendOnce(ctx context.Context, client proxyv1alpha1.ProducerServiceClient, messages []*proxyv1alpha1.Message) ([]*proxyv1alpha1.SendResult, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	answer, err := client.Send(ctx, &proxyv1alpha1.SendRequest{
		Namespace: connect.Env("NAMESPACE", "default"), Producer: connect.Env("PRODUCER", "orders"), Messages: messages,
	})
	if err == nil {
		return answer.GetResults(), nil
	}
	for _, detail := range status.Convert(err).Details() {
		if answer, ok := detail.(*proxyv1alpha1.SendResponse); ok {
			return answer.GetResults(), nil
		}
	}
	return nil, err
}

// remaining are the messages to send again. A message that can never be accepted is an error: the others are not held up by it.
func remaining(sent []*proxyv1alpha1.Message, results []*proxyv1alpha1.SendResult, callErr error) ([]*proxyv1alpha1.Message, error) {
	if callErr != nil {
		log.Printf("send again: %v", callErr)
		return sent, nil
	}
	var again []*proxyv1alpha1.Message
	var refused error
	for i, result := range results {
		switch failed := result.GetError(); {
		case failed == nil:
			fmt.Println(result.GetMessageId())
		case failed.GetRetryable():
			again = append(again, sent[i])
		default:
			refused = fmt.Errorf("message %s: %s: %s", sent[i].GetId(), failed.GetReason(), failed.GetMessage())
			log.Print(refused)
		}
	}
	if len(again) == 0 {
		return nil, refused
	}
	return again, nil
}
