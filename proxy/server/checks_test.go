// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/memory"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// quickChecks is a broker that asks soon.
var quickChecks = memory.Options{TransactionTimeout: 100 * time.Millisecond, TransactionCheckInterval: 200 * time.Millisecond}

// checkStream is a TransactionChecks stream of a test.
type checkStream struct {
	t *testing.T
	pb.ProducerService_TransactionChecksClient
	cancel context.CancelFunc
}

func openChecks(t *testing.T, r *proxytest.Rig, producer string) *checkStream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream, err := r.Producers().TransactionChecks(ctx)
	if err == nil {
		err = stream.Send(&pb.TransactionChecksRequest{Namespace: "shop", Producer: producer})
	}
	if err != nil {
		t.Fatal(err)
	}
	return &checkStream{t, stream, cancel}
}

// check waits for a check of the message; results that come before go to seen.
func (s *checkStream) check(id string, seen ...func(*pb.TransactionResult)) *pb.TransactionCheck {
	s.t.Helper()
	for {
		res, err := s.Recv()
		if err != nil {
			s.t.Fatalf("wait for a check of %s: %v", id, err)
		}
		for _, result := range res.GetResults() {
			for _, f := range seen {
				f(result)
			}
		}
		for _, c := range res.GetChecks() {
			if c.GetMessage().GetId() == id {
				return c
			}
		}
	}
}

// resolve answers and waits for the result.
func (s *checkStream) resolve(transaction string, d pb.Decision) *pb.TransactionResult {
	s.t.Helper()
	if err := s.Send(&pb.TransactionChecksRequest{Resolutions: []*pb.TransactionResolution{{Transaction: transaction, Decision: d}}}); err != nil {
		s.t.Fatal(err)
	}
	for {
		res, err := s.Recv()
		if err != nil {
			s.t.Fatalf("wait for a result: %v", err)
		}
		for _, result := range res.GetResults() {
			if result.GetTransaction() == transaction {
				return result
			}
		}
	}
}

func TestAStreamIsAskedAndItsAnswersDecide(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{Broker: quickChecks})
	key := addTransactional(r, "orders", "orders")
	r.AddConsumer("billing", "orders")
	for _, id := range []string{"yes", "no", "later"} {
		m := text("body of " + id)
		m.Id, m.Tag, m.Keys, m.Properties = id, "t", []string{"k"}, map[string]string{"a": "b"}
		begin(t, r, "orders", m)
	}
	s := openChecks(t, r, "orders")
	c := s.check("yes")
	m := c.GetMessage()
	if c.GetCheckTimes() < 1 || m.GetTopic() != "orders" || string(m.GetBody()) != "body of yes" || m.GetTag() != "t" || m.GetKeys()[0] != "k" ||
		m.GetProperties()["a"] != "b" || time.Since(c.GetBornTime().AsTime()) > time.Minute {
		t.Errorf("the check is %v", c)
	}
	if got := s.resolve(c.GetTransaction(), pb.Decision_COMMIT); got.GetError() != nil || got.GetMessageId() != "yes" {
		t.Errorf("commit: %v", got)
	}
	if got := s.resolve(s.check("no").GetTransaction(), pb.Decision_ROLLBACK); got.GetError() != nil {
		t.Errorf("roll back: %v", got)
	}
	later := s.check("later")
	if got := s.resolve(later.GetTransaction(), pb.Decision_UNKNOWN); got.GetError() != nil {
		t.Errorf("unknown: %v", got)
	}
	again := s.check("later")
	if again.GetCheckTimes() <= later.GetCheckTimes() {
		t.Errorf("check %d came after %d", again.GetCheckTimes(), later.GetCheckTimes())
	}
	if got := s.resolve(again.GetTransaction(), pb.Decision_COMMIT); got.GetError() != nil {
		t.Errorf("commit at last: %v", got)
	}
	if got := s.resolve(again.GetTransaction(), pb.Decision_ROLLBACK); got.GetError().GetReason() != "TransactionEnded" || got.GetError().GetRetryable() {
		t.Errorf("the other way: %v", got)
	}
	var got []string
	for len(got) < 2 {
		got = append(got, pulled(t, r, "billing", 10*time.Second)...)
	}
	if more := pulled(t, r, "billing", 300*time.Millisecond); len(got) != 2 || len(more) != 0 {
		t.Errorf("came: %q, and then %q", got, more)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
	r.Eventually("the stream lets the client go", func() bool { return r.Uses(key) == 0 })
	for outcome, least := range map[string]float64{"committed": 2, "rolled_back": 1, "unknown": 1} {
		if n := r.Metric("rocketmq_proxy_transaction_checks_total", "name", "orders", "outcome", outcome); n < least {
			t.Errorf("%v checks counted as %s, want %v", n, outcome, least)
		}
	}
	if n := r.Metric("rocketmq_proxy_transactions_total", "name", "orders", "step", "begun"); n != 3 {
		t.Errorf("%v transactions were counted as begun", n)
	}
}

