// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/memory"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// info finds the ErrorInfo and the SendResponse of an error.
func info(err error) (reason, field string, results *pb.SendResponse) {
	for _, d := range status.Convert(err).Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			reason, field = d.Reason, d.Metadata["field"]
			if d.Domain != server.ErrorDomain {
				reason = "wrong domain " + d.Domain
			}
		case *pb.SendResponse:
			results = d
		}
	}
	return reason, field, results
}

func text(s string) *pb.Message { return &pb.Message{Content: &pb.Message_Text{Text: s}} }

func TestBadSends(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	r.AddProducer("orders", "orders")
	r.AddProducer("two", "orders", "returns")
	lift := r.Broker.Faults().Fail(memory.Open, 0, driver.Errorf(driver.Unauthorized, "connection.credentialsSecretRef", "the keys are wrong"))
	failed := r.Acquire("broken", func(s *registry.Spec) { s.Producer = proxytest.ProducerSpec("orders") })
	r.Eventually("the broken producer has failed", func() bool {
		s, _ := r.Registry.Status(failed)
		return s.State == registry.Failed
	})
	defer lift()
	with := func(change func(*pb.Message)) *pb.Message {
		m := text("x")
		change(m)
		return m
	}
	many := func(n int) (out []*pb.Message) {
		for range n {
			out = append(out, text("x"))
		}
		return out
	}
	nan := &pb.Message{Content: &pb.Message_Json{Json: &structpb.Value{Kind: &structpb.Value_NumberValue{NumberValue: nan()}}}}
	for name, c := range map[string]struct {
		producer string
		messages []*pb.Message
		code     codes.Code
		reason   string
		field    string
		says     string
	}{
		"an unknown object is NOT_FOUND":        {"nobody", many(1), codes.NotFound, "NotFound", "", "shop/nobody"},
		"an object that is not ready tells why": {"broken", many(1), codes.FailedPrecondition, "CredentialsRefused", "", "the keys are wrong"},
		"a name that cannot be one is refused":  {"No_Body", many(1), codes.InvalidArgument, "InvalidRequest", "producer", "No_Body"},
		"a missing name is refused":             {"", many(1), codes.InvalidArgument, "InvalidRequest", "producer", "missing"},
		"no messages at all are refused":        {"orders", nil, codes.InvalidArgument, "InvalidRequest", "messages", "1 to 1000"},
		"more than 1000 messages are refused":   {"orders", many(1001), codes.InvalidArgument, "InvalidRequest", "messages", "MaxMessagesPerCall"},
		"a topic that is not the Producer's":    {"orders", []*pb.Message{with(func(m *pb.Message) { m.Topic = "other" })}, codes.InvalidArgument, "TopicNotAllowed", "messages[0].topic", `"other"`},
		"no topic where there are two":          {"two", many(1), codes.InvalidArgument, "TopicMissing", "messages[0].topic", "orders, returns"},
		"an empty body":                         {"orders", []*pb.Message{{}}, codes.InvalidArgument, "InvalidMessage", "messages[0].body", "empty"},
		"a body of 5 MiB":                       {"orders", []*pb.Message{{Content: &pb.Message_Body{Body: make([]byte, 5<<20)}}}, codes.InvalidArgument, "MessageTooLarge", "messages[0].body", "maxMessageBytes is 4194304"},
		"a request above the limit":             {"orders", []*pb.Message{{Content: &pb.Message_Body{Body: make([]byte, 17<<20)}}}, codes.ResourceExhausted, "LimitExceeded", "", "MaxRequestBytes"},
		"an id with a blank":                    {"orders", []*pb.Message{with(func(m *pb.Message) { m.Id = "a b" })}, codes.InvalidArgument, "InvalidMessage", "messages[0].id", "a b"},
		"an id of 129 bytes":                    {"orders", []*pb.Message{with(func(m *pb.Message) { m.Id = strings.Repeat("a", 129) })}, codes.InvalidArgument, "InvalidMessage", "messages[0].id", "129"},
		"a property that is RocketMQ's":         {"orders", []*pb.Message{with(func(m *pb.Message) { m.Properties = map[string]string{"DELAY": "3"} })}, codes.InvalidArgument, "InvalidMessage", "messages[0].properties[DELAY]", "belongs to RocketMQ"},
		"too many bytes in properties":          {"orders", []*pb.Message{with(func(m *pb.Message) { m.Properties = map[string]string{"a": strings.Repeat("b", 40000)} })}, codes.InvalidArgument, "InvalidMessage", "messages[0].properties", "limit"},
		"a key with a blank":                    {"orders", []*pb.Message{with(func(m *pb.Message) { m.Keys = []string{"a", "b c"} })}, codes.InvalidArgument, "InvalidMessage", "messages[0].keys[1]", "b c"},
		"a number in JSON that is none":         {"orders", []*pb.Message{nan}, codes.InvalidArgument, "InvalidMessage", "messages[0].json", "not JSON"},
		"a sharding key with a line break":      {"orders", []*pb.Message{with(func(m *pb.Message) { m.ShardingKey = "a\nb" })}, codes.InvalidArgument, "InvalidMessage", "messages[0].sharding_key", "control character"},
		"a sharding key of 256 bytes":           {"orders", []*pb.Message{with(func(m *pb.Message) { m.ShardingKey = strings.Repeat("a", 256) })}, codes.InvalidArgument, "InvalidMessage", "messages[0].sharding_key", "the limit is 255"},
		"a blank sharding key":                  {"orders", []*pb.Message{with(func(m *pb.Message) { m.ShardingKey = " " })}, codes.InvalidArgument, "InvalidMessage", "messages[0].sharding_key", "blank"},
		"a sharding key with a delay": {"orders", []*pb.Message{with(func(m *pb.Message) {
			m.ShardingKey, m.When = "a", &pb.Message_Delay{Delay: durationpb.New(time.Second)}
		})}, codes.InvalidArgument, "InvalidMessage", "messages[0].sharding_key", "leave one of both out"},
		"a sharding key as a property":      {"orders", []*pb.Message{with(func(m *pb.Message) { m.Properties = map[string]string{"__SHARDINGKEY": "a"} })}, codes.InvalidArgument, "InvalidMessage", "messages[0].properties[__SHARDINGKEY]", "sharding_key instead"},
		"a negative delay":                  {"orders", []*pb.Message{with(func(m *pb.Message) { m.When = &pb.Message_Delay{Delay: durationpb.New(-time.Second)} })}, codes.InvalidArgument, "InvalidMessage", "messages[0].delay", "positive"},
		"a delay that is no duration":       {"orders", []*pb.Message{with(func(m *pb.Message) { m.When = &pb.Message_Delay{Delay: &durationpb.Duration{Seconds: 1, Nanos: -1}} })}, codes.InvalidArgument, "InvalidMessage", "messages[0].delay", "not a duration"},
		"a delay beyond the broker's limit": {"orders", []*pb.Message{with(func(m *pb.Message) { m.When = &pb.Message_Delay{Delay: durationpb.New(90 * time.Hour)} })}, codes.InvalidArgument, "InvalidMessage", "messages[0].delay", "72h"},
		"a time that is none": {"orders", []*pb.Message{with(func(m *pb.Message) {
			m.When = &pb.Message_DeliverAt{DeliverAt: &timestamppb.Timestamp{Seconds: -1 << 60}}
		})}, codes.InvalidArgument, "InvalidMessage", "messages[0].deliver_at", "not a time"},
		"a time before RocketMQ's":                    {"orders", []*pb.Message{with(func(m *pb.Message) { m.When = &pb.Message_DeliverAt{DeliverAt: &timestamppb.Timestamp{Seconds: -1e9}} })}, codes.InvalidArgument, "InvalidMessage", "messages[0].deliver_at", "out of range"},
		"all bad messages have the code of the first": {"orders", []*pb.Message{{}, with(func(m *pb.Message) { m.Topic = "other" })}, codes.InvalidArgument, "InvalidMessage", "messages[0].body", "none of the 2 messages"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Producers().Send(context.Background(), &pb.SendRequest{Namespace: "shop", Producer: c.producer, Messages: c.messages})
			reason, field, results := info(err)
			if status.Code(err) != c.code || reason != c.reason || field != c.field || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v reason %q field %q, want %v %q %q with %q", err, reason, field, c.code, c.reason, c.field, c.says)
			}
			if strings.HasPrefix(c.field, "messages[") && len(results.GetResults()) != len(c.messages) {
				t.Errorf("the details have %d results for %d messages", len(results.GetResults()), len(c.messages))
			}
		})
	}
	if n := r.Broker.Stats().Messages; n != 0 {
		t.Errorf("%d messages were stored", n)
	}
}

