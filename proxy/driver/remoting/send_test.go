// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

func TestABrokerThatDiesIsPassedByWithoutAnError(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a", "b")
	f.everywhere("orders", 4)
	p := f.producer(f.config("orders"))
	for range 16 {
		send(t, p, "orders", 3)
	}
	if na, nb := len(f.brokers["a"].sends()), len(f.brokers["b"].sends()); na != 8 || nb != 8 {
		t.Errorf("16 requests went %d and %d times to two brokers of 4 queues", na, nb)
	}
	a := f.brokers["a"]
	a.stop() // its name server still knows it
	for range 16 {
		send(t, p, "orders", 3)
	}
	a.start("127.0.0.1:0") // with a new address
	eventually(t, 10*time.Second, func() error {
		send(t, p, "orders", 1)
		if n := len(a.sends()); n < 10 {
			return fmt.Errorf("the broker that is back has %d requests", n)
		}
		return nil
	})
}

func TestBrokersThatComeAndThoseThatBecomeReadOnlyAreFoundByTheTimer(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a", "b")
	f.driver.periods.tick, f.driver.periods.busy = 2*time.Millisecond, time.Millisecond
	f.topic("orders", fakeShare{broker: "a", queues: 2, perm: 6})
	p := f.producer(f.config("orders"))
	until := func(broker string) {
		t.Helper()
		eventually(t, 10*time.Second, func() error {
			for range 8 {
				if r := send(t, p, "orders", 1)[0]; r.Broker != broker {
					return fmt.Errorf("broker %s stored it", r.Broker)
				}
			}
			return nil
		})
	}
	until("a")
	f.topic("orders", fakeShare{broker: "a", queues: 2, perm: 4}, fakeShare{broker: "b", queues: 2, perm: 6})
	until("b")
	f.topic("orders", fakeShare{broker: "a", queues: 2, perm: 6}, fakeShare{broker: "b", queues: 2, perm: 6, withoutAddresses: true})
	until("a")
}

func TestWhatABrokerAnswersDecidesWhetherAnotherOneIsTried(t *testing.T) {
	for _, c := range []struct {
		name, remark string
		code         int
		want         driver.Reason // "" = stored by the other broker
	}{
		{"a system error", "UNKNOWN_ERROR", wire.CodeSystemError, ""},
		{"a busy broker", "[TIMEOUT_CLEAN_QUEUE]broker busy", wire.CodeSystemBusy, ""},
		{"a broker whose disk is full", "service not available now", wire.CodeServiceNotAvailable, ""},
		{"a broker that became read-only", "the broker[a] sending message is forbidden", wire.CodeNoPermission, ""},
		{"a topic that is not on this broker any more", "topic not exist", wire.CodeTopicNotExist, ""},
		{"a queue that is gone", "request queueId[3] is illegal", wire.CodeInvalidParameter, ""},
		{"an illegal message", "the message is illegal", wire.CodeMessageIllegal, driver.InvalidMessage},
		{"stored but not on disk", "", wire.CodeFlushDiskTimeout, driver.NotReplicated},
		{"stored but without a replica", "", wire.CodeSlaveNotAvailable, driver.NotReplicated},
		{"stored but not replicated in time", "", wire.CodeFlushSlaveTimeout, driver.NotReplicated},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeaks(t)
			f := newFakeRocket(t, 1, "a", "b")
			f.everywhere("orders", 1)
			p := f.producer(f.config("orders"))
			var refused atomic.Int32
			for _, b := range f.brokers {
				b.replying(func(*wire.Command, []string) (*wire.Command, bool) {
					if refused.Add(1) > 1 {
						return nil, false
					}
					return &wire.Command{Code: c.code, Remark: c.remark}, true
				})
			}
			m := messages("orders", 1)
			r := p.Send(t.Context(), "orders", m)[0]
			if c.want != "" {
				wantReason(t, "send", r.Err, c.want)
				if n := refused.Load(); n != 1 {
					t.Errorf("%d requests, want one", n)
				}
				return
			}
			if r.Err != nil || f.brokers["a"].has(m[0].ID)+f.brokers["b"].has(m[0].ID) != 1 {
				t.Errorf("%v; under its id stored %d and %d times", r.Err, f.brokers["a"].has(m[0].ID), f.brokers["b"].has(m[0].ID))
			}
		})
	}
}

