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
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
)

// TestMessagesOfLater: what has a time comes at its time, by both protocols and gathered with others; what was recalled does not come.
func TestMessagesOfLater(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	r.AddProducer("orders", "orders")
	r.AddConsumer("billing", "orders")
	const delay = 1500 * time.Millisecond
	began := time.Now()
	byDelay, byTime := text("by delay"), text("by time")
	byDelay.When, byTime.When = &pb.Message_Delay{Delay: durationpb.New(delay)}, &pb.Message_DeliverAt{DeliverAt: timestamppb.New(began.Add(delay))}
	res, err := r.Producers().Send(t.Context(), &pb.SendRequest{Namespace: "shop", Producer: "orders", Messages: []*pb.Message{byDelay, text("at once"), byTime}})
	if err != nil {
		t.Fatal(err)
	}
	for i, result := range res.GetResults() {
		if later := i != 1; result.GetError() != nil || (result.GetRecallHandle() != "") != later {
			t.Errorf("message %d: %v", i, result)
		}
	}
	code, answer := r.Post("/v1alpha1/namespaces/shop/producers/orders:send", `{"messages": [{"text": "to be recalled", "id": "reminder-1", "delay": "1.5s"}]}`)
	var sent struct {
		Results []struct {
			RecallHandle string `json:"recall_handle"`
		}
	}
	if err := json.Unmarshal([]byte(answer), &sent); err != nil || code != http.StatusOK || sent.Results[0].RecallHandle == "" {
		t.Fatalf("send over HTTP: %d %s", code, answer)
	}
	for range 2 {
		code, answer := r.Post("/v1alpha1/namespaces/shop/producers/orders:recall", `{"recall_handle": "`+sent.Results[0].RecallHandle+`"}`)
		if code != http.StatusOK || !strings.Contains(answer, `"reminder-1"`) {
			t.Errorf("recall over HTTP: %d %s", code, answer)
		}
	}
	var got []string
	for len(got) < 3 {
		pulled, err := r.Consumers().Pull(t.Context(), &pb.PullRequest{Namespace: "shop", Consumer: "billing", MaxMessages: 10, Wait: durationpb.New(10 * time.Second)})
		if err != nil || len(pulled.GetDeliveries()) == 0 {
			t.Fatalf("after %q: %v, %v", got, pulled, err)
		}
		for _, d := range pulled.GetDeliveries() {
			body := string(d.GetMessage().GetBody())
			if got = append(got, body); body != "at once" && time.Since(began) < delay {
				t.Errorf("%q came after %s", body, time.Since(began))
			}
		}
	}
	if got[0] != "at once" {
		t.Errorf("came as %q; what is at once overtakes the others", got)
	}
	pulled, err := r.Consumers().Pull(t.Context(), &pb.PullRequest{Namespace: "shop", Consumer: "billing", Wait: durationpb.New(500 * time.Millisecond)})
	if err != nil || len(pulled.GetDeliveries()) > 0 {
		t.Errorf("what was recalled came: %v, %v", pulled, err)
	}
	_, err = r.Producers().Recall(t.Context(), &pb.RecallRequest{Namespace: "shop", Producer: "orders", RecallHandle: res.GetResults()[0].GetRecallHandle()})
	if reason, _, _ := info(err); status.Code(err) != codes.FailedPrecondition || reason != "TooLate" {
		t.Errorf("recall of what was delivered: %v", err)
	}
}

func TestBadRecalls(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	r.AddProducer("orders", "orders")
	for name, c := range map[string]struct {
		producer, handle string
		code             codes.Code
		field            string
	}{
		"an unknown Producer": {"nobody", "x", codes.NotFound, ""},
		"no handle":           {"orders", "", codes.InvalidArgument, "recall_handle"},
		"nonsense":            {"orders", "nonsense", codes.InvalidArgument, "recall_handle"},
		"a huge handle":       {"orders", strings.Repeat("a", 100_000), codes.InvalidArgument, "recall_handle"},
	} {
		_, err := r.Producers().Recall(context.Background(), &pb.RecallRequest{Namespace: "shop", Producer: c.producer, RecallHandle: c.handle})
		if _, field, _ := info(err); status.Code(err) != c.code || field != c.field {
			t.Errorf("%s: %v, field %q", name, err, field)
		}
	}
	code, answer := r.Post("/v1alpha1/namespaces/shop/producers/orders:send", `{"messages": [{"text": "x", "delay": "1s", "deliver_at": "2030-01-01T00:00:00Z"}]}`)
	if code != http.StatusBadRequest {
		t.Errorf("both a delay and a time: %d %s", code, answer)
	}
}
