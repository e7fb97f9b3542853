// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/memory"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// broadcasting is a proxy with a Producer and a broadcasting Consumer.
type broadcasting struct {
	*proxytest.Rig
	key registry.Key
}

func newBroadcasting(t *testing.T, periods proxy.BroadcastPeriods, change ...func(*registry.ConsumerSpec)) *broadcasting {
	t.Helper()
	b := &broadcasting{Rig: proxytest.New(t, proxytest.Options{Broadcast: periods})}
	b.AddProducer("orders", "orders")
	b.key = b.consumer(1, change...)
	return b
}

// consumer makes or changes the Consumer.
func (b *broadcasting) consumer(generation int64, change ...func(*registry.ConsumerSpec)) registry.Key {
	return b.Running(b.Acquire("billing", func(s *registry.Spec) {
		s.UID, s.Generation = "uid-b", generation
		s.Consumer = proxytest.ConsumerSpec("orders")
		s.Consumer.Broadcast, s.Consumer.MaxReceivers, s.Consumer.ReceiverExpiry = true, 3, time.Hour
		for _, c := range change {
			c(s.Consumer)
		}
	}))
}

func (b *broadcasting) pull(clientID string, wait time.Duration) ([]*pb.Delivery, error) {
	res, err := b.Consumers().Pull(context.Background(), &pb.PullRequest{
		Namespace: "shop", Consumer: "billing", ClientId: clientID, MaxMessages: 100, Wait: durationpb.New(wait),
	})
	return res.GetDeliveries(), err
}

// take pulls until n messages have come, acknowledges them, and answers their bodies in order.
func (b *broadcasting) take(clientID string, n int) (bodies []string) {
	b.T.Helper()
	for len(bodies) < n {
		ds, err := b.pull(clientID, 10*time.Second)
		if err != nil || len(ds) == 0 {
			b.T.Fatalf("receiver %s after %q: %v", clientID, bodies, err)
		}
		req := &pb.AckRequest{Namespace: "shop", Consumer: "billing", ClientId: clientID}
		for _, d := range ds {
			bodies = append(bodies, string(d.GetMessage().GetBody()))
			req.AckTokens = append(req.AckTokens, d.GetAckToken())
		}
		res, err := b.Consumers().Ack(context.Background(), req)
		if err != nil {
			b.T.Fatal(err)
		}
		for _, r := range res.GetResults() {
			if r.GetOutcome() != pb.TokenResult_OK {
				b.T.Errorf("receiver %s: ack: %v", clientID, r)
			}
		}
	}
	slices.Sort(bodies)
	return bodies
}

func (b *broadcasting) nothing(clientID string) {
	b.T.Helper()
	if ds, err := b.pull(clientID, 200*time.Millisecond); err != nil || len(ds) > 0 {
		b.T.Errorf("receiver %s: %v, %v, want nothing", clientID, ds, err)
	}
}

