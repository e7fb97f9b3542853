// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/memory"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// addTransactional makes a Producer with transactions run.
func addTransactional(r *proxytest.Rig, name string, topics ...string) registry.Key {
	return r.Running(r.Acquire(name, func(s *registry.Spec) {
		s.Producer = proxytest.ProducerSpec(topics...)
		s.Producer.Config.Transactions = true
	}))
}

func begin(t *testing.T, r *proxytest.Rig, producer string, m *pb.Message) string {
	t.Helper()
	res, err := r.Producers().BeginTransaction(t.Context(), &pb.BeginTransactionRequest{Namespace: "shop", Producer: producer, Message: m})
	if err != nil || res.GetTransaction() == "" || res.GetMessageId() == "" {
		t.Fatalf("begin: %v, %v", res, err)
	}
	return res.GetTransaction()
}

func end(r *proxytest.Rig, producer, transaction string, d pb.Decision) (*pb.EndTransactionResponse, error) {
	return r.Producers().EndTransaction(context.Background(), &pb.EndTransactionRequest{Namespace: "shop", Producer: producer, Transaction: transaction, Decision: d})
}

// pulled is what comes within wait, acknowledged.
func pulled(t *testing.T, r *proxytest.Rig, consumer string, wait time.Duration) []string {
	t.Helper()
	res, err := r.Consumers().Pull(t.Context(), &pb.PullRequest{Namespace: "shop", Consumer: consumer, MaxMessages: 100, Wait: durationpb.New(wait)})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, d := range res.GetDeliveries() {
		texts = append(texts, string(d.GetMessage().GetBody()))
		if _, err := r.Consumers().Ack(t.Context(), &pb.AckRequest{Namespace: "shop", Consumer: consumer, AckTokens: []string{d.GetAckToken()}}); err != nil {
			t.Fatal(err)
		}
	}
	return texts
}

// TestTransactions: nothing comes before a commit, and one message after it, by both protocols and however often it is ended.
func TestTransactions(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	addTransactional(r, "orders", "orders")
	r.AddConsumer("billing", "orders")
	yes, no := begin(t, r, "orders", text("yes")), begin(t, r, "orders", text("no"))
	if got := pulled(t, r, "billing", 300*time.Millisecond); len(got) > 0 {
		t.Errorf("came before a decision: %q", got)
	}
	for range 2 {
		if res, err := end(r, "orders", yes, pb.Decision_COMMIT); err != nil || res.GetMessageId() == "" {
			t.Errorf("commit: %v, %v", res, err)
		}
		if _, err := end(r, "orders", no, pb.Decision_ROLLBACK); err != nil {
			t.Errorf("roll back: %v", err)
		}
	}
	for transaction, other := range map[string]pb.Decision{yes: pb.Decision_ROLLBACK, no: pb.Decision_COMMIT} {
		_, err := end(r, "orders", transaction, other)
		if reason, _, _ := info(err); status.Code(err) != codes.FailedPrecondition || reason != "TransactionEnded" {
			t.Errorf("%s of what was ended the other way: %v", other, err)
		}
	}
	if got := pulled(t, r, "billing", 10*time.Second); len(got) != 1 || got[0] != "yes" {
		t.Errorf("came: %q", got)
	}

	const path = "/v1alpha1/namespaces/shop/producers/orders:"
	code, answer := r.Post(path+"beginTransaction", `{"message": {"json": {"total": 12345678901234567890, "a": 1.0}, "id": "order-4711"}}`)
	var begun struct {
		Transaction string
		MessageID   string `json:"message_id"`
	}
	if err := json.Unmarshal([]byte(answer), &begun); err != nil || code != http.StatusOK || begun.Transaction == "" || begun.MessageID != "order-4711" {
		t.Fatalf("begin over HTTP: %d %s", code, answer)
	}
	for range 2 {
		if code, answer := r.Post(path+"endTransaction", `{"transaction": "`+begun.Transaction+`", "decision": "COMMIT"}`); code != http.StatusOK || !strings.Contains(answer, "order-4711") {
			t.Errorf("commit over HTTP: %d %s", code, answer)
		}
	}
	if got := pulled(t, r, "billing", 10*time.Second); len(got) != 1 || got[0] != `{"total": 12345678901234567890, "a": 1.0}` {
		t.Errorf("came: %q", got)
	}
	if got := pulled(t, r, "billing", 300*time.Millisecond); len(got) > 0 {
		t.Errorf("came again: %q", got)
	}
	if n := r.Metric("rocketmq_proxy_sent_messages_total", "name", "orders", "result", "OK"); n < 2 {
		t.Errorf("%v commits were counted as sent", n)
	}
}

