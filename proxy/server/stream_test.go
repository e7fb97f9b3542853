// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/memory"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

type stream = grpc.BidiStreamingClient[pb.ReceiveRequest, pb.ReceiveResponse]

// open opens a stream on billing and ends it with the test.
func open(ctx context.Context, t *testing.T, r *proxytest.Rig, first *pb.ReceiveRequest) stream {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	t.Cleanup(cancel)
	s, err := r.Consumers().Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	first.Namespace = "shop"
	if first.Consumer == "" {
		first.Consumer = "billing"
	}
	// EOF: the server has ended the stream already; Recv tells why.
	if err := s.Send(first); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return s
}

// openStream opens a stream with a token and waits until the server has attached it.
func openStream(t *testing.T, r *proxytest.Rig, token string) (stream, registry.Key) {
	t.Helper()
	key := keyOf(t, r, "billing")
	before := r.Uses(key)
	ctx := context.Background()
	if token != "" {
		ctx = proxytest.Token(ctx, token)
	}
	s := open(ctx, t, r, &pb.ReceiveRequest{})
	r.Eventually("the stream is attached", func() bool { return r.Uses(key) > before })
	return s, key
}

func streamError(t *testing.T, r *proxytest.Rig, token string) error {
	t.Helper()
	_, err := open(proxytest.Token(context.Background(), token), t, r, &pb.ReceiveRequest{}).Recv()
	return err
}

func keyOf(t *testing.T, r *proxytest.Rig, name string) registry.Key {
	t.Helper()
	for _, e := range r.Registry.List() {
		if e.Name == name {
			return e.Key
		}
	}
	t.Fatalf("there is no %s", name)
	return registry.Key{}
}

func receiveOne(t *testing.T, s stream) *pb.Delivery {
	t.Helper()
	for {
		res, err := s.Recv()
		if err != nil {
			t.Fatalf("receive: %v", err)
		}
		if len(res.Deliveries) > 0 {
			return res.Deliveries[0]
		}
	}
}

// collect reads deliveries until there are n, acknowledges them, and reads until all results are there.
func collect(t *testing.T, s stream, n int) []*pb.Delivery {
	t.Helper()
	var all []*pb.Delivery
	results := 0
	for len(all) < n || results < n {
		res, err := s.Recv()
		if err != nil {
			t.Fatalf("after %d deliveries and %d results of %d: %v", len(all), results, n, err)
		}
		for _, result := range res.Results {
			if result.Outcome != pb.TokenResult_OK {
				t.Fatalf("an ack got %v", result)
			}
			results++
		}
		if len(res.Deliveries) > 0 {
			all = append(all, res.Deliveries...)
			req := &pb.ReceiveRequest{}
			for _, d := range res.Deliveries {
				req.Acks = append(req.Acks, d.AckToken)
			}
			if err := s.Send(req); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}

func numbers(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("message %d", i)
	}
	return out
}

func TestAStreamDeliversAndAcknowledges(t *testing.T) {
	r := shop(t, proxytest.Options{})
	s, key := openStream(t, r, "")
	r.Send("orders", numbers(500)...)
	seen := map[string]bool{}
	for _, d := range collect(t, s, 500) {
		seen[string(d.Message.Body)] = true
	}
	if len(seen) != 500 {
		t.Errorf("%d different messages came", len(seen))
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("a stream whose receiver is done ended with %v, want OK", err)
	}
	r.Eventually("nobody holds the consumer", func() bool { return r.Uses(key) == 0 })
	if held := r.Broker.Stats().Held; held != 0 {
		t.Errorf("%d messages are still leased", held)
	}
}

func TestOutstandingStaysWithinTheCredit(t *testing.T) {
	r := shop(t, proxytest.Options{})
	r.Send("orders", numbers(50)...)
	s := open(context.Background(), t, r, &pb.ReceiveRequest{MaxOutstandingMessages: 7})
	var got []*pb.Delivery
	for len(got) < 7 {
		res, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, res.Deliveries...)
	}
	// One ack makes room for exactly one.
	if err := s.Send(&pb.ReceiveRequest{Acks: []string{got[0].AckToken}}); err != nil {
		t.Fatal(err)
	}
	results, more := 0, 0
	for results < 1 || more < 1 {
		res, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		results, more = results+len(res.Results), more+len(res.Deliveries)
	}
	if len(got) != 7 || more != 1 {
		t.Errorf("%d came against a credit of 7, and %d for one ack", len(got), more)
	}
	if held := r.Broker.Stats().Held; held > 256 {
		t.Errorf("the window holds %d", held)
	}
}