func (b *broadcasting) want(what string, got []string, want ...string) {
	b.T.Helper()
	if !slices.Equal(got, want) {
		b.T.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestEveryReceiverGetsEveryMessageAndGoesOnWhereItWas(t *testing.T) {
	b := newBroadcasting(t, proxy.BroadcastPeriods{Sweep: 10 * time.Millisecond, Linger: 20 * time.Millisecond})
	b.Send("orders", "1", "2", "3")
	b.want("a", b.take("a", 3), "1", "2", "3")
	b.want("b", b.take("b/with any characters: ü", 3), "1", "2", "3")
	b.nothing("a")
	// Both have gone and their clients are closed; the group stays, and what was sent meanwhile waits for each.
	b.Eventually("the receivers' clients are closed", func() bool { return len(b.Broker.Clients()) == 1 })
	b.Send("orders", "4")
	b.want("a again", b.take("a", 1), "4")
	b.want("b again", b.take("b/with any characters: ü", 1), "4")
	b.nothing("a")
	b.want("c, which begins at the earliest", b.take("c", 4), "1", "2", "3", "4")
}

func TestReceiversAndTheirLagAreInTheMetrics(t *testing.T) {
	b := newBroadcasting(t, proxy.BroadcastPeriods{Sweep: 5 * time.Millisecond, Measure: 5 * time.Millisecond})
	if n := b.Metric("rocketmq_proxy_broadcast_receivers"); n != 0 {
		t.Errorf("%v receivers before there is one", n)
	}
	b.Send("orders", "1", "2", "3")
	b.take("fast", 3)
	if _, err := b.Consumers().Pull(t.Context(), &pb.PullRequest{Namespace: "shop", Consumer: "billing", ClientId: "slow", MaxMessages: 1}); err != nil {
		t.Fatal(err)
	}
	b.Eventually("the slow one's lag is there", func() bool {
		return b.Metric("rocketmq_proxy_broadcast_receivers", "name", "billing") == 2 && b.Metric("rocketmq_proxy_broadcast_waiting_messages", "name", "billing") == 2
	})
	b.take("slow", 2)
	b.Eventually("it is gone", func() bool { return b.Metric("rocketmq_proxy_broadcast_waiting_messages", "name", "billing") == 0 })
}

func TestStreamsOfOneReceiverShareItsMessages(t *testing.T) {
	b := newBroadcasting(t, proxy.BroadcastPeriods{})
	var mu sync.Mutex
	got, all := map[string]int{}, sync.WaitGroup{}
	ctx, cancel := context.WithCancel(t.Context())
	for range 3 {
		stream, err := b.Consumers().Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&pb.ReceiveRequest{Namespace: "shop", Consumer: "billing", ClientId: "a"}); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for {
				frame, err := stream.Recv()
				if err != nil {
					return
				}
				acks := &pb.ReceiveRequest{}
				mu.Lock()
				for _, d := range frame.GetDeliveries() {
					got[string(d.GetMessage().GetBody())]++
					acks.Acks = append(acks.Acks, d.GetAckToken())
				}
				mu.Unlock()
				if len(acks.Acks) > 0 && stream.Send(acks) != nil {
					return
				}
			}
		})
	}
	for i := range 30 {
		b.Send("orders", fmt.Sprint(i))
	}
	b.Eventually("all have come", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) == 30 })
	cancel()
	all.Wait()
	for body, n := range got {
		if n != 1 {
			t.Errorf("%s came %d times", body, n)
		}
	}
}

func TestABroadcastingConsumerWantsToKnowWhoReceives(t *testing.T) {
	b := newBroadcasting(t, proxy.BroadcastPeriods{})
	b.Send("orders", "1")
	ds, err := b.pull("a", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	token := ds[0].GetAckToken()
	stream, err := b.Consumers().Receive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&pb.ReceiveRequest{Namespace: "shop", Consumer: "billing"})
	_, receiveErr := stream.Recv()
	_, pullErr := b.pull("", 0)
	_, longErr := b.pull(strings.Repeat("x", 129), 0)
	_, ackErr := b.Consumers().Ack(t.Context(), &pb.AckRequest{Namespace: "shop", Consumer: "billing", AckTokens: []string{token}})
	_, nackErr := b.Consumers().Nack(t.Context(), &pb.NackRequest{Namespace: "shop", Consumer: "billing", Nacks: []*pb.NackEntry{{AckToken: token}}})
	_, modifyErr := b.Consumers().ModifyAckDeadline(t.Context(), &pb.ModifyAckDeadlineRequest{
		Namespace: "shop", Consumer: "billing", Modifications: []*pb.ModifyEntry{{AckToken: token, AckDeadline: durationpb.New(time.Minute)}},
	})
	for what, err := range map[string]error{"a stream": receiveErr, "a poll": pullErr, "a long name": longErr, "an ack": ackErr, "a nack": nackErr, "a modification": modifyErr} {
		if _, field, _ := info(err); status.Code(err) != codes.InvalidArgument || field != "client_id" {
			t.Errorf("%s: %v, field %q", what, err, field)
		}
	}
	_, err = b.Consumers().Ack(t.Context(), &pb.AckRequest{Namespace: "shop", Consumer: "billing", ClientId: "never here", AckTokens: []string{token}})
	if _, field, _ := info(err); status.Code(err) != codes.InvalidArgument || field != "client_id" || b.Broker.Stats().Groups != 1 {
		t.Errorf("an ack of one that was never here: %v, field %q, %d groups", err, field, b.Broker.Stats().Groups)
	}
	b.take("b", 1)
	res, err := b.Consumers().Ack(t.Context(), &pb.AckRequest{Namespace: "shop", Consumer: "billing", ClientId: "b", AckTokens: []string{token}})
	if err != nil || res.GetResults()[0].GetOutcome() != pb.TokenResult_INVALID {
		t.Errorf("another receiver's token: %v, %v", res, err)
	}
	if _, err := b.Consumers().Ack(t.Context(), &pb.AckRequest{Namespace: "shop", Consumer: "billing", ClientId: "a", AckTokens: []string{token}}); err != nil {
		t.Error(err)
	}
	_, err = pb.NewDeadLetterServiceClient(b.Conn).ListDeadLetters(t.Context(), &pb.ListDeadLettersRequest{Namespace: "shop", Consumer: "billing"})
	if reason, _, _ := info(err); reason != "Unsupported" || !strings.Contains(err.Error(), "%DLQ%shop_billing%%") {
		t.Errorf("the dead letters of all: %v", err)
	}
	_, err = b.Consumers().Seek(t.Context(), &pb.SeekRequest{Namespace: "shop", Consumer: "billing", To: &pb.SeekRequest_End_{End: pb.SeekRequest_EARLIEST}})
	if reason, _, _ := info(err); reason != "Unsupported" {
		t.Errorf("a seek of all: %v", err)
	}
}

