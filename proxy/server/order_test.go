// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

func keyed(key, body string) *pb.Message {
	m := text(body)
	m.ShardingKey = key
	return m
}

// TestMessagesBehindAWrongOneAreNotStored: a message that is wrong holds back the later ones of its sharding key, and no others.
func TestMessagesBehindAWrongOneAreNotStored(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	r.AddProducer("orders", "orders")
	r.AddConsumer("billing", "orders")
	res, err := r.Producers().Send(t.Context(), &pb.SendRequest{Namespace: "shop", Producer: "orders", Messages: []*pb.Message{
		keyed("a", "a1"), keyed("a", ""), keyed("b", "b1"), keyed("a", "a3"), text("plain"), keyed("a", "a4"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	for i, reason := range []string{"", "InvalidMessage", "", "EarlierMessageFailed", "", "EarlierMessageFailed"} {
		e := res.GetResults()[i].GetError()
		if e.GetReason() != reason || reason == "EarlierMessageFailed" && (!e.GetRetryable() || codes.Code(e.GetCode()) != codes.Unavailable || !strings.HasSuffix(e.GetField(), ".sharding_key")) {
			t.Errorf("message %d: %v, want reason %q", i, e, reason)
		}
	}
	_, err = r.Producers().Send(t.Context(), &pb.SendRequest{Namespace: "shop", Producer: "orders", Messages: []*pb.Message{keyed("a", ""), keyed("a", "behind it")}})
	if reason, field, _ := info(err); status.Code(err) != codes.InvalidArgument || reason != "InvalidMessage" || field != "messages[0].body" {
		t.Errorf("a call of a wrong message and one behind it: %v; trying it again would be in vain", err)
	}
	code, answer := r.Post("/v1alpha1/namespaces/shop/producers/orders:send", `{"messages": [{"text": "by HTTP", "sharding_key": "a"}]}`)
	if code != http.StatusOK {
		t.Fatalf("send over HTTP: %d %s", code, answer)
	}
	keys := map[string]string{}
	for len(keys) < 4 {
		pulled, err := r.Consumers().Pull(t.Context(), &pb.PullRequest{Namespace: "shop", Consumer: "billing", MaxMessages: 10, Wait: durationpb.New(10 * time.Second)})
		if err != nil || len(pulled.GetDeliveries()) == 0 {
			t.Fatalf("after %v: %v, %v", keys, pulled, err)
		}
		for _, d := range pulled.GetDeliveries() {
			keys[string(d.GetMessage().GetBody())] = d.GetMessage().GetShardingKey()
		}
	}
	for body, key := range map[string]string{"a1": "a", "b1": "b", "plain": "", "by HTTP": "a"} {
		if got, came := keys[body]; !came || got != key {
			t.Errorf("%q came with the sharding key %q (%v), want %q", body, got, came, key)
		}
	}
}

// TestAnOrderedConsumerOverBothProtocols: what is behind a nacked message comes again behind it; an ack before its turn is OK, and comes not again; a deadline that is
// moved moves for all.
func TestAnOrderedConsumerOverBothProtocols(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	r.AddProducer("orders", "orders")
	base := proxytest.ConsumerSpec("orders")
	base.Config.Ordered = true
	r.Running(r.Acquire("billing", func(s *registry.Spec) {
		s.Consumer = base
	}))
	var all []*pb.Message
	for _, body := range []string{"0", "1", "2", "3", "4"} {
		all = append(all, keyed("order-4711", body))
	}
	if _, err := r.Producers().Send(t.Context(), &pb.SendRequest{Namespace: "shop", Producer: "orders", Messages: all}); err != nil {
		t.Fatal(err)
	}
	pull := func(want string) []*pb.Delivery {
		t.Helper()
		res, err := r.Consumers().Pull(t.Context(), &pb.PullRequest{Namespace: "shop", Consumer: "billing", MaxMessages: 10, Wait: durationpb.New(5 * time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, d := range res.GetDeliveries() {
			got += string(d.GetMessage().GetBody())
		}
		if got != want {
			t.Fatalf("came %q, want %q", got, want)
		}
		return res.GetDeliveries()
	}
	ack := func(want pb.TokenResult_Outcome, ds ...*pb.Delivery) {
		t.Helper()
		var tokens []string
		for _, d := range ds {
			tokens = append(tokens, d.GetAckToken())
		}
		res, err := r.Consumers().Ack(t.Context(), &pb.AckRequest{Namespace: "shop", Consumer: "billing", AckTokens: tokens})
		if err != nil {
			t.Fatal(err)
		}
		for i, result := range res.GetResults() {
			if result.GetOutcome() != want {
				t.Errorf("ack of %q: %v, want %v", ds[i].GetMessage().GetBody(), result, want)
			}
		}
	}
	first := pull("01234")
	ack(pb.TokenResult_OK, first[0], first[4])
	code, answer := r.Post("/v1alpha1/namespaces/shop/consumers/billing:nack", `{"nacks": [{"ack_token": "`+first[2].GetAckToken()+`", "delay": "0.1s"}]}`)
	if code != http.StatusOK || !strings.Contains(answer, `"OK"`) {
		t.Fatalf("nack: %d %s", code, answer)
	}
	ack(pb.TokenResult_EXPIRED, first[3])
	ack(pb.TokenResult_OK, first[1], first[4])
	again := pull("23")
	if a, b := again[0].GetDeliveryAttempt(), again[1].GetDeliveryAttempt(); a != 2 || b != 1 {
		t.Errorf("attempts %d and %d; the second was never its queue's first", a, b)
	}
	ack(pb.TokenResult_OK, again...)
	pulled, err := r.Consumers().Pull(t.Context(), &pb.PullRequest{Namespace: "shop", Consumer: "billing", Wait: durationpb.New(300 * time.Millisecond)})
	if err != nil || len(pulled.GetDeliveries()) > 0 {
		t.Errorf("something more came: %v, %v", pulled, err)
	}
}