func nan() float64 {
	var zero float64
	return zero / zero
}

func TestOneBadMessageAmongAThousandFailsAlone(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	r.AddProducer("orders", "orders")
	req := &pb.SendRequest{Namespace: "shop", Producer: "orders"}
	for i := range 1000 {
		m := text(fmt.Sprint(i))
		if i == 637 {
			m.Topic = "other"
		}
		req.Messages = append(req.Messages, m)
	}
	res, err := r.Producers().Send(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	for i, result := range res.Results {
		if i == 637 {
			want := &pb.SendError{Code: int32(codes.InvalidArgument), Reason: "TopicNotAllowed", Field: "messages[637].topic"}
			if e := result.Error; e == nil || e.Code != want.Code || e.Reason != want.Reason || e.Field != want.Field || e.Retryable || e.Message == "" {
				t.Errorf("the bad one has %v", result)
			}
		} else if result.Error != nil || result.MessageId == "" {
			t.Fatalf("message %d has %v", i, result)
		}
	}
	if n := r.Broker.Stats().Messages; n != 999 {
		t.Errorf("%d messages were stored, want 999", n)
	}
}

func TestAThousandFailuresFitIntoAHeaderOfOtherLanguages(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	r.AddProducer("orders", "orders")
	req := &pb.SendRequest{Namespace: "shop", Producer: "orders"}
	body := make([]string, 1000)
	for i := range 1000 {
		req.Messages = append(req.Messages, &pb.Message{Topic: "other-" + strings.Repeat("x", 50), Content: &pb.Message_Text{Text: "x"}})
		body[i] = `{"topic":"other","text":"x"}`
	}
	_, err := r.Producers().Send(context.Background(), req)
	_, _, results := info(err)
	if size := len(status.Convert(err).Message()); status.Code(err) != codes.InvalidArgument || size > 1000 || len(results.GetResults()) == 0 {
		t.Errorf("got %d bytes of message, %d results: %v", size, len(results.GetResults()), status.Code(err))
	}
	var details int
	for _, d := range status.Convert(err).Proto().Details {
		details += len(d.Value)
	}
	if details > 5<<10 {
		t.Errorf("the details have %d bytes; a header of 8 KiB does not hold them in base64", details)
	}
	code, text := r.Post(sendPath, `{"messages":[`+strings.Join(body, ",")+`]}`)
	if code != 400 || strings.Count(text, "TopicNotAllowed") < 1000 {
		t.Errorf("over HTTP, which has no such bound: %d, %d results", code, strings.Count(text, "TopicNotAllowed"))
	}
}

func TestBrokerFailuresOfASend(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	r.AddProducer("orders", "orders")
	for name, c := range map[string]struct {
		err       error
		code      codes.Code
		retryable bool
	}{
		"a broker that is away":           {driver.Errorf(driver.Unavailable, "", "away"), codes.Unavailable, true},
		"stored but not replicated":       {driver.Errorf(driver.NotReplicated, "", "no slave"), codes.Unavailable, true},
		"no answer":                       {driver.Errorf(driver.Timeout, "", "late"), codes.DeadlineExceeded, true},
		"a busy broker":                   {driver.Errorf(driver.Throttled, "", "busy"), codes.ResourceExhausted, true},
		"a client that closes":            {driver.Errorf(driver.Closed, "", "closed"), codes.Unavailable, true},
		"a topic that is not there":       {driver.Errorf(driver.TopicNotFound, "topic", "none"), codes.FailedPrecondition, false},
		"refused credentials":             {driver.Errorf(driver.Unauthorized, "", "no"), codes.FailedPrecondition, false},
		"a message the broker refuses":    {driver.Errorf(driver.InvalidMessage, "body", "bad"), codes.InvalidArgument, false},
		"a forbidden address":             {driver.Errorf(driver.AddressRefused, "", "no"), codes.FailedPrecondition, false},
		"something that is not supported": {driver.Errorf(driver.Unsupported, "", "no"), codes.FailedPrecondition, false},
		"an error of no driver":           {errors.New("odd"), codes.Unavailable, true},
	} {
		t.Run(name, func(t *testing.T) {
			lift := r.Broker.Faults().Fail(memory.Send, 0, c.err)
			defer lift()
			_, err := r.Producers().Send(context.Background(), &pb.SendRequest{Namespace: "shop", Producer: "orders", Messages: []*pb.Message{text("x")}})
			_, _, results := info(err)
			if status.Code(err) != c.code || len(results.GetResults()) != 1 || results.Results[0].Error.Retryable != c.retryable {
				t.Errorf("got %v %v, want %v, retryable %v", err, results, c.code, c.retryable)
			}
		})
	}
}

func TestACallEndsAtItsDeadline(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{Limits: server.Limits{DefaultDeadline: 300 * time.Millisecond}})
	r.AddProducer("orders", "orders")
	lift := r.Broker.Faults().Hang(memory.Send, 0)
	defer lift()
	began := time.Now()
	_, err := r.Producers().Send(context.Background(), &pb.SendRequest{Namespace: "shop", Producer: "orders", Messages: []*pb.Message{text("x")}})
	if status.Code(err) != codes.DeadlineExceeded || time.Since(began) > 10*time.Second {
		t.Errorf("a call without a deadline got %v after %s", err, time.Since(began))
	}
}

