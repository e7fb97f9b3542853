// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/durationpb"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
)

// Pull takes messages by Pull and acknowledges them by Ack, each a call of its own, until ctx ends. Over a connection that spreads calls over several
// hosts it is the application without a sticky connection: what one host delivers another one acknowledges. The error is as Receive's.
func Pull(ctx context.Context, connection *grpc.ClientConn, l *Ledger, o ReceiveOptions) error {
	r := &receiver{client: proxyv1alpha1.NewConsumerServiceClient(connection), ledger: l, options: o, open: map[string]*pending{}}
	for try := 0; ctx.Err() == nil; {
		err := r.pull(ctx)
		switch {
		case over(ctx):
			return nil
		case err == nil:
			try = 0
		case !Retryable(err):
			return fmt.Errorf("pull: %w", err)
		default:
			Backoff(ctx, try)
			try++
		}
		if err := r.ackUnary(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (r *receiver) pull(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var from peer.Peer
	answer, err := r.client.Pull(call, &proxyv1alpha1.PullRequest{
		Namespace: r.options.Consumer.Namespace, Consumer: r.options.Consumer.Name, MaxMessages: r.options.Outstanding, Wait: durationpb.New(2 * time.Second),
	}, grpc.Peer(&from))
	if err != nil {
		return err
	}
	r.host = addressOf(&from)
	r.take(answer.GetDeliveries())
	return nil
}
