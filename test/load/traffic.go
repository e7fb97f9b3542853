// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
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
	// Key is the sharding key; SendInOrder sets it.
	Key string
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

// SendInOrder sends Messages messages for each of keys, those of one key one after the other, with the ids <prefix>/<key>/<number from 0>. Each key belongs to
// one of the Callers.
func SendInOrder(ctx context.Context, connection *grpc.ClientConn, l *Ledger, o SendOptions, keys []string) error {
	client := proxyv1alpha1.NewProducerServiceClient(connection)
	group, ctx := errgroup.WithContext(ctx)
	for caller := range o.Callers {
		group.Go(func() error {
			for n := range o.Messages {
				for i := caller; i < len(keys); i += o.Callers {
					mine := o
					mine.Key = keys[i]
					if err := sendOne(ctx, client, l, mine, fmt.Sprintf("%s/%s/%d", o.Prefix, keys[i], n)); err != nil {
						return err
					}
				}
				if o.Pause > 0 {
					pause(ctx, o.Pause)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func sendOne(ctx context.Context, client proxyv1alpha1.ProducerServiceClient, l *Ledger, o SendOptions, id string) error {
	body := make([]byte, o.Bytes)
	if _, err := rand.Read(body); err != nil {
		return err
	}
	l.Trying(id, body)
	request := &proxyv1alpha1.SendRequest{Namespace: o.Producer.Namespace, Producer: o.Producer.Name, Messages: []*proxyv1alpha1.Message{
		{Topic: o.Topic, Id: id, Content: &proxyv1alpha1.Message_Body{Body: body}, ShardingKey: o.Key},
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
		l.TryingAgain(id)
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
		case <-time.After(time.Second): // Missing knows a case that needs only time
		}
	}
}