func TestBadReceiverCalls(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	r.AddConsumer("billing", "orders")
	ctx := context.Background()
	seconds := func(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }
	tokens := make([]string, 1001)
	for name, c := range map[string]struct {
		call  func() error
		code  codes.Code
		field string
	}{
		"pull of an unknown Consumer": {func() error {
			_, err := r.Consumers().Pull(ctx, &pb.PullRequest{Namespace: "shop", Consumer: "nobody"})
			return err
		}, codes.NotFound, ""},
		"pull of too many messages": {func() error {
			_, err := r.Consumers().Pull(ctx, &pb.PullRequest{Namespace: "shop", Consumer: "billing", MaxMessages: 1001})
			return err
		}, codes.InvalidArgument, "max_messages"},
		"pull of a negative number": {func() error {
			_, err := r.Consumers().Pull(ctx, &pb.PullRequest{Namespace: "shop", Consumer: "billing", MaxMessages: -1})
			return err
		}, codes.InvalidArgument, "max_messages"},
		"pull that waits too long": {func() error {
			_, err := r.Consumers().Pull(ctx, &pb.PullRequest{Namespace: "shop", Consumer: "billing", Wait: seconds(61)})
			return err
		}, codes.InvalidArgument, "wait"},
		"pull with a short deadline": {func() error {
			_, err := r.Consumers().Pull(ctx, &pb.PullRequest{Namespace: "shop", Consumer: "billing", AckDeadline: seconds(9)})
			return err
		}, codes.InvalidArgument, "ack_deadline"},
		"ack without tokens": {func() error {
			_, err := r.Consumers().Ack(ctx, &pb.AckRequest{Namespace: "shop", Consumer: "billing"})
			return err
		}, codes.InvalidArgument, "ack_tokens"},
		"ack with too many tokens": {func() error {
			_, err := r.Consumers().Ack(ctx, &pb.AckRequest{Namespace: "shop", Consumer: "billing", AckTokens: tokens})
			return err
		}, codes.InvalidArgument, "ack_tokens"},
		"ack at an unknown Consumer": {func() error {
			_, err := r.Consumers().Ack(ctx, &pb.AckRequest{Namespace: "shop", Consumer: "nobody", AckTokens: tokens[:1]})
			return err
		}, codes.NotFound, ""},
		"nack with too long a delay": {func() error {
			_, err := r.Consumers().Nack(ctx, &pb.NackRequest{Namespace: "shop", Consumer: "billing", Nacks: []*pb.NackEntry{{Delay: seconds(7201)}}})
			return err
		}, codes.InvalidArgument, "nacks[0].delay"},
		"nack with too long a reason": {func() error {
			_, err := r.Consumers().Nack(ctx, &pb.NackRequest{Namespace: "shop", Consumer: "billing", Nacks: []*pb.NackEntry{{Reason: strings.Repeat("x", 513)}}})
			return err
		}, codes.InvalidArgument, "nacks[0].reason"},
		"nack with a reason on two lines": {func() error {
			_, err := r.Consumers().Nack(ctx, &pb.NackRequest{Namespace: "shop", Consumer: "billing", Nacks: []*pb.NackEntry{{}, {Reason: "a\nb"}}})
			return err
		}, codes.InvalidArgument, "nacks[1].reason"},
		"modify without a deadline": {func() error {
			_, err := r.Consumers().ModifyAckDeadline(ctx, &pb.ModifyAckDeadlineRequest{Namespace: "shop", Consumer: "billing", Modifications: []*pb.ModifyEntry{{}}})
			return err
		}, codes.InvalidArgument, "modifications[0].ack_deadline"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.call()
			if _, field, _ := info(err); status.Code(err) != c.code || field != c.field {
				t.Errorf("got %v (field %q), want %v and field %q", err, field, c.code, c.field)
			}
		})
	}
}