func TestWhenAllBrokersRefuseTheLastAnswerIsTheError(t *testing.T) {
	for code, want := range map[int]driver.Reason{
		wire.CodeSystemError: driver.Unavailable, wire.CodeSystemBusy: driver.Throttled, wire.CodeNoPermission: driver.Unauthorized,
		wire.CodeTopicNotExist: driver.TopicNotFound,
	} {
		t.Run(string(want), func(t *testing.T) {
			noLeaks(t)
			f := newFakeRocket(t, 1, "a", "b")
			f.everywhere("orders", 1)
			p := f.producer(f.config("orders"))
			before := f.brokers["a"].asked(codeSend) + f.brokers["b"].asked(codeSend)
			for _, b := range f.brokers {
				b.code(code, "no")
			}
			wantReason(t, "send", p.Send(t.Context(), "orders", messages("orders", 1))[0].Err, want)
			tries, most := f.brokers["a"].asked(codeSend)+f.brokers["b"].asked(codeSend)-before, 3
			if !driver.Retryable(&driver.Error{Reason: want}) {
				most = 2 // each once
			}
			if tries != most {
				t.Errorf("%d tries, want %d", tries, most)
			}
		})
	}
}

func TestABrokerThatHangsCostsOneSendTimeoutAndIsThenAvoided(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a", "b")
	f.everywhere("orders", 1)
	cfg := f.config("orders")
	cfg.SendTimeout = 200 * time.Millisecond
	p := f.producer(cfg)
	f.brokers["a"].hang()
	began := time.Now()
	for range 8 {
		send(t, p, "orders", 1)
	}
	if took := time.Since(began); took > 2*cfg.SendTimeout {
		t.Errorf("8 sends took %v", took)
	}
	f.brokers["b"].hang()
	began = time.Now()
	ctx := within(t, 300*time.Millisecond)
	wantReason(t, "with both hanging", p.Send(ctx, "orders", messages("orders", 1))[0].Err, driver.Timeout)
	if took := time.Since(began); took > 600*time.Millisecond {
		t.Errorf("a send with 300 ms took %v", took)
	}
}

func TestABrokerThatAnswersSlowlyIsAvoidedForAWhile(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a", "b")
	f.everywhere("orders", 1)
	p := f.producer(f.config("orders"))
	a := f.brokers["a"]
	a.replying(func(*wire.Command, []string) (*wire.Command, bool) {
		if len(a.calls) == 0 { // the broker's lock is held
			<-time.After(slowAfter + 20*time.Millisecond)
		}
		return nil, false
	})
	for send(t, p, "orders", 1)[0].Broker != "a" { // by turns, so the second at the latest
		if len(f.brokers["b"].sends()) > 1 {
			t.Fatal("two messages in turn went to one of two brokers")
		}
	}
	answered := time.Now()
	judged := 0
	for range 4 {
		r := send(t, p, "orders", 1)[0]
		if time.Since(answered) >= avoidFirst {
			break
		}
		judged++
		if r.Broker != "b" {
			t.Errorf("message %d after the slow one went to broker %s", judged, r.Broker)
		}
	}
	if judged == 0 {
		t.Errorf("the first send to the other broker took %v", time.Since(answered))
	}
	eventually(t, 10*time.Second, func() error {
		send(t, p, "orders", 1)
		if n := len(a.sends()); n < 5 {
			return fmt.Errorf("the broker that is quick again has %d requests", n)
		}
		return nil
	})
}

func TestABrokerThatLetsCallersTimesEndIsAvoided(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a", "b")
	f.everywhere("orders", 1)
	p := f.producer(f.config("orders"))
	f.brokers["a"].hang()
	failed := 0
	for range 4 {
		if p.Send(within(t, blameAfter+500*time.Millisecond), "orders", messages("orders", 1))[0].Err != nil {
			failed++
		}
	}
	if failed > 1 {
		t.Errorf("%d of 4 sends with less time than the send time-out failed at a broker that hangs", failed)
	}
}

