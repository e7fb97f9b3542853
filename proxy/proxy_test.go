// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

func shop(t *testing.T, o proxytest.Options) (*proxytest.Rig, registry.Key) {
	t.Helper()
	r := proxytest.New(t, o)
	r.AddProducer("orders", "orders")
	return r, r.AddConsumer("billing", "orders")
}

// live opens a stream, sends one message, and returns both when the message is in the receiver's hands.
func live(t *testing.T, r *proxytest.Rig) (pb.ConsumerService_ReceiveClient, *pb.Delivery) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	s, err := r.Consumers().Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&pb.ReceiveRequest{Namespace: "shop", Consumer: "billing"}); err != nil {
		t.Fatal(err)
	}
	r.Send("orders", "x")
	res, err := s.Recv()
	if err != nil || len(res.Deliveries) != 1 {
		t.Fatalf("got %v %v, want one delivery", res, err)
	}
	return s, res.Deliveries[0]
}

// TestAHostStopsInOrderWithLiveStreams is the stop order of a host as a receiver sees it.
func TestAHostStopsInOrderWithLiveStreams(t *testing.T) {
	r, _ := shop(t, proxytest.Options{DrainTimeout: 20 * time.Second})
	s, d := live(t, r)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.Stop()
	}()
	// 1. The notice comes, readiness and health say no.
	res, err := s.Recv()
	if err != nil || !res.Draining {
		t.Fatalf("got %v %v, want the draining notice", res, err)
	}
	if r.Proxy.Ready(nil) == nil {
		t.Error("it is still ready")
	}
	health, err := healthv1.NewHealthClient(r.Conn).Check(context.Background(), &healthv1.HealthCheckRequest{})
	if err != nil || health.Status != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health: %v %v", health, err)
	}
	// 2. New work is UNAVAILABLE.
	_, err = r.Producers().Send(context.Background(), &pb.SendRequest{Namespace: "shop", Producer: "orders",
		Messages: []*pb.Message{{Content: &pb.Message_Text{Text: "x"}}}})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a new send got %v, want UNAVAILABLE", err)
	}
	_, err = r.Consumers().Pull(context.Background(), &pb.PullRequest{Namespace: "shop", Consumer: "billing"})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a new pull got %v, want UNAVAILABLE", err)
	}
	// 3. Acknowledgements are answered to the end, also by unary calls.
	acked, err := r.Consumers().Ack(context.Background(), &pb.AckRequest{Namespace: "shop", Consumer: "billing", AckTokens: []string{d.AckToken}})
	if err != nil || acked.Results[0].Outcome != pb.TokenResult_OK {
		t.Fatalf("the unary ack got %v %v", acked, err)
	}
	// 4. With nothing in flight any more the stream ends, long before the deadline, and so does the host.
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v, want UNAVAILABLE", err)
	}
	select {
	case <-stopped:
	case <-time.After(10 * time.Second):
		t.Fatal("the proxy did not stop although nothing was in flight")
	}
	for _, receipt := range r.Proxy.Receipts() {
		if receipt.Err != "" || receipt.Forced {
			t.Errorf("the receipt is %+v", receipt)
		}
		if receipt.Key.Kind == registry.Consumer && receipt.Drained != 1 {
			t.Errorf("the consumer's receipt is %+v, want one drained", receipt)
		}
	}
	if n := len(r.Broker.Clients()); n != 0 {
		t.Errorf("the broker still has %d clients", n)
	}
}

func TestAStopWithoutAcknowledgementsEndsAtItsDeadline(t *testing.T) {
	r, _ := shop(t, proxytest.Options{DrainTimeout: 2 * time.Second})
	s, _ := live(t, r)
	began := time.Now()
	r.Stop()
	if took := time.Since(began); took < time.Second || took > 8*time.Second {
		t.Errorf("the stop took %s, want about the drain's deadline", took)
	}
	for {
		if _, err := s.Recv(); err != nil {
			if status.Code(err) != codes.Unavailable {
				t.Errorf("the stream ended with %v", err)
			}
			break
		}
	}
}

