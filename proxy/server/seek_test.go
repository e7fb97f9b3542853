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
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
)

// TestSeekMovesReceiversByBothProtocols: back to the beginning over HTTP, to a time over gRPC, and to the end; what was delivered before can still be
// acknowledged.
func TestSeekMovesReceiversByBothProtocols(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	r.AddProducer("orders", "orders")
	r.AddConsumer("billing", "orders")
	send := func(bodies ...string) {
		t.Helper()
		req := &pb.SendRequest{Namespace: "shop", Producer: "orders"}
		for _, body := range bodies {
			req.Messages = append(req.Messages, text(body))
		}
		if _, err := r.Producers().Send(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	none := func(why string) {
		t.Helper()
		p, err := r.Consumers().Pull(t.Context(), &pb.PullRequest{Namespace: "shop", Consumer: "billing", Wait: durationpb.New(300 * time.Millisecond)})
		if err != nil || len(p.GetDeliveries()) > 0 {
			t.Fatalf("%s: %v, %v", why, p, err)
		}
	}
	send("a", "b")
	first := pullAll(t, r, 2)
	if code, answer := r.Post("/v1alpha1/namespaces/shop/consumers/billing:seek", `{"end": "EARLIEST"}`); code != http.StatusOK || !strings.Contains(answer, "sought_at") {
		t.Fatalf("seek over HTTP: %d %s", code, answer)
	}
	again := pullAll(t, r, 2)
	acks := &pb.AckRequest{Namespace: "shop", Consumer: "billing"}
	for _, d := range append(first, again...) {
		acks.AckTokens = append(acks.AckTokens, d.GetAckToken())
	}
	res, err := r.Consumers().Ack(t.Context(), acks)
	if err != nil {
		t.Fatal(err)
	}
	for i, result := range res.GetResults() {
		if result.GetOutcome() != pb.TokenResult_OK {
			t.Errorf("ack %d, of deliveries before and after the seek: %v", i, result)
		}
	}
	none("everything is acknowledged")
	between := time.Now().Add(5 * time.Millisecond)
	<-time.After(time.Until(between))
	send("c")
	pullAll(t, r, 1)
	_, err = r.Consumers().Seek(t.Context(), &pb.SeekRequest{Namespace: "shop", Consumer: "billing", To: &pb.SeekRequest_Time{Time: timestamppb.New(between)}})
	if err != nil {
		t.Fatal(err)
	}
	if got := pullAll(t, r, 1); string(got[0].GetMessage().GetBody()) != "c" {
		t.Errorf("after the seek to a time: %v", got)
	}
	send("d", "e")
	if _, err = r.Consumers().Seek(t.Context(), &pb.SeekRequest{Namespace: "shop", Consumer: "billing", To: &pb.SeekRequest_End_{End: pb.SeekRequest_LATEST}}); err != nil {
		t.Fatal(err)
	}
	none("the Consumer was moved to the end")
}

func TestBadSeeks(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	r.AddConsumer("billing", "orders")
	at := func(seconds int64, nanos int32) *pb.SeekRequest_Time {
		return &pb.SeekRequest_Time{Time: &timestamppb.Timestamp{Seconds: seconds, Nanos: nanos}}
	}
	for name, c := range map[string]struct {
		req   *pb.SeekRequest
		code  codes.Code
		field string
	}{
		"an unknown Consumer":    {&pb.SeekRequest{Consumer: "nobody", To: &pb.SeekRequest_End_{End: pb.SeekRequest_LATEST}}, codes.NotFound, ""},
		"no Consumer":            {&pb.SeekRequest{To: &pb.SeekRequest_End_{End: pb.SeekRequest_LATEST}}, codes.InvalidArgument, "consumer"},
		"nowhere":                {&pb.SeekRequest{Consumer: "billing"}, codes.InvalidArgument, "to"},
		"an end that is none":    {&pb.SeekRequest{Consumer: "billing", To: &pb.SeekRequest_End_{}}, codes.InvalidArgument, "end"},
		"an end of the future":   {&pb.SeekRequest{Consumer: "billing", To: &pb.SeekRequest_End_{End: 7}}, codes.InvalidArgument, "end"},
		"a time before 1970":     {&pb.SeekRequest{Consumer: "billing", To: at(-1, 0)}, codes.InvalidArgument, "time"},
		"a time that is invalid": {&pb.SeekRequest{Consumer: "billing", To: at(1, -1)}, codes.InvalidArgument, "time"},
		"a time without end":     {&pb.SeekRequest{Consumer: "billing", To: at(1<<60, 0)}, codes.InvalidArgument, "time"},
	} {
		c.req.Namespace = "shop"
		_, err := r.Consumers().Seek(t.Context(), c.req)
		if _, field, _ := info(err); status.Code(err) != c.code || field != c.field {
			t.Errorf("%s: %v, field %q", name, err, field)
		}
	}
	for _, body := range []string{`{"end": "NEWEST"}`, `{"time": "yesterday"}`, `{"time": "2026-11-26T08:00:00Z", "end": "LATEST"}`, `{"offset": 1}`, `{"end": "latest"}`} {
		if code, answer := r.Post("/v1alpha1/namespaces/shop/consumers/billing:seek", body); code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", body, code, answer)
		}
	}
}