func TestARefusedBatchIsHalvedUntilTheBadOneStandsAlone(t *testing.T) {
	for name, refusal := range map[string]wire.Command{
		"illegal":             {Code: wire.CodeMessageIllegal, Remark: "the message is illegal"},
		"above a lower limit": {Code: wire.CodeSystemError, Remark: "message body size exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			f := newFakeRocket(t, 1, "a")
			f.everywhere("orders", 4)
			p := f.producer(f.config("orders"))
			all := messages("orders", 100)
			bad := all[37].ID
			f.brokers["a"].replying(func(_ *wire.Command, ids []string) (*wire.Command, bool) {
				if !slices.Contains(ids, bad) {
					return nil, false
				}
				answer := refusal
				return &answer, true
			})
			for i, r := range p.Send(t.Context(), "orders", all) {
				if i == 37 {
					wantReason(t, "the bad one", r.Err, driver.InvalidMessage)
				} else if r.Err != nil || f.brokers["a"].has(all[i].ID) != 1 {
					t.Errorf("message %d: %v, stored %d times", i, r.Err, f.brokers["a"].has(all[i].ID))
				}
			}
			if n := len(f.brokers["a"].sends()); n > 8 {
				t.Errorf("%d requests were stored; halving takes 7", n)
			}
		})
	}
}

func TestCompressedMessagesTravelTogetherUnderOneFlag(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere("orders", 1)
	p := f.producer(f.config("orders"))
	all := messages("orders", 10)
	for i := range 5 {
		all[2*i].Body = []byte(strings.Repeat("x", 5000))
	}
	for i, r := range p.Send(t.Context(), "orders", all) {
		if r.Err != nil || r.MessageID != all[i].ID {
			t.Errorf("message %d: %+v", i, r)
		}
	}
	requests := f.brokers["a"].sends()
	if len(requests) != 2 || len(requests[0].ids) != 5 || requests[0].sysFlag != "0" || requests[1].sysFlag == "0" || requests[1].ids[4] != all[8].ID {
		t.Errorf("requests: %+v", requests)
	}
}

func TestANamespacePrefixesTheTopic(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere("ns%orders", 1)
	cfg := f.config("orders")
	cfg.Connection.Namespace = "ns"
	send(t, f.producer(cfg), "orders", 1)
	if got := f.brokers["a"].sends()[0].topic; got != "ns%orders" {
		t.Errorf("sent to %q", got)
	}
}

func TestPackKeepsToTheLimits(t *testing.T) {
	sized := func(sizes ...int) []entry {
		all := make([]entry, len(sizes))
		for i, n := range sizes {
			all[i] = entry{message: &driver.Message{ID: "i", Body: make([]byte, n)}, result: &driver.SendResult{}}
		}
		return all
	}
	for _, c := range []struct {
		name          string
		compressAbove int
		sizes, want   []int
	}{
		{"small ones go together", 0, []int{1, 2, 3}, []int{3}},
		{"bytes cut a batch", 0, []int{batchBytes / 2, batchBytes/2 - 1000, 1000}, []int{2, 1}},
		{"a message above the limit goes alone", 0, []int{1, 2 * batchBytes, 1}, []int{1, 1, 1}},
		{"what is compressed goes together too", 100, []int{1, 101, 2, 100, 3 << 20}, []int{3, 2}},
		{"the count cuts a batch", 0, make([]int, batchMessages+1), []int{batchMessages, 1}},
		{"nothing", 0, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []int
			for _, r := range pack(sized(c.sizes...), c.compressAbove) {
				got = append(got, len(r.entries))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("requests of %v messages, want %v", got, c.want)
			}
		})
	}
}

func TestWhatFitsTheLimitsGoesInOneRequest(t *testing.T) {
	limits := (&producer{}).Limits()
	all := make([]entry, limits.Messages)
	for i := range all {
		m := &driver.Message{ID: "0123456789", Tag: "tag", Keys: []string{"key"}, Properties: map[string]string{"name": "value"}}
		m.Body = make([]byte, limits.Bytes/limits.Messages-int(m.Bytes()))
		all[i] = entry{message: m}
	}
	requests := pack(all, 0)
	size := 0
	for _, m := range requests[0].messages {
		size += m.Bytes()
	}
	if len(requests) != 1 || size > batchBytes {
		t.Errorf("%d requests, the first has %d bytes", len(requests), size)
	}
}
