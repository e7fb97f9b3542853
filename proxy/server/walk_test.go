// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
)

const (
	sendPath = "/v1alpha1/namespaces/shop/producers/orders:send"
	pullPath = "/v1alpha1/namespaces/shop/consumers/billing:"
)

func shop(t *testing.T, o proxytest.Options) *proxytest.Rig {
	t.Helper()
	r := proxytest.New(t, o)
	r.AddProducer("orders", "orders")
	r.AddConsumer("billing", "orders")
	return r
}

func TestGRPCWalk(t *testing.T) {
	r := shop(t, proxytest.Options{})
	ctx := context.Background()
	value, err := structpb.NewValue(map[string]any{"b": 1, "a": "x"})
	if err != nil {
		t.Fatal(err)
	}
	sent, err := r.Producers().Send(ctx, &pb.SendRequest{Namespace: "shop", Producer: "orders", Messages: []*pb.Message{
		{Content: &pb.Message_Text{Text: "hello"}, Id: "my-id", Tag: "new", Keys: []string{"k1", "k2"}, Properties: map[string]string{"color": "red"}},
		{Content: &pb.Message_Body{Body: []byte{0, 255}}},
		{Topic: "orders", Content: &pb.Message_Json{Json: value}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got := sent.Results[0].MessageId; got != "my-id" {
		t.Errorf("the first message's id is %q, want the caller's", got)
	}
	for _, id := range []string{sent.Results[1].MessageId, sent.Results[2].MessageId} {
		if len(id) != 32 || strings.ToUpper(id) != id {
			t.Errorf("a made id is %q, want 32 upper-case hexadecimal digits", id)
		}
	}
	byID := map[string]*pb.Delivery{}
	for len(byID) < 3 {
		pulled, err := r.Consumers().Pull(ctx, &pb.PullRequest{Namespace: "shop", Consumer: "billing", MaxMessages: 10, Wait: durationpb.New(5 * time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		if len(pulled.Deliveries) == 0 {
			t.Fatal("a message is missing")
		}
		for _, d := range pulled.Deliveries {
			byID[d.Message.Id] = d
		}
	}
	first := byID["my-id"]
	if string(first.Message.Body) != "hello" || first.Message.Text != "" || first.Message.Tag != "new" || len(first.Message.Keys) != 2 ||
		first.Message.Properties["color"] != "red" || first.DeliveryAttempt != 1 || first.BornTime == nil || first.StoreTime == nil {
		t.Errorf("the delivery is %v", first)
	}
	if got := string(byID[sent.Results[2].MessageId].Message.Body); got != `{"a":"x","b":1}` {
		t.Errorf("the JSON body is %s", got)
	}
	checkOutcomes(t, r, byID, sent)
}

func checkOutcomes(t *testing.T, r *proxytest.Rig, byID map[string]*pb.Delivery, sent *pb.SendResponse) {
	t.Helper()
	ctx := context.Background()
	acked, err := r.Consumers().Ack(ctx, &pb.AckRequest{Namespace: "shop", Consumer: "billing", AckTokens: []string{byID["my-id"].AckToken, "nonsense"}})
	if err != nil {
		t.Fatal(err)
	}
	if acked.Results[0].Outcome != pb.TokenResult_OK || acked.Results[1].Outcome != pb.TokenResult_INVALID {
		t.Errorf("ack: %v", acked.Results)
	}
	moved, err := r.Consumers().ModifyAckDeadline(ctx, &pb.ModifyAckDeadlineRequest{Namespace: "shop", Consumer: "billing", Modifications: []*pb.ModifyEntry{
		{AckToken: byID[sent.Results[1].MessageId].AckToken, AckDeadline: durationpb.New(10 * time.Minute)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if m := moved.Results[0]; m.Outcome != pb.TokenResult_OK || m.NewToken == "" || time.Until(m.AckDeadline.AsTime()) < 9*time.Minute {
		t.Errorf("modify: %v", m)
	}
	nacked, err := r.Consumers().Nack(ctx, &pb.NackRequest{Namespace: "shop", Consumer: "billing", Nacks: []*pb.NackEntry{
		{AckToken: byID[sent.Results[2].MessageId].AckToken},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if nacked.Results[0].Outcome != pb.TokenResult_OK {
		t.Errorf("nack: %v", nacked.Results)
	}
	again, err := r.Consumers().Pull(ctx, &pb.PullRequest{Namespace: "shop", Consumer: "billing"})
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Deliveries) != 1 || again.Deliveries[0].Message.Id != sent.Results[2].MessageId || again.Deliveries[0].DeliveryAttempt != 2 {
		t.Errorf("after the nack came %v", again.Deliveries)
	}
}

// TestHTTPWalkIsEqual makes the same walk with what a person types.
func TestHTTPWalkIsEqual(t *testing.T) {
	r := shop(t, proxytest.Options{})
	code, body := r.Post(sendPath, `{"messages":[{"text":"hello","id":"my-id","tag":"new","keys":["k1"],"properties":{"color":"red"}},{"body":"AP8=","id":"bytes"}]}`)
	if code != 200 {
		t.Fatalf("send: %d %s", code, body)
	}
	type delivery struct {
		Message struct {
			Topic, Text, Body, ID, Tag string
			Keys                       []string
			Properties                 map[string]string
		}
		AckToken        string `json:"ack_token"`
		DeliveryAttempt int    `json:"delivery_attempt"`
		AckDeadline     string `json:"ack_deadline"`
	}
	byID := map[string]delivery{}
	for len(byID) < 2 {
		var pulled struct{ Deliveries []delivery }
		code, body := r.Post(pullPath+"pull", `{"max_messages":10,"wait":"5s"}`)
		if code != 200 || json.Unmarshal([]byte(body), &pulled) != nil || len(pulled.Deliveries) == 0 {
			t.Fatalf("pull: %d %s", code, body)
		}
		for _, d := range pulled.Deliveries {
			byID[d.Message.ID] = d
		}
	}
	d := byID["my-id"]
	if d.Message.Text != "hello" || d.Message.Body != "" || d.Message.Tag != "new" || d.Message.Properties["color"] != "red" ||
		d.Message.Topic != "orders" || d.DeliveryAttempt != 1 || d.AckDeadline == "" {
		t.Errorf("the delivery is %+v", d)
	}
	if got := byID["bytes"].Message; got.Body != "AP8=" || got.Text != "" {
		t.Errorf("a body that is no text came as %+v", got)
	}
	code, body = r.Post(pullPath+"ack", `{"ack_tokens":["`+d.AckToken+`","nonsense"]}`)
	if code != 200 || !strings.Contains(body, `"OK"`) || !strings.Contains(body, `"INVALID"`) {
		t.Errorf("ack: %d %s", code, body)
	}
	code, body = r.Post(pullPath+"nack", `{"nacks":[{"ack_token":"`+byID["bytes"].AckToken+`","delay":"0s"}]}`)
	if code != 200 || !strings.Contains(body, `"OK"`) {
		t.Errorf("nack: %d %s", code, body)
	}
	code, body = r.Post(pullPath+"pull", `{}`)
	if code != 200 || !strings.Contains(body, `"delivery_attempt":2`) && !strings.Contains(body, `"delivery_attempt": 2`) {
		t.Errorf("pull after the nack: %d %s", code, body)
	}
	if code, body = r.Post(pullPath+"pull", `{"wait":"0s"}`); code != 200 || strings.TrimSpace(body) != `{"deliveries":[]}` {
		t.Errorf("pull of nothing: %d %s", code, body)
	}
}

func TestHTTPKeepsJSONAsTyped(t *testing.T) {
	r := shop(t, proxytest.Options{})
	for _, typed := range []string{
		`1e400`, `12345678901234567890`, `{"z":1,"a":2}`, "{ \"a\" :\t[1,\n 2 ] }", `"<&> \u00e9 \ud800 é"`, `null`, `0.10`, `{"a":1,"a":2}`,
		`{"text":"inner","json":[1.0]}`,
	} {
		code, body := r.Post(sendPath, `{"messages":[{"id":"x", "json": `+typed+` ,"tag":"t"}]}`)
		if code != 200 {
			t.Errorf("send %s: %d %s", typed, code, body)
			continue
		}
		pulled, err := r.Consumers().Pull(context.Background(), &pb.PullRequest{Namespace: "shop", Consumer: "billing"})
		if err != nil || len(pulled.Deliveries) != 1 {
			t.Fatalf("pull: %v %v", pulled, err)
		}
		if got := string(pulled.Deliveries[0].Message.Body); got != typed {
			t.Errorf("typed %s, stored %s", typed, got)
		}
	}
}

func TestHealthAndReflection(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{Auth: &proxytest.Auth{}})
	ctx := context.Background()
	for _, service := range []string{"", "rocketmq.proxy.v1alpha1.ProducerService", "rocketmq.proxy.v1alpha1.ConsumerService"} {
		res, err := healthv1.NewHealthClient(r.Conn).Check(ctx, &healthv1.HealthCheckRequest{Service: service})
		if err != nil || res.Status != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v %v", service, res, err)
		}
	}
	stream, err := reflectionv1.NewServerReflectionClient(r.Conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "rocketmq.proxy.v1alpha1.ConsumerService.Pull"},
	}); err != nil {
		t.Fatal(err)
	}
	if res, err := stream.Recv(); err != nil || len(res.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("reflection: %v %v", res, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("the reflection stream did not end")
	}
	if code, body := r.Request("GET", "/openapi.json", ""); code != 200 || !strings.Contains(body, "swagger") {
		t.Errorf("openapi: %d %s", code, body)
	}
}