func TestABadTokenNeverSpoilsTheOthersNorTheStream(t *testing.T) {
	r := shop(t, proxytest.Options{})
	s, _ := openStream(t, r, "")
	r.Send("orders", "a", "b", "c")
	var tokens []string
	for len(tokens) < 3 {
		res, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range res.Deliveries {
			tokens = append(tokens, d.AckToken)
		}
	}
	if err := s.Send(&pb.ReceiveRequest{
		Acks:          []string{"nonsense", tokens[0]},
		Nacks:         []*pb.NackEntry{{AckToken: tokens[1], Delay: durationpb.New(time.Hour)}},
		Modifications: []*pb.ModifyEntry{{AckToken: tokens[2], AckDeadline: durationpb.New(20 * time.Second)}},
	}); err != nil {
		t.Fatal(err)
	}
	outcomes := map[string]*pb.TokenResult{}
	for len(outcomes) < 4 {
		res, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, result := range res.Results {
			outcomes[result.AckToken] = result
		}
	}
	if outcomes["nonsense"].Outcome != pb.TokenResult_INVALID || outcomes[tokens[0]].Outcome != pb.TokenResult_OK ||
		outcomes[tokens[1]].EffectiveDelay.AsDuration() != time.Hour || outcomes[tokens[2]].NewToken == "" {
		t.Errorf("the results are %v", outcomes)
	}
	r.Send("orders", "d")
	if d := receiveOne(t, s); string(d.Message.Body) != "d" {
		t.Errorf("after it came %v", d)
	}
}