// TestASendThatTookTheClientBeforeItsDrainIsStored: between the two the driver may have changed or the object may be gone; the sender did nothing wrong.
func TestASendThatTookTheClientBeforeItsDrainIsStored(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	key := r.AddProducer("orders", "orders")
	use, err := r.Registry.Use(t.Context(), registry.Producer, proxytest.Namespace, "orders")
	if err != nil {
		t.Fatal(err)
	}
	r.Registry.Release(key, "deleted")
	<-use.Done()
	use.Client().Drain(t.Context())
	message := &driver.Message{ID: "m1", Topic: "orders", Body: []byte("x")}
	if got := use.Client().(server.Sender).Send(t.Context(), "orders", []*driver.Message{message}); got[0].Err != nil {
		t.Errorf("sent after the drain began: %v", got[0].Err)
	}
	use.Release()
	r.Eventually("the receipt has nothing forced", func() bool {
		done, receipt := r.Registry.Release(key, "deleted")
		return done && !receipt.Forced && receipt.Err == ""
	})
}

func TestADeletedConsumerEndsItsStreamsAborted(t *testing.T) {
	r, key := shop(t, proxytest.Options{})
	s, d := live(t, r)
	r.Registry.Release(key, "deleted")
	res, err := s.Recv()
	if err != nil || !res.Draining {
		t.Fatalf("got %v %v, want the draining notice", res, err)
	}
	if err := s.Send(&pb.ReceiveRequest{Acks: []string{d.AckToken}}); err != nil {
		t.Fatal(err)
	}
	outcome := pb.TokenResult_OUTCOME_UNSPECIFIED
	for {
		res, err := s.Recv()
		if err != nil {
			if status.Code(err) != codes.Aborted {
				t.Errorf("the stream ended with %v, want ABORTED", err)
			}
			break
		}
		for _, result := range res.Results {
			outcome = result.Outcome
		}
	}
	if outcome != pb.TokenResult_OK {
		t.Errorf("the last ack got %v; its result must come before the stream ends", outcome)
	}
	r.Eventually("the consumer is gone", func() bool {
		done, receipt := r.Registry.Release(key, "deleted")
		return done && receipt.Drained == 1 && !receipt.Forced
	})
	_, err = r.Consumers().Pull(context.Background(), &pb.PullRequest{Namespace: "shop", Consumer: "billing"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("a pull of what was deleted got %v", err)
	}
}

func TestADeletedConsumerEndsAWaitingPull(t *testing.T) {
	r, key := shop(t, proxytest.Options{})
	got := make(chan error, 1)
	go func() {
		_, err := r.Consumers().Pull(context.Background(), &pb.PullRequest{Namespace: "shop", Consumer: "billing", Wait: durationpb.New(time.Minute)})
		got <- err
	}()
	r.Eventually("the pull waits", func() bool { return r.Uses(key) == 1 })
	r.Registry.Release(key, "deleted")
	select {
	case err := <-got:
		if status.Code(err) != codes.Aborted {
			t.Errorf("the pull got %v, want ABORTED", err)
		}
	case <-time.After(proxytest.Patience):
		t.Fatal("the pull still waits")
	}
}

func TestAPullWhoseCallerHasGoneLosesNothing(t *testing.T) {
	r, key := shop(t, proxytest.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, r.HTTP+"/v1alpha1/namespaces/shop/consumers/billing:pull", strings.NewReader(`{"wait":"60s"}`))
		if res, err := http.DefaultClient.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
		http.DefaultClient.CloseIdleConnections()
	}()
	r.Eventually("the pull waits", func() bool { return r.Uses(key) == 1 })
	cancel()
	<-done
	r.Eventually("nobody holds the consumer", func() bool { return r.Uses(key) == 0 })
	r.Send("orders", "x")
	res, err := r.Consumers().Pull(context.Background(), &pb.PullRequest{Namespace: "shop", Consumer: "billing"})
	if err != nil || len(res.Deliveries) != 1 || res.Deliveries[0].DeliveryAttempt != 1 {
		t.Errorf("the next pull got %v %v", res, err)
	}
}

