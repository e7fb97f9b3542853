// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/memory"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// onceProducer makes or changes a Producer of two topics with a deduplication window.
func onceProducer(r *proxytest.Rig, generation int64, window time.Duration) registry.Key {
	return r.Running(r.Acquire("orders", func(s *registry.Spec) {
		s.UID, s.Generation = "uid", generation
		s.Producer = proxytest.ProducerSpec("orders", "returns")
		s.Producer.DeduplicationWindow = window
	}))
}

func named(topic, id, body string) *pb.Message {
	return &pb.Message{Topic: topic, Id: id, Content: &pb.Message_Text{Text: body}}
}

func sendAll(ctx context.Context, r *proxytest.Rig, messages ...*pb.Message) (*pb.SendResponse, error) {
	return r.Producers().Send(ctx, &pb.SendRequest{Namespace: "shop", Producer: "orders", Messages: messages})
}

func TestARepeatedIDIsAnsweredAsTheFirstAndStoredOnce(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	onceProducer(r, 1, time.Minute)
	later := named("orders", "b", "x")
	later.When = &pb.Message_Delay{Delay: durationpb.New(time.Hour)}
	first, err := sendAll(t.Context(), r, named("orders", "a", "x"), later, named("returns", "a", "x"), named("orders", "", "x"))
	if err != nil || first.GetResults()[1].GetRecallHandle() == "" {
		t.Fatalf("the first: %v, %v", first, err)
	}
	again, err := sendAll(t.Context(), r, named("returns", "a", "x"), later, named("orders", "a", "x"), named("orders", "", "x"))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{2, 1, 0} {
		got, expected := again.GetResults()[i], first.GetResults()[want]
		if got.GetError() != nil || got.GetMessageId() != expected.GetMessageId() || got.GetRecallHandle() != expected.GetRecallHandle() {
			t.Errorf("result %d: %v, want %v", i, got, expected)
		}
	}
	if again.GetResults()[3].GetMessageId() == first.GetResults()[3].GetMessageId() {
		t.Error("two messages without an id of the caller's have the same one")
	}
	if n := r.Broker.Stats().Messages; n != 5 {
		t.Errorf("%d messages are stored, want 5: three with ids, two without", n)
	}
	code, answer := r.Post("/v1alpha1/namespaces/shop/producers/orders:send", `{"messages": [{"topic": "orders", "id": "a", "text": "y"}]}`)
	if code != http.StatusBadRequest || !strings.Contains(answer, "messages[0].id") || !strings.Contains(answer, "other content") {
		t.Errorf("the same id with other content: %d %s", code, answer)
	}
	if n := r.Metric("rocketmq_proxy_deduplicated_messages_total", "name", "orders"); n != 3 {
		t.Errorf("the metric says %v", n)
	}
}

// TestAMessageThatWasRecalledIsSentAgain: answered from memory it would be lost.
func TestAMessageThatWasRecalledIsSentAgain(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	onceProducer(r, 1, time.Minute)
	later := named("orders", "b", "x")
	later.When = &pb.Message_Delay{Delay: durationpb.New(time.Hour)}
	first, err := sendAll(t.Context(), r, later)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Producers().Recall(t.Context(), &pb.RecallRequest{Namespace: "shop", Producer: "orders", RecallHandle: first.GetResults()[0].GetRecallHandle()})
	if err != nil {
		t.Fatalf("recall: %v", err)
	}
	for range 2 {
		if _, err := sendAll(t.Context(), r, later); err != nil {
			t.Errorf("send it again: %v", err)
		}
	}
	if n := r.Broker.Stats().Messages; n != 1 {
		t.Errorf("%d messages are stored, want the one that was sent after the recall", n)
	}
}

func TestWithoutAWindowEveryMessageIsSentAndAWindowIsSwitchedOnWhileItRuns(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	key := onceProducer(r, 1, 0)
	client, _ := r.Registry.Status(key)
	for i, c := range []struct {
		window time.Duration
		want   int
	}{{0, 3}, {time.Minute, 1}, {0, 3}} {
		generation := int64(i + 2)
		onceProducer(r, generation, c.window)
		r.Eventually("the change is there", func() bool { s, _ := r.Registry.Status(key); return s.Generation == generation })
		before := r.Broker.Stats().Messages
		for range 3 {
			if _, err := sendAll(t.Context(), r, named("orders", fmt.Sprint(i), "x")); err != nil {
				t.Fatal(err)
			}
		}
		if n := r.Broker.Stats().Messages - before; n != c.want {
			t.Errorf("with a window of %s %d of 3 are stored, want %d", c.window, n, c.want)
		}
	}
	if s, _ := r.Registry.Status(key); s.ClientID != client.ClientID {
		t.Error("a changed window made another client")
	}
}

// TestALostAnswerIsFoundByTheRepetition: the caller gives up while the broker hangs, comes again, and the message is there once.
func TestALostAnswerIsFoundByTheRepetition(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	key := onceProducer(r, 1, time.Minute)
	lift := r.Broker.Faults().Hang(memory.Send, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := sendAll(ctx, r, named("orders", "a", "x")); status.Code(err) != codes.DeadlineExceeded {
		t.Fatalf("while the broker hangs: %v", err)
	}
	r.Eventually("the call has ended", func() bool { return r.Uses(key) == 0 })
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if res, err := sendAll(t.Context(), r, named("orders", "a", "x")); err != nil || res.GetResults()[0].GetMessageId() != "a" {
				t.Errorf("the repetition: %v, %v", res, err)
			}
		})
	}
	r.Eventually("the repetitions wait", func() bool { return r.Uses(key) == 5 })
	lift()
	all.Wait()
	if n := r.Broker.Stats().Messages; n != 1 {
		t.Errorf("%d messages are stored", n)
	}
}

func TestWhatFailedIsSentAgainByTheRepetition(t *testing.T) {
	r := proxytest.New(t, proxytest.Options{})
	onceProducer(r, 1, time.Minute)
	lift := r.Broker.Faults().Fail(memory.Send, 0, driver.Errorf(driver.Unavailable, "", "away"))
	if _, err := sendAll(t.Context(), r, named("orders", "a", "x")); status.Code(err) != codes.Unavailable {
		t.Fatalf("while the broker is away: %v", err)
	}
	lift()
	if _, err := sendAll(t.Context(), r, named("orders", "a", "x")); err != nil {
		t.Fatal(err)
	}
	if n := r.Broker.Stats().Messages; n != 1 {
		t.Errorf("%d messages are stored", n)
	}
}