func TestFramesThatBreakTheProtocolEndTheStreamWithTheField(t *testing.T) {
	r := shop(t, proxytest.Options{Limits: server.Limits{OpenTimeout: 300 * time.Millisecond}})
	later := func(req *pb.ReceiveRequest) func(*testing.T, stream) {
		return func(t *testing.T, s stream) {
			if err := s.Send(req); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		first *pb.ReceiveRequest
		then  func(*testing.T, stream)
		code  codes.Code
		says  string
	}{
		"a later frame names the consumer":  {&pb.ReceiveRequest{}, later(&pb.ReceiveRequest{Consumer: "billing"}), codes.InvalidArgument, "consumer"},
		"a later frame changes the credit":  {&pb.ReceiveRequest{}, later(&pb.ReceiveRequest{MaxOutstandingMessages: 5}), codes.InvalidArgument, "max_outstanding_messages"},
		"a nack with a negative delay":      {&pb.ReceiveRequest{}, later(&pb.ReceiveRequest{Nacks: []*pb.NackEntry{{Delay: durationpb.New(-1)}}}), codes.InvalidArgument, "nacks[0].delay"},
		"a negative credit":                 {&pb.ReceiveRequest{MaxOutstandingMessages: -1}, nil, codes.InvalidArgument, "max_outstanding_messages"},
		"a negative credit in bytes":        {&pb.ReceiveRequest{MaxOutstandingBytes: -1}, nil, codes.InvalidArgument, "max_outstanding_bytes"},
		"an ack deadline that is too short": {&pb.ReceiveRequest{AckDeadline: durationpb.New(time.Second)}, nil, codes.InvalidArgument, "ack_deadline"},
		"a client id that is too long":      {&pb.ReceiveRequest{ClientId: strings.Repeat("x", 129)}, nil, codes.InvalidArgument, "client_id"},
		"a consumer that does not exist":    {&pb.ReceiveRequest{Consumer: "nobody"}, nil, codes.NotFound, "shop/nobody"},
		"a name that cannot be one":         {&pb.ReceiveRequest{Consumer: "a/b"}, nil, codes.InvalidArgument, "consumer"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(context.Background(), t, r, c.first)
			if c.then != nil {
				c.then(t, s)
			}
			if _, err := s.Recv(); status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %v with %q", err, c.code, c.says)
			}
		})
	}
	t.Run("no first frame at all", func(t *testing.T) {
		s, err := r.Consumers().Receive(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "OpenTimeout") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("an end before the first frame", func(t *testing.T) {
		s, err := r.Consumers().Receive(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("got %v", err)
		}
	})
}

// TestSeedReport_StreamCleanUpIsSynchronousAndReleasesItsUse: the earlier proxy cleaned up in goroutines that nobody waited for.
func TestSeedReport_StreamCleanUpIsSynchronousAndReleasesItsUse(t *testing.T) {
	r := shop(t, proxytest.Options{})
	key := keyOf(t, r, "billing")
	base := runtime.NumGoroutine()
	var cancels []context.CancelFunc
	for range 50 {
		ctx, cancel := context.WithCancel(context.Background())
		cancels = append(cancels, cancel)
		open(ctx, t, r, &pb.ReceiveRequest{})
	}
	r.Eventually("50 streams hold the consumer", func() bool { return r.Uses(key) == 50 })
	// Two goroutines for each stream here, and at most two of the client's.
	if n := runtime.NumGoroutine() - base; n > 50*4+20 {
		t.Errorf("50 streams have %d goroutines", n)
	}
	for _, cancel := range cancels {
		cancel()
	}
	r.Eventually("nobody holds the consumer", func() bool { return r.Uses(key) == 0 })
	r.Eventually("the goroutines have gone", func() bool { return runtime.NumGoroutine() <= base+5 })
}

// TestSeedReport_DisconnectReleasesProducerUses: the earlier proxy never released a producer.
func TestSeedReport_DisconnectReleasesProducerUses(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	key := r.AddProducer("orders", "orders")
	conn := r.Dial()
	hang := r.Broker.Faults().Hang(memory.Send, 0)
	defer hang()
	var calls sync.WaitGroup
	for range 10 {
		calls.Go(func() {
			_, _ = pb.NewProducerServiceClient(conn).Send(context.Background(),
				&pb.SendRequest{Namespace: "shop", Producer: "orders", Messages: []*pb.Message{text("x")}})
		})
	}
	r.Eventually("10 calls hold the producer", func() bool { return r.Uses(key) == 10 })
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	calls.Wait()
	r.Eventually("nobody holds the producer", func() bool { return r.Uses(key) == 0 })
	r.Registry.Release(key, "deleted")
	r.Eventually("the producer is gone", func() bool {
		done, receipt := r.Registry.Release(key, "deleted")
		return done && !receipt.Forced
	})
	if n := len(r.Broker.Clients()); n != 0 {
		t.Errorf("the broker still has %d clients", n)
	}
}

func TestWhatAStreamHadNotWrittenGoesBackUncounted(t *testing.T) {
	r := shop(t, proxytest.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	s := open(ctx, t, r, &pb.ReceiveRequest{})
	// 200 messages of 64 KiB are far more than the connection takes from a receiver that does not read.
	big := strings.Repeat("x", 64<<10)
	for range 10 {
		r.Send("orders", slices.Repeat([]string{big}, 20)...)
	}
	r.Eventually("the window is fetched full", func() bool { return r.Broker.Stats().Held >= 200 })
	cancel()
	if _, err := s.Recv(); err == nil {
		t.Log("a frame was under way already")
	}
	key := keyOf(t, r, "billing")
	r.Eventually("the stream has let go", func() bool { return r.Uses(key) == 0 })
	again := open(context.Background(), t, r, &pb.ReceiveRequest{})
	first, got := 0, 0
	deadline := time.Now().Add(5 * time.Second)
	for got < 100 && time.Now().Before(deadline) {
		res, err := again.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range res.Deliveries {
			got++
			if d.DeliveryAttempt == 1 {
				first++
			}
		}
	}
	if got < 100 || first != got {
		t.Errorf("%d messages came again at once, %d of them as a first attempt", got, first)
	}
}

// TestAReceiverThatNeverReads is D9: bounded memory, its stream ends, and others do not notice.
func TestAReceiverThatNeverReads(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{Limits: server.Limits{WriteTimeout: time.Second}})
	r.AddProducer("orders", "orders")
	r.AddProducer("quick", "quick")
	r.AddConsumer("billing", "orders")
	r.AddConsumer("fast", "quick")
	lazy := r.Dial(grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
	s, err := pb.NewConsumerServiceClient(lazy).Receive(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&pb.ReceiveRequest{Namespace: "shop", Consumer: "billing"}); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", 100<<10)
	for range 10 {
		r.Send("orders", slices.Repeat([]string{big}, 20)...)
	}
	other := open(context.Background(), t, r, &pb.ReceiveRequest{Consumer: "fast"})
	var took []time.Duration
	for range 200 {
		began := time.Now()
		r.Send("quick", "x")
		collect(t, other, 1)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	if p99 := took[len(took)*99/100]; p99 > 500*time.Millisecond {
		t.Errorf("another's p99 is %s", p99)
	}
	key := keyOf(t, r, "billing")
	r.Eventually("the stream that nobody reads has ended", func() bool { return r.Uses(key) == 0 })
	buffered := 0
	for {
		res, recvErr := s.Recv()
		if err = recvErr; err != nil {
			break
		}
		for _, d := range res.Deliveries {
			buffered += len(d.Message.Body)
		}
	}
	if buffered > 4<<20 {
		t.Errorf("the proxy had buffered %d bytes for it", buffered)
	}
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "WriteTimeout") {
		t.Errorf("its receiver, reading at last, sees %v", err)
	}
}

func TestTenThousandAcksBeforeTheFirstRead(t *testing.T) {
	r := shop(t, proxytest.Options{})
	s, _ := openStream(t, r, "")
	const n = 10000
	for i := range n {
		if err := s.Send(&pb.ReceiveRequest{Acks: []string{fmt.Sprintf("nonsense-%d", i)}}); err != nil {
			t.Fatalf("ack %d: %v", i, err)
		}
	}
	results := 0
	for results < n {
		res, err := s.Recv()
		if err != nil {
			t.Fatalf("after %d results: %v", results, err)
		}
		results += len(res.Results)
	}
}

// TestAThousandStreamsOpenedAndClosed is D8: the last one gets everything. Nothing of the others holds a message back or a goroutine.
func TestAThousandStreamsOpenedAndClosed(t *testing.T) {
	r := shop(t, proxytest.Options{})
	key := keyOf(t, r, "billing")
	base := runtime.NumGoroutine()
	var streams sync.WaitGroup
	for worker := range 10 {
		streams.Go(func() {
			for i := range 100 {
				ctx, cancel := context.WithCancel(context.Background())
				s, err := r.Consumers().Receive(ctx)
				if err == nil {
					err = s.Send(&pb.ReceiveRequest{Namespace: "shop", Consumer: "billing", Acks: []string{"nonsense"}})
				}
				if err == nil && (i+worker)%2 == 0 {
					_, err = s.Recv() // Every second one is attached for sure when it ends; the others end at any moment.
				}
				if err != nil {
					t.Errorf("stream %d of %d: %v", i, worker, err)
				}
				cancel()
			}
		})
	}
	streams.Wait()
	r.Eventually("all have let go", func() bool { return r.Uses(key) == 0 })
	last, _ := openStream(t, r, "")
	began := time.Now()
	r.Send("orders", numbers(100)...)
	collect(t, last, 100)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the last stream had everything after %s", took)
	}
	r.Eventually("the goroutines have gone", func() bool { return runtime.NumGoroutine() <= base+10 })
}

func TestAStreamThatReachesItsAgeGetsTheNoticeAndEnds(t *testing.T) {
	r := shop(t, proxytest.Options{Limits: server.Limits{MaxConnectionAge: 300 * time.Millisecond, StreamGrace: 200 * time.Millisecond}})
	s, _ := openStream(t, r, "")
	res, err := s.Recv()
	if err != nil || !res.Draining {
		t.Fatalf("got %v %v, want the draining notice", res, err)
	}
	if _, err = s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v, want UNAVAILABLE", err)
	}
}

