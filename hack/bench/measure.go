// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

const (
	bodyBytes   = 1024
	profilePort = 16060
)

// contender is one row's measurement, run once a round.
type contender struct {
	row, who string
	run      func(context.Context) (figure, error)
}

// contenders in the order in which a round runs them.
func (b *bench) contenders() []contender {
	raw := func(callers, batch int) func(context.Context) (figure, error) {
		return func(ctx context.Context) (figure, error) {
			return b.contend(ctx, "raw-send", "--topic", "bench", "--callers", strconv.Itoa(callers), "--batch", strconv.Itoa(batch))
		}
	}
	send := func(to func() []*grpc.ClientConn, pid func() int, callers, batch int) func(context.Context) (figure, error) {
		return func(ctx context.Context) (figure, error) { return b.send(ctx, to(), pid(), callers, batch) }
	}
	proxies, echoes := func() []*grpc.ClientConn { return b.proxies }, func() []*grpc.ClientConn { return b.echoes }
	proxyPID, echoPID := func() int { return b.operator.PID() }, func() int { return b.echo.Process.Pid }
	return []contender{
		{rowUnary, "raw", raw(64, 1)}, {rowUnary, "echo", send(echoes, echoPID, 64, 1)}, {rowUnary, "proxy", send(proxies, proxyPID, 64, 1)},
		{rowBatch, "raw", raw(16, 32)}, {rowBatch, "echo", send(echoes, echoPID, 16, 32)}, {rowBatch, "proxy", send(proxies, proxyPID, 16, 32)},
		{rowSingle, "raw", raw(1, 1)}, {rowSingle, "echo", send(echoes, echoPID, 1, 1)}, {rowSingle, "proxy", send(proxies, proxyPID, 1, 1)},
		{rowReceive, "raw", func(ctx context.Context) (figure, error) { return b.contend(ctx, "raw-receive", "--topic", "bench") }},
		{rowReceive, "echo", func(ctx context.Context) (figure, error) { return b.receive(ctx, b.echoes, b.echo.Process.Pid, "any") }},
		{rowReceive, "proxy", b.receiveProxy},
	}
}

// measure runs the rounds, then the figures that are taken once, and renders the table.
func (b *bench) measure(ctx context.Context) (string, error) {
	say("warming the broker with 100,000 messages")
	for total := 0; total < 100_000; {
		f, err := b.contend(ctx, "raw-send", "--topic", "bench", "--callers", "16", "--batch", "32")
		if err != nil {
			return "", err
		}
		total += int(f.Rate * b.window.Seconds())
	}
	figures := map[string]map[string][]figure{}
	for round := range b.rounds {
		for _, c := range b.contenders() {
			if !strings.Contains(c.row, b.only) {
				continue
			}
			f, err := c.run(ctx)
			if err != nil {
				return "", fmt.Errorf("%s, %s: %w", c.row, c.who, err)
			}
			say("round %d/%d  %-34s %-6s %9.0f msgs/s  p50 %6.2f ms  p99 %6.2f ms  %6.1f us CPU", round+1, b.rounds, c.row, c.who, f.Rate, f.P50, f.P99, f.CPU)
			if figures[c.row] == nil {
				figures[c.row] = map[string][]figure{}
			}
			figures[c.row][c.who] = append(figures[c.row][c.who], f)
		}
	}
	if b.profile != "" {
		if err := b.takeProfile(ctx); err != nil {
			return "", err
		}
	}
	if b.only != "" {
		return "", nil
	}
	once, err := b.measureOnce(ctx)
	if err != nil {
		return "", err
	}
	return render(b, figures, once), nil
}

// send drives ProducerService.Send; caller i uses connection i modulo their number.
func (b *bench) send(ctx context.Context, to []*grpc.ClientConn, pid, callers, batch int) (figure, error) {
	clients := make([]proxyv1alpha1.ProducerServiceClient, len(to))
	for i, connection := range to {
		clients[i] = proxyv1alpha1.NewProducerServiceClient(connection)
	}
	request := &proxyv1alpha1.SendRequest{Namespace: namespace, Producer: "bench"}
	for range batch {
		request.Messages = append(request.Messages, &proxyv1alpha1.Message{Topic: "bench", Content: &proxyv1alpha1.Message_Body{Body: make([]byte, bodyBytes)}})
	}
	var turn atomic.Int64
	do := func(ctx context.Context) (int, error) {
		answer, err := clients[int(turn.Add(1))%len(clients)].Send(ctx, request)
		if err != nil {
			return 0, err
		}
		for _, result := range answer.GetResults() {
			if result.GetError() != nil {
				return 0, fmt.Errorf("%s: %s", result.GetError().GetReason(), result.GetError().GetMessage())
			}
		}
		return batch, nil
	}
	if err := warm(ctx, callers, do); err != nil {
		return figure{}, err
	}
	return drive(ctx, callers, b.window, pid, do)
}