func TestPulledMessagesStayLeasedAfterTheAnswer(t *testing.T) {
	r, _ := shop(t, proxytest.Options{})
	r.Send("orders", "x")
	first, err := r.Consumers().Pull(context.Background(), &pb.PullRequest{Namespace: "shop", Consumer: "billing"})
	if err != nil || len(first.Deliveries) != 1 {
		t.Fatalf("pull: %v %v", first, err)
	}
	second, err := r.Consumers().Pull(context.Background(), &pb.PullRequest{Namespace: "shop", Consumer: "billing", Wait: durationpb.New(100 * time.Millisecond)})
	if err != nil || len(second.Deliveries) != 0 {
		t.Errorf("a second pull got %v %v, want nothing", second, err)
	}
	acked, err := r.Consumers().Ack(context.Background(), &pb.AckRequest{Namespace: "shop", Consumer: "billing", AckTokens: []string{first.Deliveries[0].AckToken}})
	if err != nil || acked.Results[0].Outcome != pb.TokenResult_OK {
		t.Errorf("ack: %v %v", acked, err)
	}
}

func TestLimitsOfAConsumerChangeWithoutAnotherClient(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	change := func(generation int64, inFlight int, topic string) func(*registry.Spec) {
		return func(s *registry.Spec) {
			s.UID, s.Generation, s.Created = "same", generation, time.Unix(1, 0)
			s.Consumer = proxytest.ConsumerSpec(topic)
			s.Consumer.MaxInFlight = inFlight
		}
	}
	key := r.Running(r.Acquire("billing", change(1, 10, "orders")))
	id := func() string {
		s, _ := r.Registry.Status(key)
		return string(s.ClientID)
	}
	generation := func(want int64) func() bool {
		return func() bool {
			s, _ := r.Registry.Status(key)
			return s.Generation == want && s.State == registry.Running
		}
	}
	first := id()
	r.Acquire("billing", change(2, 20, "orders"))
	r.Eventually("generation 2 runs", generation(2))
	if id() != first {
		t.Error("a changed limit made another client")
	}
	r.Acquire("billing", change(3, 20, "returns"))
	r.Eventually("generation 3 runs", generation(3))
	if id() == first {
		t.Error("another topic kept the client")
	}
}