func TestAMessageLargerThanAFrameComesAlone(t *testing.T) {
	r := shop(t, proxytest.Options{})
	s, _ := openStream(t, r, "")
	huge := strings.Repeat("x", 4<<20-200)
	r.Send("orders", "small", huge, "small")
	got := 0
	for got < 3 {
		res, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range res.Deliveries {
			if len(d.Message.Body) == len(huge) && len(res.Deliveries) != 1 {
				t.Errorf("the huge one came with %d others", len(res.Deliveries)-1)
			}
		}
		got += len(res.Deliveries)
	}
}

// TestAConnectionWhoseStreamsAreNeverReadIsCut: what an ended stream has written stays in the connection's memory until it is read.
func TestAConnectionWhoseStreamsAreNeverReadIsCut(t *testing.T) {
	r := shop(t, proxytest.Options{Limits: server.Limits{WriteTimeout: 200 * time.Millisecond}})
	key := keyOf(t, r, "billing")
	big := strings.Repeat("x", 100<<10)
	for range 5 {
		r.Send("orders", slices.Repeat([]string{big}, 20)...)
	}
	lazy := r.Dial(grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
	if r.Connections() != 1 {
		t.Fatalf("there are %v connections before", r.Connections())
	}
	var streams []stream
	for i := range 3 {
		s, err := pb.NewConsumerServiceClient(lazy).Receive(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
		if err := s.Send(&pb.ReceiveRequest{Namespace: "shop", Consumer: "billing", MaxOutstandingMessages: 30}); err != nil {
			t.Fatal(err)
		}
		r.Eventually(fmt.Sprintf("stream %d has ended", i), func() bool { return r.StalledStreams() == i+1 })
	}
	r.Eventually("the connection is cut", func() bool { return r.Connections() == 1 && r.Uses(key) == 0 })
	for _, s := range streams {
		for {
			if _, err := s.Recv(); err != nil {
				break
			}
		}
	}
}

func TestSlowAcknowledgementsDoNotHoldDeliveriesBack(t *testing.T) {
	r := shop(t, proxytest.Options{})
	s, _ := openStream(t, r, "")
	r.Send("orders", "first")
	first := receiveOne(t, s)
	lift := r.Broker.Faults().Hang(memory.Ack, 0)
	if err := s.Send(&pb.ReceiveRequest{Acks: []string{first.AckToken}}); err != nil {
		t.Fatal(err)
	}
	r.Eventually("the ack hangs", func() bool { return r.Broker.Faults().Hanging(memory.Ack) == 1 })
	r.Send("orders", "second")
	second := receiveOne(t, s)
	if string(second.Message.Body) != "second" {
		t.Errorf("got %v", second)
	}
	// What arrives meanwhile goes next, together.
	if err := s.Send(&pb.ReceiveRequest{Acks: []string{second.AckToken}}); err != nil {
		t.Fatal(err)
	}
	lift()
	outcomes := 0
	for outcomes < 2 {
		res, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, result := range res.Results {
			if result.Outcome != pb.TokenResult_OK {
				t.Errorf("got %v", result)
			}
			outcomes++
		}
	}
}
