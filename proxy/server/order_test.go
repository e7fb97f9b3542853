// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
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
