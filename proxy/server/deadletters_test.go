// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/memory"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// poisoned is a shop whose Consumer billing has given up messages with these ids.
func poisoned(t *testing.T, ids ...string) *proxytest.Rig {
	t.Helper()
	r := proxytest.New(t, proxytest.Options{})
	r.AddProducer("orders", "orders")
	r.Running(r.Acquire("billing", func(s *registry.Spec) {
		s.Consumer = proxytest.ConsumerSpec("orders")
		s.Consumer.MaxDeliveryAttempts = 1
	}))
	send := &pb.SendRequest{Namespace: "shop", Producer: "orders"}
	for _, id := range ids {
		send.Messages = append(send.Messages, &pb.Message{Id: id, Tag: "t", Keys: []string{"k"}, Properties: map[string]string{"p": "v"}, Content: &pb.Message_Text{Text: "body of " + id}})
	}
	if _, err := r.Producers().Send(t.Context(), send); err != nil {
		t.Fatal(err)
	}
	nacks := &pb.NackRequest{Namespace: "shop", Consumer: "billing"}
	for _, d := range pullAll(t, r, len(ids)) {
		nacks.Nacks = append(nacks.Nacks, &pb.NackEntry{AckToken: d.AckToken, Reason: "no stock"})
	}
	if _, err := r.Consumers().Nack(t.Context(), nacks); err != nil {
		t.Fatal(err)
	}
	// Somebody has to ask for messages, for the dead ones to be found.
	if pulled, err := r.Consumers().Pull(t.Context(), &pb.PullRequest{Namespace: "shop", Consumer: "billing", Wait: durationpb.New(time.Second), MaxMessages: 100}); err != nil || len(pulled.Deliveries) > 0 {
		t.Fatalf("after the last attempt: %v, %v", pulled, err)
	}
	return r
}

func pullAll(t *testing.T, r *proxytest.Rig, n int) (all []*pb.Delivery) {
	t.Helper()
	for len(all) < n {
		p, err := r.Consumers().Pull(t.Context(), &pb.PullRequest{Namespace: "shop", Consumer: "billing", MaxMessages: int32(n - len(all)), Wait: durationpb.New(5 * time.Second)})
		if err != nil || len(p.Deliveries) == 0 {
			t.Fatalf("after %d of %d: %v, %v", len(all), n, p, err)
		}
		all = append(all, p.Deliveries...)
	}
	return all
}

func idsOf(letters []*pb.DeadLetter) (ids []string) {
	for _, l := range letters {
		ids = append(ids, l.Message.Id)
	}
	return ids
}

