// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
)

// target is a gRPC server under load: connections to it, and the process whose CPU counts.
type target struct {
	connections []*grpc.ClientConn
	pid         int
}

func (b *bench) proxy() target { return target{b.proxies, b.operator.PID()} }

func (b *bench) partiesOf(t target) parties {
	return parties{tested: t.pid, broker: b.broker.BrokerPID(), load: os.Getpid()}
}

// send drives ProducerService.Send from so many callers, which share one connection as the callers in an application's process do, and as the raw
// client's and the Java SDK's share theirs. They take turns over the requests.
func (b *bench) send(ctx context.Context, to target, callers int, requests []*proxyv1alpha1.SendRequest) (figure, error) {
	client := proxyv1alpha1.NewProducerServiceClient(to.connections[0])
	var turn atomic.Int64
	return b.driveCalls(ctx, to, callers, func(ctx context.Context) (int, error) {
		request := requests[int(turn.Add(1))%len(requests)]
		return len(request.GetMessages()), sendOnce(ctx, client, request)
	})
}

// transact begins transactions and commits each.
func (b *bench) transact(ctx context.Context, callers int) (figure, error) {
	client := proxyv1alpha1.NewProducerServiceClient(b.proxies[0])
	message := sendRequest(transactional, "bench", 1, make([]byte, bodyBytes)).GetMessages()[0]
	return b.driveCalls(ctx, b.proxy(), callers, func(ctx context.Context) (int, error) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		begun, err := client.BeginTransaction(ctx, &proxyv1alpha1.BeginTransactionRequest{Namespace: namespace, Producer: transactional, Message: message})
		if err != nil {
			return 0, err
		}
		_, err = client.EndTransaction(ctx, &proxyv1alpha1.EndTransactionRequest{
			Namespace: namespace, Producer: transactional, Transaction: begun.GetTransaction(), Decision: proxyv1alpha1.Decision_COMMIT,
		})
		return 1, err
	})
}

// driveCalls warms and measures calls to a server.
func (b *bench) driveCalls(ctx context.Context, to target, callers int, do call) (figure, error) {
	if err := warm(ctx, callers, do); err != nil {
		return figure{}, err
	}
	b.windowBegins()
	return drive(ctx, callers, b.window, b.partiesOf(to), do)
}

// sendRequests has one request of batch messages for each producer.
func sendRequests(batch int, topic string, producers ...string) []*proxyv1alpha1.SendRequest {
	requests := make([]*proxyv1alpha1.SendRequest, len(producers))
	for i, producer := range producers {
		requests[i] = sendRequest(producer, topic, batch, make([]byte, bodyBytes))
	}
	return requests
}

// orderedRequests has one request of one message for each sharding key.
func orderedRequests(topic, producer string) []*proxyv1alpha1.SendRequest {
	body := make([]byte, bodyBytes)
	requests := make([]*proxyv1alpha1.SendRequest, shardingKeys)
	for i := range requests {
		requests[i] = sendRequest(producer, topic, 1, body)
		requests[i].Messages[0].ShardingKey = shardingKey(int64(i))
	}
	return requests
}

func sendRequest(producer, topic string, batch int, body []byte) *proxyv1alpha1.SendRequest {
	request := &proxyv1alpha1.SendRequest{Namespace: namespace, Producer: producer}
	for range batch {
		request.Messages = append(request.Messages, &proxyv1alpha1.Message{Topic: topic, Content: &proxyv1alpha1.Message_Body{Body: body}})
	}
	return request
}

// callTimeout: a call has a deadline, as an application's has.
const callTimeout = 10 * time.Second

// sendOnce is an error when not every message was stored.
func sendOnce(ctx context.Context, client proxyv1alpha1.ProducerServiceClient, request *proxyv1alpha1.SendRequest) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := client.Send(ctx, request)
	if err != nil {
		return err
	}
	for _, result := range answer.GetResults() {
		if result.GetError() != nil {
			return fmt.Errorf("%s: %s", result.GetError().GetReason(), result.GetError().GetMessage())
		}
	}
	return nil
}

// receiveBacklog reads the messages of the earlier sends with a new group, so that each round starts at the oldest one.
func (b *bench) receiveBacklog(ctx context.Context, driver string) (figure, error) {
	b.serial++
	name := fmt.Sprintf("bench-%d", b.serial)
	if err := b.object(ctx, "Consumer", name, "driver: "+driver, "group: g_"+name, "subscriptions: [{topic: bench}]", "startFrom: Earliest", "maxInFlight: 10000"); err != nil {
		return figure{}, err
	}
	f, err := b.receive(ctx, b.proxy(), name)
	if err != nil {
		return figure{}, err
	}
	return f, b.remove(ctx, "Consumer/"+name)
}

func (b *bench) remove(ctx context.Context, objects ...string) error {
	args := append([]string{"delete", "-n", namespace, "--timeout=90s"}, objects...)
	return b.control.Kubectl(ctx, io.Discard, args...)
}

// receive opens a stream on each connection, streams take turns over the consumers, acknowledges everything as it comes, and counts what was
// acknowledged.
func (b *bench) receive(ctx context.Context, from target, consumers ...string) (figure, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	var count atomic.Int64
	first, once := make(chan struct{}), sync.Once{}
	for i, connection := range from.connections {
		stream, err := openStream(ctx, connection, consumers[i%len(consumers)], 1024)
		if err != nil {
			return figure{}, err
		}
		wg.Go(func() {
			cancel(acknowledge(stream, func(deliveries []*proxyv1alpha1.Delivery) {
				count.Add(int64(len(deliveries)))
				once.Do(func() { close(first) })
			}))
		})
	}
	select {
	case <-first:
	case <-ctx.Done():
		return figure{}, context.Cause(ctx)
	}
	b.windowBegins()
	f, err := watch(ctx, b.window, b.partiesOf(from), count.Load)
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	return f, err
}

type receiveStream = grpc.BidiStreamingClient[proxyv1alpha1.ReceiveRequest, proxyv1alpha1.ReceiveResponse]

func openStream(ctx context.Context, connection *grpc.ClientConn, consumer string, credit int32) (receiveStream, error) {
	stream, err := proxyv1alpha1.NewConsumerServiceClient(connection).Receive(ctx)
	if err != nil {
		return nil, err
	}
	return stream, stream.Send(&proxyv1alpha1.ReceiveRequest{Namespace: namespace, Consumer: consumer, MaxOutstandingMessages: credit})
}

// acknowledge answers each frame of deliveries with their acknowledgements until the stream ends, which is its error.
func acknowledge(stream receiveStream, got func([]*proxyv1alpha1.Delivery)) error {
	for {
		frame, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		for _, result := range frame.GetResults() {
			if result.GetOutcome() != proxyv1alpha1.TokenResult_OK {
				return fmt.Errorf("an acknowledgement was answered %s: %s", result.GetOutcome(), result.GetDetail())
			}
		}
		deliveries := frame.GetDeliveries()
		if len(deliveries) == 0 {
			continue
		}
		tokens := make([]string, len(deliveries))
		for i, d := range deliveries {
			tokens[i] = d.GetAckToken()
		}
		if err := stream.Send(&proxyv1alpha1.ReceiveRequest{Acks: tokens}); err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
		got(deliveries)
	}
}
