// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/memory"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/ratelimit"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// limitedProducer makes or changes a Producer of the topic "orders" with a rate limit.
func limitedProducer(r *proxytest.Rig, uid string, generation int64, limit ratelimit.Rate) registry.Key {
	return r.Running(r.Acquire("orders", func(s *registry.Spec) {
		s.UID, s.Generation = uid, generation
		s.Producer = proxytest.ProducerSpec("orders")
		s.Producer.RateLimit = limit
	}))
}

func sendN(r *proxytest.Rig, n int, change ...func(*pb.Message)) (*pb.SendResponse, error) {
	req := &pb.SendRequest{Namespace: "shop", Producer: "orders"}
	for i := range n {
		m := text(fmt.Sprintf("message %d", i))
		for _, c := range change {
			c(m)
		}
		req.Messages = append(req.Messages, m)
	}
	return r.Producers().Send(context.Background(), req)
}

func retryDelay(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if retry, ok := d.(*errdetails.RetryInfo); ok {
			return retry.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

func TestSendsBeyondTheRateAreRefusedWholeWithTheTimeToWait(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	limitedProducer(r, "uid", 1, ratelimit.Rate{Messages: 10})
	// A batch of more than a second's worth passes, and is paid back.
	if res, err := sendN(r, 25); err != nil || len(res.GetResults()) != 25 {
		t.Fatalf("a batch larger than the burst: %v", err)
	}
	_, err := sendN(r, 3)
	reason, field, results := info(err)
	if status.Code(err) != codes.ResourceExhausted || reason != "RateLimited" || field != "messages[0]" {
		t.Fatalf("a send beyond the rate: %v, reason %q, field %q", err, reason, field)
	}
	for i, result := range results.GetResults() {
		e := result.GetError()
		if codes.Code(e.GetCode()) != codes.ResourceExhausted || e.GetReason() != "RateLimited" || !e.GetRetryable() || !strings.Contains(e.GetMessage(), "10 messages a second on each host") {
			t.Errorf("result %d: %v", i, e)
		}
	}
	wait := retryDelay(err)
	if len(results.GetResults()) != 3 || wait < 200*time.Millisecond || wait > 1510*time.Millisecond {
		t.Errorf("%d results, the hint is %s, want about 1.5 s", len(results.GetResults()), wait)
	}
	if n := r.Broker.Stats().Messages; n != 25 {
		t.Errorf("%d messages are stored, want 25", n)
	}
	if n := r.Metric("rocketmq_proxy_sent_messages_total", "result", "RateLimited"); n != 3 {
		t.Errorf("the metric says %v", n)
	}
	code, answer := r.Post("/v1alpha1/namespaces/shop/producers/orders:send", `{"messages": [{"text": "x"}]}`)
	if code != http.StatusTooManyRequests || !strings.Contains(answer, "RetryInfo") || !strings.Contains(answer, "RateLimited") {
		t.Errorf("over HTTP: %d %s", code, answer)
	}
	// The hint is true.
	time.Sleep(wait)
	if _, err := sendN(r, 3); err != nil {
		t.Errorf("after the time that was told: %v", err)
	}
}

func TestHTTPTellsTheTimeToWaitInWholeSecondsToo(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	limitedProducer(r, "uid", 1, ratelimit.Rate{Bytes: 100})
	if _, err := sendN(r, 1, func(m *pb.Message) { m.Content = &pb.Message_Text{Text: strings.Repeat("x", 100_000)} }); err != nil {
		t.Fatalf("a message of more than a second's worth: %v", err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.HTTP+"/v1alpha1/namespaces/shop/producers/orders:send", strings.NewReader(`{"messages": [{"text": "x"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { _ = res.Body.Close() }()
	if after := res.Header.Get("Retry-After"); res.StatusCode != http.StatusTooManyRequests || len(after) < 3 || after > "1001" {
		t.Errorf("%d, Retry-After %q, want about 1000", res.StatusCode, after)
	}
}

// What cannot be sent anyway is not counted, is told as ever, and does not hide the limit from the others.
func TestBadMessagesAreNotCountedAndTheLimitIsToldForTheGoodOnes(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	limitedProducer(r, "uid", 1, ratelimit.Rate{Messages: 1})
	for range 5 {
		if _, err := sendN(r, 100, func(m *pb.Message) { m.Topic = "other" }); status.Code(err) != codes.InvalidArgument {
			t.Fatalf("only bad messages: %v", err)
		}
	}
	if _, err := sendN(r, 100); err != nil {
		t.Fatalf("the first good ones: %v", err)
	}
	i := 0
	_, err := sendN(r, 3, func(m *pb.Message) {
		if i++; i == 1 {
			m.Topic = "other"
		}
	})
	_, _, results := info(err)
	if status.Code(err) != codes.ResourceExhausted || retryDelay(err) == 0 || len(results.GetResults()) != 3 {
		t.Fatalf("a bad one and two beyond the rate: %v", err)
	}
	for i, want := range []string{"TopicNotAllowed", "RateLimited", "RateLimited"} {
		if got := results.GetResults()[i].GetError(); got.GetReason() != want {
			t.Errorf("result %d: %v, want %s", i, got, want)
		}
	}
}

func TestARateLimitIsChangedWithoutANewClient(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	key := limitedProducer(r, "uid", 1, ratelimit.Rate{})
	status1, _ := r.Registry.Status(key)
	if _, err := sendN(r, 1000); err != nil {
		t.Fatal(err)
	}
	change := func(generation int64, limit ratelimit.Rate) {
		t.Helper()
		limitedProducer(r, "uid", generation, limit)
		r.Eventually("the change is there", func() bool { s, _ := r.Registry.Status(key); return s.Generation == generation })
	}
	change(2, ratelimit.Rate{Messages: 5})
	if _, err := sendN(r, 1000); err != nil {
		t.Errorf("the first send under a new limit: %v", err)
	}
	if _, err := sendN(r, 1); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the second: %v", err)
	}
	change(3, ratelimit.Rate{})
	if _, err := sendN(r, 1000); err != nil {
		t.Errorf("after the limit was taken away: %v", err)
	}
	if s, _ := r.Registry.Status(key); s.ClientID != status1.ClientID {
		t.Errorf("the client is another one: %s, was %s", s.ClientID, status1.ClientID)
	}
}

func TestConcurrentSendersTogetherKeepToTheRate(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	limitedProducer(r, "uid", 1, ratelimit.Rate{Messages: 200})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for ctx.Err() == nil {
				_, err := r.Producers().Send(ctx, &pb.SendRequest{Namespace: "shop", Producer: "orders", Messages: []*pb.Message{text("x")}})
				if wait := retryDelay(err); wait > 0 {
					select {
					case <-time.After(wait):
					case <-ctx.Done():
					}
				}
			}
		})
	}
	all.Wait()
	// One second's worth at once, then the rate for two seconds; what passes last may be owed.
	if n := r.Broker.Stats().Messages; n < 300 || n > 660 {
		t.Errorf("%d messages were stored in 2 s, want about 600", n)
	}
}

func TestDeliveriesArePacedWithoutAnError(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	r.AddProducer("orders", "orders")
	r.Running(r.Acquire("billing", func(s *registry.Spec) {
		s.Consumer = proxytest.ConsumerSpec("orders")
		s.Consumer.RateLimit = ratelimit.Rate{Messages: 20}
	}))
	if _, err := sendN(r, 100); err != nil {
		t.Fatal(err)
	}
	began, got := time.Now(), 0
	for got < 60 {
		res, err := r.Consumers().Pull(t.Context(), &pb.PullRequest{Namespace: "shop", Consumer: "billing", MaxMessages: 100, Wait: durationpb.New(5 * time.Second)})
		if err != nil || len(res.GetDeliveries()) == 0 {
			t.Fatalf("after %d: %v, %v", got, res, err)
		}
		got += len(res.GetDeliveries())
	}
	if took := time.Since(began); took < 1800*time.Millisecond {
		t.Errorf("%d came in %s, want 20 and 20 a second", got, took)
	}
	if n := r.Metric("rocketmq_proxy_rate_limited_seconds_total", "name", "billing"); n < 1 {
		t.Errorf("the metric says %v s", n)
	}
}

// TestOneObjectsCallsLeaveRoomForTheOthers: a Producer whose broker hangs fills its own places only.
func TestOneObjectsCallsLeaveRoomForTheOthers(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{Limits: server.Limits{MaxConcurrentCalls: 20, MaxCallsPerObject: 8}})
	key := limitedProducer(r, "uid", 1, ratelimit.Rate{})
	r.AddConsumer("billing", "orders")
	lift := r.Broker.Faults().Hang(memory.Send, 0)
	var all sync.WaitGroup
	defer all.Wait()
	defer lift()
	for range 8 {
		all.Go(func() { _, _ = sendN(r, 1) })
	}
	r.Eventually("eight calls wait", func() bool { return r.Uses(key) == 8 })
	_, err := sendN(r, 1)
	if reason, _, _ := info(err); status.Code(err) != codes.ResourceExhausted || reason != "LimitExceeded" || !strings.Contains(err.Error(), "MaxCallsPerObject") || !strings.Contains(err.Error(), "shop/orders") {
		t.Errorf("the ninth: %v", err)
	}
	if n := r.Uses(key); n != 8 {
		t.Errorf("the refused call holds the client: %d uses", n)
	}
	if _, err := r.Consumers().Pull(t.Context(), &pb.PullRequest{Namespace: "shop", Consumer: "billing", Wait: durationpb.New(0)}); err != nil {
		t.Errorf("another object: %v", err)
	}
}

func TestTransactionsCountForTheRateAsSendsDo(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	r.Running(r.Acquire("orders", func(s *registry.Spec) {
		s.Producer = proxytest.ProducerSpec("orders")
		s.Producer.Config.Transactions, s.Producer.RateLimit = true, ratelimit.Rate{Bytes: 1}
	}))
	begin(t, r, "orders", text("the first one takes more than a second's worth"))
	_, err := r.Producers().BeginTransaction(t.Context(), &pb.BeginTransactionRequest{Namespace: "shop", Producer: "orders", Message: text("x")})
	if reason, field, _ := info(err); status.Code(err) != codes.ResourceExhausted || reason != "RateLimited" || field != "message" || retryDelay(err) < 10*time.Second {
		t.Errorf("the second: %v, reason %q, field %q, wait %s", err, reason, field, retryDelay(err))
	}
}