func TestTooManyReceiversAreRefused(t *testing.T) {
	b := newBroadcasting(t, proxy.BroadcastPeriods{Sweep: 10 * time.Millisecond, Linger: 10 * time.Millisecond, Listed: time.Millisecond})
	for _, id := range []string{"a", "b", "c"} {
		b.nothing(id)
	}
	for range 2 { // while they are open, and when only their groups are there
		_, err := b.pull("d", 0)
		if _, field, _ := info(err); status.Code(err) != codes.ResourceExhausted || field != "client_id" || !strings.Contains(err.Error(), "maxReceivers is 3") {
			t.Errorf("the fourth: %v, field %q", err, field)
		}
		b.Eventually("the receivers' clients are closed", func() bool { return len(b.Broker.Clients()) == 1 })
	}
	b.nothing("a")
	b.consumer(2, func(s *registry.ConsumerSpec) { s.MaxReceivers = 4 })
	b.Eventually("a higher limit counts", func() bool { _, err := b.pull("d", 0); return err == nil })
}

func TestAReceiverThatStaysAwayExpires(t *testing.T) {
	b := newBroadcasting(t, proxy.BroadcastPeriods{Sweep: 5 * time.Millisecond, Linger: 5 * time.Millisecond, Expire: 10 * time.Millisecond, Mark: time.Millisecond},
		func(s *registry.ConsumerSpec) { s.ReceiverExpiry = time.Millisecond })
	b.Send("orders", "1")
	stay, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := b.Consumers().Receive(stay)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.ReceiveRequest{Namespace: "shop", Consumer: "billing", ClientId: "stays"}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	b.take("goes", 1)
	b.Eventually("the group of the one that went is gone", func() bool { return b.Broker.Stats().Groups == 1 })
	b.want("it comes again as a new one", b.take("goes", 1), "1")
}

func TestADeletedConsumerLeavesNoGroup(t *testing.T) {
	for reason, want := range map[string]int{registry.ReleaseDeleted: 0, "suspended": 2} {
		t.Run(reason, func(t *testing.T) {
			b := newBroadcasting(t, proxy.BroadcastPeriods{})
			b.Send("orders", "1")
			b.take("a", 1)
			b.take("b", 1)
			var receipt registry.Receipt
			b.Eventually("it is released", func() (done bool) {
				done, receipt = b.Registry.Release(b.key, reason)
				return done
			})
			if n := b.Broker.Stats().Groups; n != want || receipt.Err != "" {
				t.Errorf("%d groups are left at the broker, want %d; the receipt says %q", n, want, receipt.Err)
			}
		})
	}
}