func TestTokensThatAreWrongForeignOrReplaced(t *testing.T) {
	r := shop(t, proxytest.Options{})
	r.AddConsumer("audit", "orders")
	ctx := context.Background()
	r.Send("orders", "x")
	pull := func(consumer string) string {
		res, err := r.Consumers().Pull(ctx, &pb.PullRequest{Namespace: "shop", Consumer: consumer})
		if err != nil || len(res.Deliveries) != 1 {
			t.Fatalf("pull %s: %v %v", consumer, res, err)
		}
		return res.Deliveries[0].AckToken
	}
	mine, foreign := pull("billing"), pull("audit")
	moved, err := r.Consumers().ModifyAckDeadline(ctx, &pb.ModifyAckDeadlineRequest{Namespace: "shop", Consumer: "billing",
		Modifications: []*pb.ModifyEntry{{AckToken: mine, AckDeadline: durationpb.New(time.Minute)}}})
	if err != nil {
		t.Fatal(err)
	}
	broken := mine[:len(mine)-2] + "AA"
	res, err := r.Consumers().Ack(ctx, &pb.AckRequest{Namespace: "shop", Consumer: "billing",
		AckTokens: []string{"", broken, foreign, mine, moved.Results[0].NewToken, moved.Results[0].NewToken}})
	if err != nil {
		t.Fatal(err)
	}
	want := []pb.TokenResult_Outcome{
		pb.TokenResult_INVALID, pb.TokenResult_INVALID, pb.TokenResult_INVALID, pb.TokenResult_EXPIRED, pb.TokenResult_OK, pb.TokenResult_OK,
	}
	for i, result := range res.Results {
		if result.Outcome != want[i] || (result.Detail == "") != (want[i] == pb.TokenResult_OK) {
			t.Errorf("token %d: %v, want %v and a detail unless OK", i, result, want[i])
		}
	}
}