func TestBadTransactions(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{Broker: memory.Options{MaxTopicMessages: 50}})
	addTransactional(r, "orders", "orders")
	addTransactional(r, "others", "orders")
	r.AddProducer("plain", "orders")
	transaction := begin(t, r, "orders", text("x"))
	later, empty, big := text("x"), text(""), text(strings.Repeat("x", 5<<20))
	later.When = &pb.Message_Delay{Delay: durationpb.New(time.Minute)}
	for name, c := range map[string]struct {
		producer string
		message  *pb.Message
		code     codes.Code
		field    string
	}{
		"an unknown Producer":             {"nobody", text("x"), codes.NotFound, ""},
		"a Producer without transactions": {"plain", text("x"), codes.FailedPrecondition, ""},
		"no message":                      {"orders", nil, codes.InvalidArgument, "message"},
		"a message without a body":        {"orders", empty, codes.InvalidArgument, "message.body"},
		"a message that is too large":     {"orders", big, codes.InvalidArgument, "message.body"},
		"a message of later":              {"orders", later, codes.InvalidArgument, "message.delay"},
		"a sharding key":                  {"orders", &pb.Message{ShardingKey: "k", Content: text("x").Content}, codes.InvalidArgument, "message.sharding_key"},
		"another topic":                   {"orders", &pb.Message{Topic: "secrets", Content: text("x").Content}, codes.InvalidArgument, "message.topic"},
		"a bad id":                        {"orders", &pb.Message{Id: "a b", Content: text("x").Content}, codes.InvalidArgument, "message.id"},
	} {
		_, err := r.Producers().BeginTransaction(t.Context(), &pb.BeginTransactionRequest{Namespace: "shop", Producer: c.producer, Message: c.message})
		if _, field, _ := info(err); status.Code(err) != c.code || field != c.field {
			t.Errorf("begin, %s: %v, field %q", name, err, field)
		}
	}
	token := begin(t, r, "orders", text("y"))
	for name, c := range map[string]struct {
		producer, transaction string
		decision              pb.Decision
		code                  codes.Code
		field                 string
	}{
		"an unknown Producer":             {"nobody", transaction, pb.Decision_COMMIT, codes.NotFound, ""},
		"a Producer without transactions": {"plain", transaction, pb.Decision_COMMIT, codes.FailedPrecondition, ""},
		"no transaction":                  {"orders", "", pb.Decision_COMMIT, codes.InvalidArgument, "transaction"},
		"nonsense":                        {"orders", "nonsense", pb.Decision_COMMIT, codes.InvalidArgument, "transaction"},
		"something huge":                  {"orders", strings.Repeat("a", 100_000), pb.Decision_COMMIT, codes.InvalidArgument, "transaction"},
		"half of one":                     {"orders", transaction[:len(transaction)/2], pb.Decision_COMMIT, codes.InvalidArgument, "transaction"},
		"two in one":                      {"orders", transaction + token, pb.Decision_COMMIT, codes.InvalidArgument, "transaction"},
		"one of another Producer":         {"others", transaction, pb.Decision_COMMIT, codes.InvalidArgument, "transaction"},
		"no decision":                     {"orders", transaction, pb.Decision_DECISION_UNSPECIFIED, codes.InvalidArgument, "decision"},
		"an unknown decision":             {"orders", transaction, 99, codes.InvalidArgument, "decision"},
	} {
		_, err := end(r, c.producer, c.transaction, c.decision)
		if _, field, _ := info(err); status.Code(err) != c.code || field != c.field {
			t.Errorf("end, %s: %v, field %q", name, err, field)
		}
	}
	for name, c := range map[string]struct{ path, body string }{
		"two contents":       {"beginTransaction", `{"message": {"text": "x", "json": 1}}`},
		"a list of messages": {"beginTransaction", `{"messages": [{"text": "x"}]}`},
		"a text as message":  {"beginTransaction", `{"message": "json"}`},
		"a wrong decision":   {"endTransaction", `{"transaction": "x", "decision": "MAYBE"}`},
		"an unknown field":   {"endTransaction", `{"tx": "x", "decision": "COMMIT"}`},
	} {
		if code, answer := r.Post("/v1alpha1/namespaces/shop/producers/orders:"+c.path, c.body); code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, code, answer)
		}
	}
	// An ack token is sealed with the same keys and is no transaction.
	r.AddConsumer("billing", "orders")
	r.Send("plain", "z")
	res, err := r.Consumers().Pull(t.Context(), &pb.PullRequest{Namespace: "shop", Consumer: "billing", Wait: durationpb.New(10 * time.Second)})
	if err != nil || len(res.GetDeliveries()) != 1 {
		t.Fatalf("pull: %v, %v", res, err)
	}
	if _, err := end(r, "orders", res.GetDeliveries()[0].GetAckToken(), pb.Decision_COMMIT); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an ack token as transaction: %v", err)
	}
	acked, err := r.Consumers().Ack(t.Context(), &pb.AckRequest{Namespace: "shop", Consumer: "billing", AckTokens: []string{transaction}})
	if err != nil || acked.GetResults()[0].GetOutcome() != pb.TokenResult_INVALID {
		t.Errorf("a transaction as ack token: %v, %v", acked, err)
	}
	if _, err := end(r, "orders", transaction, pb.Decision_COMMIT); err != nil {
		t.Errorf("after all that it can still be committed: %v", err)
	}
}

// TestTransactionsNeedTheRightToSend: beginning and ending are sending.
func TestTransactionsNeedTheRightToSend(t *testing.T) {
	auth := &proxytest.Auth{}
	r := proxytest.New(t, proxytest.Options{Auth: auth})
	addTransactional(r, "orders", "orders")
	auth.Know("reader")
	auth.Allow("reader", "receive", "shop", "orders")
	auth.Allow("writer", "send", "shop", "orders")
	for token, want := range map[string]codes.Code{"reader": codes.PermissionDenied, "writer": codes.OK, "stranger": codes.Unauthenticated} {
		ctx := proxytest.Token(t.Context(), token)
		res, err := r.Producers().BeginTransaction(ctx, &pb.BeginTransactionRequest{Namespace: "shop", Producer: "orders", Message: text("x")})
		if status.Code(err) != want {
			t.Errorf("begin as %s: %v", token, err)
		}
		transaction := res.GetTransaction()
		if transaction == "" {
			transaction = "anything"
		}
		_, err = r.Producers().EndTransaction(ctx, &pb.EndTransactionRequest{Namespace: "shop", Producer: "orders", Transaction: transaction, Decision: pb.Decision_COMMIT})
		if status.Code(err) != want {
			t.Errorf("end as %s: %v", token, err)
		}
	}
}