// A drain waits for what receivers have, and they acknowledge until the end.
func TestADrainOfABroadcastingConsumerTakesAcknowledgements(t *testing.T) {
	b := newBroadcasting(t, proxy.BroadcastPeriods{})
	b.Send("orders", "1")
	ds, err := b.pull("a", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	b.Registry.Release(b.key, "suspended")
	b.Eventually("it drains", func() bool { s, _ := b.Registry.Status(b.key); return s.State == registry.Draining })
	if _, err := b.pull("new", 0); err == nil {
		t.Error("a new receiver is taken while it drains")
	}
	res, err := b.Consumers().Ack(t.Context(), &pb.AckRequest{Namespace: "shop", Consumer: "billing", ClientId: "a", AckTokens: []string{ds[0].GetAckToken()}})
	if err != nil || res.GetResults()[0].GetOutcome() != pb.TokenResult_OK {
		t.Errorf("ack while it drains: %v, %v", res, err)
	}
	var receipt registry.Receipt
	b.Eventually("it is released", func() (done bool) {
		done, receipt = b.Registry.Release(b.key, "suspended")
		return done
	})
	if receipt.InFlight != 1 || receipt.Drained != 1 || receipt.Err != "" {
		t.Errorf("receipt %+v", receipt)
	}
}

func TestAReceiverThatCannotBeOpenedSaysWhyAndIsTriedAgain(t *testing.T) {
	for name, op := range map[string]memory.Operation{"its client cannot be opened": memory.Open, "the groups cannot be listed or marked": memory.Keep} {
		t.Run(name, func(t *testing.T) {
			b := newBroadcasting(t, proxy.BroadcastPeriods{})
			lift := b.Broker.Faults().Fail(op, 0, driver.Errorf(driver.Unavailable, "", "away"))
			if _, err := b.pull("a", 0); status.Code(err) != codes.Unavailable {
				t.Errorf("while the broker is away: %v", err)
			}
			if n := len(b.Broker.Clients()); n != 1 {
				t.Errorf("%d clients are open, want the Producer's", n)
			}
			lift()
			b.nothing("a")
		})
	}
}

func TestACallerThatGivesUpSpoilsNothingForTheOthers(t *testing.T) {
	b := newBroadcasting(t, proxy.BroadcastPeriods{})
	lift := b.Broker.Faults().Hang(memory.Open, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		_, err := b.Consumers().Pull(ctx, &pb.PullRequest{Namespace: "shop", Consumer: "billing", ClientId: "a"})
		if status.Code(err) != codes.Canceled {
			t.Errorf("the first: %v", err)
		}
	})
	b.Eventually("the first waits", func() bool { return b.Uses(b.key) == 1 })
	all.Go(func() { b.nothing("a") })
	b.Eventually("the second waits", func() bool { return b.Uses(b.key) == 2 })
	cancel()
	b.Eventually("the first is gone", func() bool { return b.Uses(b.key) == 1 })
	lift()
	all.Wait()
}

func TestWhatARemovalLeavesIsInTheReceipt(t *testing.T) {
	b := newBroadcasting(t, proxy.BroadcastPeriods{})
	b.nothing("a")
	defer b.Broker.Faults().Fail(memory.Keep, 0, driver.Errorf(driver.Unavailable, "", "away"))()
	var receipt registry.Receipt
	b.Eventually("it is released", func() (done bool) {
		done, receipt = b.Registry.Release(b.key, registry.ReleaseDeleted)
		return done
	})
	if !strings.Contains(receipt.Err, "groups of receivers") || !strings.Contains(receipt.Err, "away") {
		t.Errorf("the receipt says %q", receipt.Err)
	}
}

func TestACloseWhileAReceiverIsOpenedEndsIt(t *testing.T) {
	b := newBroadcasting(t, proxy.BroadcastPeriods{})
	defer b.Broker.Faults().Hang(memory.Open, 1)()
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := b.pull("a", 0); err == nil {
			t.Error("a receiver was opened while its Consumer closed")
		}
	})
	b.Eventually("it is being opened", func() bool { return b.Uses(b.key) == 1 })
	b.Eventually("it is released", func() (done bool) {
		done, _ = b.Registry.Release(b.key, "suspended")
		return done
	})
	all.Wait()
}