// receiveProxy reads the backlog of the earlier sends with a new group, so that each round starts at the oldest message.
func (b *bench) receiveProxy(ctx context.Context) (figure, error) {
	b.groups++
	name := fmt.Sprintf("bench-%d", b.groups)
	if err := b.objects(ctx, "Consumer", name, "group: g_"+name, "subscriptions: [{topic: bench}]", "startFrom: Earliest", "maxInFlight: 10000"); err != nil {
		return figure{}, err
	}
	f, err := b.receive(ctx, b.proxies, b.operator.PID(), name)
	if err != nil {
		return figure{}, err
	}
	return f, b.control.Kubectl(ctx, io.Discard, "delete", "-n", namespace, "Consumer/"+name, "--timeout=90s")
}

// receive opens a stream on each connection, acknowledges everything as it comes, and counts what was acknowledged.
func (b *bench) receive(ctx context.Context, to []*grpc.ClientConn, pid int, name string) (figure, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	var count atomic.Int64
	first, once := make(chan struct{}), sync.Once{}
	for _, connection := range to {
		stream, err := proxyv1alpha1.NewConsumerServiceClient(connection).Receive(ctx)
		if err != nil {
			return figure{}, err
		}
		if err := stream.Send(&proxyv1alpha1.ReceiveRequest{Namespace: namespace, Consumer: name, MaxOutstandingMessages: 1024}); err != nil {
			return figure{}, err
		}
		wg.Go(func() {
			for {
				frame, err := stream.Recv()
				if err != nil {
					cancel(fmt.Errorf("receive: %w", err))
					return
				}
				tokens := make([]string, 0, len(frame.GetDeliveries()))
				for _, d := range frame.GetDeliveries() {
					tokens = append(tokens, d.GetAckToken())
				}
				if len(tokens) == 0 {
					continue
				}
				if err := stream.Send(&proxyv1alpha1.ReceiveRequest{Acks: tokens}); err != nil {
					cancel(fmt.Errorf("acknowledge: %w", err))
					return
				}
				count.Add(int64(len(tokens)))
				once.Do(func() { close(first) })
			}
		})
	}
	select {
	case <-first:
	case <-ctx.Done():
		return figure{}, context.Cause(ctx)
	}
	f, err := watch(ctx, b.window, pid, count.Load)
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	return f, err
}

// onceFigures are taken once, after the rounds.
type onceFigures struct {
	idleMiB, loadedMiB float64
	readyP50           time.Duration
}

// measureOnce restarts the operator, declares 100 Producers and 100 Consumers on topics of 4 queues, and reads its resident memory; then
// apply -> Ready on the memory driver.
func (b *bench) measureOnce(ctx context.Context) (onceFigures, error) {
	var f onceFigures
	say("100 Producers and 100 Consumers: resident memory")
	if err := b.broker.CreateTopic(ctx, "four", 4, nil); err != nil {
		return f, err
	}
	if err := b.operator.Stop(); err != nil {
		return f, err
	}
	o := b.operatorOptions()
	o.Ports = b.operator.Ports
	var err error
	if b.operator, err = b.control.StartOperator(ctx, o); err != nil {
		return f, err
	}
	b.stops = append(b.stops, b.operator.Stop)
	if f.idleMiB, err = residentMiB(b.operator.PID()); err != nil {
		return f, err
	}
	all := ""
	for i := range 100 {
		all += manifest("Producer", fmt.Sprintf("p%d", i), "topics: [four]")
		all += manifest("Consumer", fmt.Sprintf("c%d", i), fmt.Sprintf("group: g_c%d", i), "subscriptions: [{topic: four}]")
	}
	if err := b.control.Apply(ctx, all); err != nil {
		return f, err
	}
	if err := b.control.Kubectl(ctx, io.Discard, "wait", "-n", namespace, "--for=condition=Ready", "--timeout=180s", "--all", "rmqp,rmqc"); err != nil {
		return f, err
	}
	if f.loadedMiB, err = residentMiB(b.operator.PID()); err != nil {
		return f, err
	}
	say("deleting them")
	if err := b.control.Kubectl(ctx, io.Discard, "delete", "-n", namespace, "--all", "rmqp,rmqc", "--timeout=300s"); err != nil {
		return f, err
	}
	if err := b.operator.Stop(); err != nil {
		return f, err
	}
	f.readyP50, err = b.applyToReady(ctx)
	return f, err
}

// takeProfile writes a CPU profile of the proxy under unary load, or under batches when only these rows run.
func (b *bench) takeProfile(ctx context.Context) error {
	done := make(chan error, 1)
	go func() {
		callers, batch := 64, 1
		if b.only != "" && strings.Contains(rowBatch, b.only) {
			callers, batch = 16, 32
		}
		_, err := b.send(ctx, b.proxies, b.operator.PID(), callers, batch)
		done <- err
	}()
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", localenv.Loopback(profilePort), max(1, int(b.window.Seconds())))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	file, err := os.Create(b.profile)
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, response.Body); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return <-done
}
