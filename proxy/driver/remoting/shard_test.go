// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

func keyed(n int, key string) []*driver.Message {
	all := messages("orders", n)
	for i := range all {
		all[i].ShardingKey = key
	}
	return all
}

// keyAt is a key whose place among n queues is want.
func keyAt(want, n int) string {
	for i := 0; ; i++ {
		if key := fmt.Sprint("key-", i); driver.Shard(key, n) == want {
			return key
		}
	}
}

func TestAShardingKeyStaysOnItsQueueWhateverItsBrokerAnswers(t *testing.T) {
	for _, c := range []struct {
		name  string
		code  int
		times int
		want  driver.Reason // "" = stored
	}{
		{"busy once", wire.CodeSystemBusy, 1, ""},
		{"busy for good", wire.CodeSystemBusy, 99, driver.Throttled},
		{"a system error for good", wire.CodeSystemError, 99, driver.Unavailable},
		{"read-only", wire.CodeNoPermission, 99, driver.Unauthorized},
		{"a queue that is gone", wire.CodeInvalidParameter, 99, driver.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeaks(t)
			f := newFakeRocket(t, 1, "a", "b")
			f.everywhere("orders", 2)
			p := f.producer(f.config("orders"))
			a, b := f.brokers["a"], f.brokers["b"]
			left := c.times
			b.replying(func(*wire.Command, []string) (*wire.Command, bool) {
				if left--; left < 0 {
					return nil, false
				}
				return &wire.Command{Code: c.code, Remark: "no"}, true
			})
			r := p.Send(t.Context(), "orders", keyed(1, keyAt(3, 4)))[0] // a:0 a:1 b:0 b:1
			switch {
			case c.want != "":
				wantReason(t, "send", r.Err, c.want)
			case r.Err != nil || r.Broker != "b" || r.Queue != 1:
				t.Errorf("got %+v, want it in queue 1 of b", r)
			}
			if n := len(a.sends()); n != 0 {
				t.Errorf("the other broker got %d requests", n)
			}
		})
	}
}

func TestAShardingKeyFailsWhileItsBrokerIsAwayAndTheOthersGoOn(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a", "b")
	f.everywhere("orders", 2)
	p := f.producer(f.config("orders"))
	f.brokers["b"].stop()
	all := slices.Concat(keyed(1, keyAt(3, 4)), keyed(1, keyAt(0, 4)), messages("orders", 1))
	results := p.Send(within(t, 2*time.Second), "orders", all)
	if !driver.Retryable(results[0].Err) || results[1].Err != nil || results[2].Err != nil {
		t.Errorf("got %v, %v, %v; want only the first to fail, and to be retryable", results[0].Err, results[1].Err, results[2].Err)
	}
	f.brokers["b"].start(f.brokers["b"].address())
	eventually(t, 10*time.Second, func() error {
		r := p.Send(t.Context(), "orders", all[:1])[0]
		if r.Err == nil && r.Broker != "b" {
			t.Errorf("when it is back: %+v", r)
		}
		return r.Err
	})
}

func TestABadMessageOfABatchKeepsTheLaterOnesOfItsKeyBackOnly(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere("orders", 1)
	p := f.producer(f.config("orders"))
	all := make([]*driver.Message, 0, 60)
	for range 20 {
		all = append(all, slices.Concat(keyed(1, "x"), keyed(1, "y"), messages("orders", 1))...)
	}
	bad := all[30].ID // of x
	f.brokers["a"].replying(func(_ *wire.Command, ids []string) (*wire.Command, bool) {
		return &wire.Command{Code: wire.CodeMessageIllegal, Remark: "the message is illegal"}, slices.Contains(ids, bad)
	})
	for i, r := range p.Send(t.Context(), "orders", all) {
		switch {
		case i == 30:
			wantReason(t, "the bad one", r.Err, driver.InvalidMessage)
		case i > 30 && all[i].ShardingKey == "x":
			wantReason(t, "one behind it", r.Err, driver.EarlierFailed)
			if f.brokers["a"].has(all[i].ID) != 0 {
				t.Errorf("message %d is stored all the same", i)
			}
		case r.Err != nil:
			t.Errorf("message %d of key %q: %v", i, all[i].ShardingKey, r.Err)
		}
	}
	if n := len(f.brokers["a"].sends()); n > 20 {
		t.Errorf("%d requests for 60 messages", n)
	}
}

func TestCompressedAndOtherMessagesOfAShardKeepTheirOrder(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere("orders", 4)
	p := f.producer(f.config("orders"))
	all := keyed(12, "x")
	for i := range all {
		if i%5 == 0 {
			all[i].Body = []byte(strings.Repeat("x", 5000))
		}
	}
	for i, r := range p.Send(t.Context(), "orders", all) {
		if r.Err != nil {
			t.Errorf("message %d: %v", i, r.Err)
		}
	}
	var got, want []string
	for _, s := range f.brokers["a"].sends() {
		got = append(got, s.ids...)
		if queue := strconv.Itoa(driver.Shard("x", 4)); s.queue != queue {
			t.Errorf("queue %s, want %s", s.queue, queue)
		}
	}
	for _, m := range all {
		want = append(want, m.ID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("stored as %v, want %v", got, want)
	}
}

func TestPackGathersByShard(t *testing.T) {
	queues := make([]wire.Queue, 2)
	var entries []entry
	for i := range 30 {
		e := entry{message: &driver.Message{ID: strconv.Itoa(i)}}
		if i%3 > 0 {
			e.shard = &queues[i%3-1]
		}
		entries = append(entries, e)
	}
	requests := pack(entries, 0)
	if len(requests) != 3 {
		t.Fatalf("%d requests, want one for each queue and one for the others", len(requests))
	}
	for _, r := range requests {
		if len(r.entries) != 10 || len(r.messages) != 10 || r.entries[0].shard != r.shard || r.entries[9].shard != r.shard {
			t.Errorf("a request of %d messages", len(r.entries))
		}
	}
}

func TestALaneIsAQueueOfTheRoute(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a", "b")
	f.everywhere("orders", 3)
	p := f.producer(f.config("orders"))
	for _, key := range []string{"x", "y", "order-1"} {
		if got, want := p.Lane("orders", key), driver.Shard(key, 6); got != want {
			t.Errorf("lane of %q: %d, want %d", key, got, want)
		}
	}
	if got := p.Lane("unknown", "x"); got != 0 {
		t.Errorf("lane in a topic that nobody has asked for: %d", got)
	}
}