// TestDeadLettersFromTheListToTheRedrive walks through everything, by both protocols.
func TestDeadLettersFromTheListToTheRedrive(t *testing.T) {
	ids := []string{"a", "b", "c", "d", "e"}
	r := poisoned(t, ids...)
	letters := pb.NewDeadLetterServiceClient(r.Conn)
	list, err := letters.ListDeadLetters(t.Context(), &pb.ListDeadLettersRequest{Namespace: "shop", Consumer: "billing", MaxLetters: 3})
	if err != nil || list.GetLeft() != 5 || list.NextPageToken == "" || len(list.Letters) != 3 {
		t.Fatalf("list: %v, %v", list, err)
	}
	rest, err := letters.ListDeadLetters(t.Context(), &pb.ListDeadLettersRequest{Namespace: "shop", Consumer: "billing", PageToken: list.NextPageToken})
	if got := append(idsOf(list.Letters), idsOf(rest.GetLetters())...); err != nil || rest.NextPageToken != "" || !slices.Equal(slices.Sorted(slices.Values(got)), ids) {
		t.Fatalf("two pages: %v, %v", got, err)
	}
	one := list.Letters[0]
	if m := one.Message; m.Topic != "orders" || m.Tag != "t" || m.Properties["p"] != "v" || len(m.Properties) != 1 || m.Body != nil || one.BodyBytes != 9 || one.DeliveryAttempts != 2 ||
		!strings.Contains(one.Reason, "maxDeliveryAttempts is 1") || !strings.Contains(one.Reason, "no stock") || one.Problem != "" || one.DeadTime == nil || one.BornTime == nil {
		t.Errorf("a letter: %v", one)
	}
	code, answer := r.Post("/v1alpha1/namespaces/shop/consumers/billing:peekDeadLetters", `{"selection": {"message_ids": ["c"]}}`)
	if code != http.StatusOK || !strings.Contains(answer, `"text":"body of c"`) || strings.Contains(answer, "body of a") {
		t.Errorf("peek: %d %s", code, answer)
	}

	redrive := func(body string) (got struct {
		Redriven, Skipped int
		Already           int    `json:"already_redriven"`
		Next              string `json:"next_page_token"`
		Problem, Left     string
	}) {
		t.Helper()
		code, answer := r.Post("/v1alpha1/namespaces/shop/consumers/billing:redriveDeadLetters", body)
		if err := json.Unmarshal([]byte(answer), &got); code != http.StatusOK || err != nil || got.Problem != "" {
			t.Fatalf("redrive %s: %d %s", body, code, answer)
		}
		return got
	}
	if got := redrive(`{"all": true, "dry_run": true}`); got.Redriven != 5 || got.Left != "5" {
		t.Errorf("a dry run: %+v", got)
	}
	if got := redrive(`{"selection": {"message_ids": ["b", "d", "x"]}}`); got.Redriven != 2 {
		t.Errorf("two of them: %+v", got)
	}
	for _, d := range pullAll(t, r, 2) {
		m := d.Message
		if d.DeliveryAttempt != 1 || m.Topic != "orders" || m.Id != "b" && m.Id != "d" || string(m.Body) != "body of "+m.Id || m.Properties["PROXY_REDRIVEN_FROM"] == "" || m.Properties["p"] != "v" {
			t.Errorf("a redriven message: %v", d)
		}
		if _, err := r.Consumers().Ack(t.Context(), &pb.AckRequest{Namespace: "shop", Consumer: "billing", AckTokens: []string{d.AckToken}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := redrive(`{"all": true, "max_letters": 2, "letters_per_second": 100}`); got.Redriven != 2 || got.Next == "" {
		t.Errorf("some of all: %+v", got)
	} else if got := redrive(`{"all": true, "page_token": "` + got.Next + `"}`); got.Redriven != 1 || got.Next != "" || got.Left != "0" {
		t.Errorf("the rest: %+v", got)
	}
	var came []string
	for _, d := range pullAll(t, r, 3) {
		came = append(came, d.Message.Id)
	}
	if slices.Sort(came); !slices.Equal(came, []string{"a", "c", "e"}) {
		t.Errorf("the rest came as %v", came)
	}
	if list, err = letters.ListDeadLetters(t.Context(), &pb.ListDeadLettersRequest{Namespace: "shop", Consumer: "billing"}); err != nil || len(list.Letters) > 0 || list.GetLeft() != 0 {
		t.Errorf("in the end: %v, %v", list, err)
	}
	if code, answer := r.Post("/v1alpha1/namespaces/shop/consumers/billing:listDeadLetters", `{}`); code != http.StatusOK || answer != `{"letters":[],"left":"0"}`+"\n" {
		t.Errorf("in the end, over HTTP: %d %q", code, answer)
	}
	if n := r.Metric("rocketmq_proxy_dead_letters_redriven_total", "namespace", "shop", "name", "billing"); n != 5 {
		t.Errorf("the metric counts %v", n)
	}
	if n := r.Metric("rocketmq_proxy_deliveries_ended_total", "name", "billing", "outcome", "dead_lettered"); n != 5 {
		t.Errorf("the metric counts %v dead letters", n)
	}
}

func TestBadCallsAboutDeadLetters(t *testing.T) {
	r := poisoned(t, "a")
	letters := pb.NewDeadLetterServiceClient(r.Conn)
	long := make([]string, 1001)
	for i := range long {
		long[i] = fmt.Sprint(i)
	}
	some := &pb.DeadLetterSelection{Topic: "orders"}
	list := func(change func(*pb.ListDeadLettersRequest)) func() error {
		return func() error {
			q := &pb.ListDeadLettersRequest{Namespace: "shop", Consumer: "billing"}
			change(q)
			_, err := letters.ListDeadLetters(context.Background(), q)
			return err
		}
	}
	redrive := func(change func(*pb.RedriveDeadLettersRequest)) func() error {
		return func() error {
			q := &pb.RedriveDeadLettersRequest{Namespace: "shop", Consumer: "billing", Selection: some}
			change(q)
			_, err := letters.RedriveDeadLetters(context.Background(), q)
			return err
		}
	}
	for name, c := range map[string]struct {
		call  func() error
		code  codes.Code
		field string
	}{
		"an unknown Consumer":         {list(func(q *pb.ListDeadLettersRequest) { q.Consumer = "nobody" }), codes.NotFound, ""},
		"no Consumer":                 {redrive(func(q *pb.RedriveDeadLettersRequest) { q.Consumer = "" }), codes.InvalidArgument, "consumer"},
		"too large a page":            {list(func(q *pb.ListDeadLettersRequest) { q.MaxLetters = 1001 }), codes.InvalidArgument, "max_letters"},
		"a page of less than nothing": {list(func(q *pb.ListDeadLettersRequest) { q.MaxLetters = -1 }), codes.InvalidArgument, "max_letters"},
		"too large a peek": {func() error {
			_, err := letters.PeekDeadLetters(context.Background(), &pb.ListDeadLettersRequest{Namespace: "shop", Consumer: "billing", MaxLetters: 101})
			return err
		}, codes.InvalidArgument, "max_letters"},
		"a made up page": {list(func(q *pb.ListDeadLettersRequest) { q.PageToken = "x!" }), codes.InvalidArgument, "page_token"},
		"too many ids":   {list(func(q *pb.ListDeadLettersRequest) { q.Selection = &pb.DeadLetterSelection{MessageIds: long} }), codes.InvalidArgument, "selection.message_ids"},
		"an empty id": {list(func(q *pb.ListDeadLettersRequest) {
			q.Selection = &pb.DeadLetterSelection{MessageIds: []string{"a", ""}}
		}), codes.InvalidArgument,
			"selection.message_ids[1]"},
		"a time that is none": {list(func(q *pb.ListDeadLettersRequest) {
			q.Selection = &pb.DeadLetterSelection{From: &timestamppb.Timestamp{Nanos: -1}}
		}), codes.InvalidArgument, "selection.from"},
		"a time span backwards": {redrive(func(q *pb.RedriveDeadLettersRequest) {
			q.Selection = &pb.DeadLetterSelection{From: timestamppb.New(time.Unix(2, 0)), Until: timestamppb.New(time.Unix(1, 0))}
		}), codes.InvalidArgument, "selection.until"},
		"neither all nor a selection": {redrive(func(q *pb.RedriveDeadLettersRequest) { q.Selection = nil }), codes.InvalidArgument, "selection"},
		"a selection of nothing":      {redrive(func(q *pb.RedriveDeadLettersRequest) { q.Selection = &pb.DeadLetterSelection{} }), codes.InvalidArgument, "selection"},
		"all and a selection":         {redrive(func(q *pb.RedriveDeadLettersRequest) { q.All = true }), codes.InvalidArgument, "selection"},
		"too large a part":            {redrive(func(q *pb.RedriveDeadLettersRequest) { q.MaxLetters = 10_001 }), codes.InvalidArgument, "max_letters"},
		"too high a rate":             {redrive(func(q *pb.RedriveDeadLettersRequest) { q.LettersPerSecond = 10_001 }), codes.InvalidArgument, "letters_per_second"},
		"a rate below zero":           {redrive(func(q *pb.RedriveDeadLettersRequest) { q.LettersPerSecond = -1 }), codes.InvalidArgument, "letters_per_second"},
	} {
		if err := c.call(); status.Code(err) != c.code {
			t.Errorf("%s: %v, want %v", name, err, c.code)
		} else if _, field, _ := info(err); field != c.field {
			t.Errorf("%s: field %q, want %q", name, field, c.field)
		}
	}
	code, answer := r.Post("/v1alpha1/namespaces/shop/consumers/billing:redriveDeadLetters", `{"al": true}`)
	if code != http.StatusBadRequest {
		t.Errorf("an unknown field: %d %s", code, answer)
	}
	if list, err := letters.ListDeadLetters(t.Context(), &pb.ListDeadLettersRequest{Namespace: "shop", Consumer: "billing"}); err != nil || len(list.Letters) != 1 {
		t.Errorf("after all that: %v, %v", list, err)
	}
}

func TestOneRedriveOfAConsumerAtATime(t *testing.T) {
	r := poisoned(t, "a")
	letters := pb.NewDeadLetterServiceClient(r.Conn)
	lift := r.Broker.Faults().Hang(memory.Redrive, 1)
	first := make(chan error, 1)
	redrive := func() error {
		_, err := letters.RedriveDeadLetters(context.Background(), &pb.RedriveDeadLettersRequest{Namespace: "shop", Consumer: "billing", All: true})
		return err
	}
	go func() { first <- redrive() }()
	r.Eventually("the first one is under way", func() bool { return r.Broker.Faults().Hanging(memory.Redrive) == 1 })
	err := redrive()
	if reason, _, _ := info(err); status.Code(err) != codes.Aborted || reason != "RedriveUnderWay" {
		t.Errorf("a second one: %v", err)
	}
	if _, err := letters.RedriveDeadLetters(context.Background(), &pb.RedriveDeadLettersRequest{Namespace: "shop", Consumer: "billing", All: true, DryRun: true}); err != nil {
		t.Errorf("a dry run beside it: %v", err)
	}
	lift()
	if err := <-first; err != nil {
		t.Error(err)
	}
}

func TestADrainEndsARedriveEarly(t *testing.T) {
	r := poisoned(t, "a", "b", "c")
	letters := pb.NewDeadLetterServiceClient(r.Conn)
	answered := make(chan *pb.RedriveDeadLettersResponse, 1)
	go func() {
		answer, err := letters.RedriveDeadLetters(context.Background(), &pb.RedriveDeadLettersRequest{Namespace: "shop", Consumer: "billing", All: true, LettersPerSecond: 1})
		if err != nil {
			t.Error(err)
		}
		answered <- answer
	}()
	r.Eventually("the first letter is redriven", func() bool { return r.Broker.Stats().Messages > 6 })
	began := time.Now()
	r.Stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the stop took %s", took)
	}
	if answer := <-answered; answer.GetRedriven() < 1 || answer.GetRedriven() > 2 || answer.GetNextPageToken() == "" || answer.GetProblem() == "" {
		t.Errorf("the answer: %v", answer)
	}
}

func TestDeadLettersNeedTheRightToManage(t *testing.T) {
	auth := &proxytest.Auth{}
	auth.Allow("receiver", "receive", "shop", "billing")
	auth.Allow("manager", "manage", "shop", "billing")
	r := shop(t, proxytest.Options{Auth: auth})
	letters := pb.NewDeadLetterServiceClient(r.Conn)
	for token, want := range map[string]codes.Code{"receiver": codes.PermissionDenied, "manager": codes.OK} {
		ctx := proxytest.Token(context.Background(), token)
		for name, call := range map[string]func() error{
			"list": func() error {
				_, err := letters.ListDeadLetters(ctx, &pb.ListDeadLettersRequest{Namespace: "shop", Consumer: "billing"})
				return err
			},
			"peek": func() error {
				_, err := letters.PeekDeadLetters(ctx, &pb.ListDeadLettersRequest{Namespace: "shop", Consumer: "billing"})
				return err
			},
			"redrive": func() error {
				_, err := letters.RedriveDeadLetters(ctx, &pb.RedriveDeadLettersRequest{Namespace: "shop", Consumer: "billing", All: true})
				return err
			},
		} {
			if err := call(); status.Code(err) != want {
				t.Errorf("%s as %s: %v, want %v", name, token, err, want)
			}
		}
	}
	if _, err := r.Consumers().Pull(proxytest.Token(context.Background(), "manager"), &pb.PullRequest{Namespace: "shop", Consumer: "billing"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("who may manage receives: %v", err)
	}
}