func TestOptionsThatWouldBeOpenToTheWorldAreRefused(t *testing.T) {
	r := registry.New(registry.Options{})
	t.Cleanup(func() { r.Close(context.Background()) })
	auth := &proxytest.Auth{}
	for name, c := range map[string]struct {
		options proxy.Options
		says    string
	}{
		"no registry":                          {proxy.Options{}, "Registry"},
		"no authorizer":                        {proxy.Options{Registry: r, InsecurePlaintext: true, GRPCAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0"}, "InsecureSkipAuth"},
		"no certificate":                       {proxy.Options{Registry: r, Authorizer: auth}, "InsecurePlaintext"},
		"plain text on every address":          {proxy.Options{Registry: r, Authorizer: auth, InsecurePlaintext: true}, "127.0.0.1:8081"},
		"no authentication on another address": {proxy.Options{Registry: r, InsecureSkipAuth: true, GRPCAddress: "127.0.0.1:1", HTTPAddress: "10.0.0.1:8080"}, "127.0.0.1:8080"},
		"an address without a port":            {proxy.Options{Registry: r, InsecureSkipAuth: true, InsecurePlaintext: true, GRPCAddress: "localhost"}, "host:port"},
		"files that are not there":             {proxy.Options{Registry: r, Authorizer: auth, CertFile: "/nowhere/crt", KeyFile: "/nowhere/key"}, "/nowhere/crt"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := proxy.New(c.options); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}

func TestAPortThatIsTakenIsAnErrorAndLeavesNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	r := registry.New(registry.Options{})
	p, err := proxy.New(proxy.Options{
		Registry: r, InsecureSkipAuth: true, InsecurePlaintext: true, GRPCAddress: "127.0.0.1:0", HTTPAddress: taken.Addr().String(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(context.Background()); err == nil || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("got %v, want the address that is taken", err)
	}
	select {
	case <-p.Stopped():
	default:
		t.Error("it has not stopped")
	}
	if p.NeedLeaderElection() {
		t.Error("every host serves, not only a leader")
	}
}

func TestTooManyConnectionsAreClosedAtOnce(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{Limits: server.Limits{MaxConnections: 2}})
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for range 3 {
		c, err := net.Dial("tcp", r.Proxy.HTTPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if err := open[2].SetReadDeadline(time.Now().Add(proxytest.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := open[2].Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the third connection got %v, want its end", err)
	}
}

func TestAClientThatTheDriverCannotOpenIsNotReady(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	key := r.Acquire("orders", func(s *registry.Spec) {
		s.Producer = proxytest.ProducerSpec("orders")
		s.Driver = "Unknown"
	})
	r.Eventually("it has failed", func() bool {
		s, _ := r.Registry.Status(key)
		return s.State == registry.Failed && strings.Contains(s.Err.Error(), `"Unknown"`)
	})
}

func TestBothPortsSpeakTLS(t *testing.T) {
	certFile, keyFile, trust := proxytest.Certificate(t)
	r := proxytest.New(t, proxytest.Options{Change: func(o *proxy.Options) {
		o.InsecurePlaintext, o.CertFile, o.KeyFile = false, certFile, keyFile
	}})
	r.AddProducer("orders", "orders")
	conn := r.Dial(grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: trust, ServerName: "localhost"})))
	if _, err := pb.NewProducerServiceClient(conn).Send(context.Background(), &pb.SendRequest{Namespace: "shop", Producer: "orders",
		Messages: []*pb.Message{{Content: &pb.Message_Text{Text: "x"}}}}); err != nil {
		t.Errorf("gRPC over TLS: %v", err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Post("https://"+r.Proxy.HTTPAddr().String()+"/v1alpha1/namespaces/shop/producers/orders:send",
		"application/json", strings.NewReader(`{"messages":[{"text":"x"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK || res.ProtoMajor != 2 {
		t.Errorf("HTTP over TLS: %s %s", res.Status, res.Proto)
	}
	_, err = r.Producers().Send(context.Background(), &pb.SendRequest{Namespace: "shop", Producer: "orders"})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("plain text got %v", err)
	}
	for _, address := range []net.Addr{r.Proxy.GRPCAddr(), r.Proxy.HTTPAddr()} {
		c, err := tls.Dial("tcp", address.String(), &tls.Config{RootCAs: trust, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
		if err == nil {
			_ = c.Close()
			t.Errorf("%s takes TLS 1.1", address)
		}
	}
	if end := r.Metric("rocketmq_proxy_tls_certificate_expiry_timestamp_seconds"); end < float64(time.Now().Unix()) {
		t.Errorf("the certificate's end is told as %v", end)
	}
}

// TestHealthSaysNoUntilWhatExistedIsServed: a host that had just started told gRPC's health checks that it serves, and answered "Starting" to those who believed it.
func TestHealthSaysNoUntilWhatExistedIsServed(t *testing.T) {
	primed := make(chan struct{})
	r := proxytest.New(t, proxytest.Options{Change: func(o *proxy.Options) { o.Primed = primed }})
	ask := func() healthv1.HealthCheckResponse_ServingStatus {
		answer, err := healthv1.NewHealthClient(r.Conn).Check(context.Background(), &healthv1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetStatus()
	}
	if got := ask(); got != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("before the clients are open: %s", got)
	}
	close(primed)
	r.Eventually("health says yes", func() bool { return ask() == healthv1.HealthCheckResponse_SERVING })
}