func TestBadHTTP(t *testing.T) {
	r := shop(t, proxytest.Options{Limits: server.Limits{MaxRequestBytes: 1 << 20}})
	for name, c := range map[string]struct {
		method, path, body string
		headers            []string
		status             int
		code               codes.Code
		says               string
	}{
		"an unknown field is refused by name":       {"POST", sendPath, `{"messages":[{"tpoic":"orders","text":"x"}]}`, nil, 400, codes.InvalidArgument, `tpoic`},
		"an unknown field at the top":               {"POST", sendPath, `{"message":[{"text":"x"}]}`, nil, 400, codes.InvalidArgument, `message`},
		"an unknown field beside json":              {"POST", sendPath, `{"messages":[{"json":1,"tpoic":"x"}]}`, nil, 400, codes.InvalidArgument, `tpoic`},
		"an unknown field in a pull":                {"POST", pullPath + "pull", `{"max":1}`, nil, 400, codes.InvalidArgument, `max`},
		"text and json together":                    {"POST", sendPath, `{"messages":[{"text":"x","json":1}]}`, nil, 400, codes.InvalidArgument, "messages[0]"},
		"what is no JSON":                           {"POST", sendPath, `{"messages":[`, nil, 400, codes.InvalidArgument, "ends too early"},
		"JSON that is no object":                    {"POST", sendPath, `[1]`, nil, 400, codes.InvalidArgument, "not a JSON object"},
		"something after the object":                {"POST", sendPath, `{"messages":[{"text":"x"}]} {}`, nil, 400, codes.InvalidArgument, "follows"},
		"a field of the wrong type":                 {"POST", sendPath, `{"messages":[{"text":5}]}`, nil, 400, codes.InvalidArgument, "text"},
		"bytes that are no UTF-8":                   {"POST", sendPath, "{\"messages\":[{\"json\":\"\xff\"}]}", nil, 400, codes.InvalidArgument, "UTF-8"},
		"a body above the limit":                    {"POST", sendPath, `{"messages":[{"text":"` + strings.Repeat("x", 1<<20) + `"}]}`, nil, 413, codes.ResourceExhausted, "MaxRequestBytes"},
		"a path that is none":                       {"POST", "/v1/send", `{}`, nil, 404, codes.NotFound, "/v1/send"},
		"another method":                            {"GET", sendPath, ``, nil, 405, codes.Unimplemented, "POST"},
		"an unknown object":                         {"POST", strings.Replace(sendPath, "orders", "nobody", 1), `{"messages":[{"text":"x"}]}`, nil, 404, codes.NotFound, "shop/nobody"},
		"a web page while authentication is off":    {"POST", sendPath, `{"messages":[{"text":"x"}]}`, []string{"Origin", "http://evil.example"}, 403, codes.PermissionDenied, "web pages"},
		"a message error says the field as in gRPC": {"POST", sendPath, `{"messages":[{"topic":"other","text":"x"}]}`, nil, 400, codes.InvalidArgument, "messages[0].topic"},
	} {
		t.Run(name, func(t *testing.T) {
			got, body := r.Request(c.method, c.path, c.body, c.headers...)
			var e struct {
				Code    int
				Message string
				Details []map[string]any
			}
			if err := json.Unmarshal([]byte(body), &e); err != nil {
				t.Fatalf("the error is no JSON: %s", body)
			}
			if got != c.status || codes.Code(e.Code) != c.code || !strings.Contains(e.Message, c.says) || len(e.Details) == 0 {
				t.Errorf("got %d %s, want %d, code %d, %q and details", got, body, c.status, c.code, c.says)
			}
		})
	}
	if n := r.Broker.Stats().Messages; n != 0 {
		t.Errorf("%d messages were stored", n)
	}
}