// TestTwoApplicationsShareTheChecks: one that leaves without an answer leaves the transaction to the other.
func TestTwoApplicationsShareTheChecks(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{Broker: quickChecks})
	addTransactional(r, "orders", "orders")
	a, b := openChecks(t, r, "orders"), openChecks(t, r, "orders")
	m := text("x")
	m.Id = "id"
	begin(t, r, "orders", m)
	a.check("id") // each is asked in turn
	a.cancel()
	if got := b.resolve(b.check("id").GetTransaction(), pb.Decision_COMMIT); got.GetError() != nil {
		t.Errorf("commit: %v", got)
	}
	r.Eventually("what got no answer is counted", func() bool {
		return r.Metric("rocketmq_proxy_transaction_checks_total", "outcome", "unanswered") >= 1
	})
}

func TestBadCheckStreams(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{Broker: quickChecks, Limits: server.Limits{OpenTimeout: 300 * time.Millisecond}})
	addTransactional(r, "orders", "orders")
	r.AddProducer("plain", "orders")
	for name, c := range map[string]struct {
		frames []*pb.TransactionChecksRequest
		code   codes.Code
		field  string
	}{
		"no first frame":                  {nil, codes.InvalidArgument, ""},
		"an unknown Producer":             {[]*pb.TransactionChecksRequest{{Namespace: "shop", Producer: "nobody"}}, codes.NotFound, ""},
		"a Producer without transactions": {[]*pb.TransactionChecksRequest{{Namespace: "shop", Producer: "plain"}}, codes.FailedPrecondition, ""},
		"no Producer":                     {[]*pb.TransactionChecksRequest{{Namespace: "shop"}}, codes.InvalidArgument, "producer"},
		"answers before a question": {[]*pb.TransactionChecksRequest{{Namespace: "shop", Producer: "orders", Resolutions: []*pb.TransactionResolution{{}}}},
			codes.InvalidArgument, "resolutions"},
		"a second first frame": {[]*pb.TransactionChecksRequest{{Namespace: "shop", Producer: "orders"}, {Producer: "orders"}}, codes.InvalidArgument, "producer"},
		"too many answers": {[]*pb.TransactionChecksRequest{{Namespace: "shop", Producer: "orders"}, {Resolutions: make([]*pb.TransactionResolution, 1001)}},
			codes.InvalidArgument, "resolutions"},
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := r.Producers().TransactionChecks(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range c.frames {
				for i := range f.GetResolutions() {
					f.Resolutions[i] = &pb.TransactionResolution{}
				}
				if err := stream.Send(f); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
			}
			_, err = stream.Recv()
			if _, field, _ := info(err); status.Code(err) != c.code || field != c.field {
				t.Errorf("%v, field %q", err, field)
			}
		})
	}
	s := openChecks(t, r, "orders")
	for name, c := range map[string]struct {
		transaction string
		decision    pb.Decision
	}{
		"nothing": {"", pb.Decision_COMMIT}, "nonsense": {"nonsense", pb.Decision_COMMIT}, "no decision": {"x", pb.Decision_DECISION_UNSPECIFIED},
		"a made-up decision": {"x", 77},
	} {
		if got := s.resolve(c.transaction, c.decision); got.GetError().GetCode() != int32(codes.InvalidArgument) {
			t.Errorf("%s: %v", name, got)
		}
	}
	begin(t, r, "orders", &pb.Message{Id: "good", Content: text("x").Content})
	if got := s.resolve(s.check("good").GetTransaction(), pb.Decision_ROLLBACK); got.GetError() != nil {
		t.Errorf("bad answers spoiled the stream: %v", got)
	}
}

// TestAHostThatStopsTellsItsCheckStreams: they get the notice, may answer, and end so that the application goes to another host.
func TestAHostThatStopsTellsItsCheckStreams(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{Broker: quickChecks, DrainTimeout: 10 * time.Second})
	addTransactional(r, "orders", "orders")
	s := openChecks(t, r, "orders")
	begin(t, r, "orders", &pb.Message{Id: "open", Content: text("x").Content})
	open := s.check("open")
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.Stop()
	}()
	for noticed := false; !noticed; {
		res, err := s.Recv()
		if err != nil {
			t.Fatalf("before the notice: %v", err)
		}
		noticed = res.GetDraining()
	}
	if got := s.resolve(open.GetTransaction(), pb.Decision_COMMIT); got.GetError() != nil {
		t.Errorf("an answer after the notice: %v", got)
	}
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
	<-stopped
}

// TestChecksNeedTheRightToSend, and a right that is taken away ends the stream.
func TestChecksNeedTheRightToSend(t *testing.T) {
	auth := &proxytest.Auth{}
	r := proxytest.New(t, proxytest.Options{Auth: auth, Limits: server.Limits{ReauthorizeEvery: 50 * time.Millisecond}})
	addTransactional(r, "orders", "orders")
	auth.Know("reader")
	auth.Allow("writer", "send", "shop", "orders")
	for token, want := range map[string]codes.Code{"reader": codes.PermissionDenied, "stranger": codes.Unauthenticated} {
		stream, err := r.Producers().TransactionChecks(proxytest.Token(t.Context(), token))
		if err == nil {
			_ = stream.Send(&pb.TransactionChecksRequest{Namespace: "shop", Producer: "orders"}) // Recv tells how it ended
			_, err = stream.Recv()
		}
		if status.Code(err) != want {
			t.Errorf("as %s: %v", token, err)
		}
	}
	stream, err := r.Producers().TransactionChecks(proxytest.Token(t.Context(), "writer"))
	if err == nil {
		err = stream.Send(&pb.TransactionChecksRequest{Namespace: "shop", Producer: "orders"})
	}
	if err != nil {
		t.Fatal(err)
	}
	r.Eventually("the stream is open", func() bool { return r.Metric("rocketmq_proxy_streams") == 1 })
	auth.Revoke("writer")
	if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("after the right was taken away: %v", err)
	}
}

// TestChecksByHTTP: a Producer's address is asked while no stream is there, and its answers decide.
func TestChecksByHTTP(t *testing.T) {
	var mu sync.Mutex
	var asked []map[string]any
	application := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		var check map[string]any
		if err := json.NewDecoder(q.Body).Decode(&check); err != nil {
			t.Errorf("the body: %v", err)
		}
		mu.Lock()
		asked = append(asked, check)
		mu.Unlock()
		_, _ = w.Write([]byte(`{"decision": "COMMIT"}`))
	}))
	t.Cleanup(application.Close)
	r := proxytest.New(t, proxytest.Options{Broker: quickChecks})
	r.Running(r.Acquire("orders", func(s *registry.Spec) {
		s.Producer = proxytest.ProducerSpec("orders")
		s.Producer.Config.Transactions, s.Producer.CheckURL = true, application.URL
	}))
	r.AddConsumer("billing", "orders")
	begin(t, r, "orders", &pb.Message{Id: "order-4711", Content: text("pay").Content, Tag: "t"})
	if got := pulled(t, r, "billing", 10*time.Second); len(got) != 1 || got[0] != "pay" {
		t.Errorf("came: %q", got)
	}
	mu.Lock()
	defer mu.Unlock()
	message, _ := asked[0]["message"].(map[string]any)
	if len(asked) != 1 || asked[0]["namespace"] != "shop" || asked[0]["producer"] != "orders" || asked[0]["check_times"] != 1.0 || asked[0]["transaction"] == "" ||
		message["id"] != "order-4711" || message["text"] != "pay" || message["tag"] != "t" || !strings.Contains(asked[0]["born_time"].(string), "T") {
		t.Errorf("asked: %v", asked)
	}
}
