// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// followed is a consumer whose route changes. The keeper asks for the route as often as it may, and each fetch looks at what it knows.
type followed struct {
	t       *testing.T
	f       *fakeRocket
	brokers map[string]*popBroker
	c       *consumer
}

func follow(t *testing.T, shares ...fakeShare) *followed {
	t.Helper()
	f := newFakeRocket(t, 1, "a", "b")
	f.driver.periods.tick, f.driver.periods.busy = 2*time.Millisecond, time.Millisecond
	f.topic("t", shares...)
	r := &followed{t: t, f: f, brokers: f.popping()}
	r.c = f.consumer(f.consumerConfig("t", ""))
	return r
}

// fetch takes what comes within d, if anything does.
func (r *followed) fetch(d time.Duration) []*driver.Received {
	r.t.Helper()
	r.c.state.Lock()
	r.c.state.looked = time.Time{}
	r.c.state.Unlock()
	ctx, cancel := context.WithTimeout(r.t.Context(), d)
	defer cancel()
	rs, err := r.c.Fetch(ctx, fetchOf(32, time.Minute))
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		r.t.Fatalf("fetch: %v", err)
	}
	return rs
}

// drain puts three messages at broker, takes them and those of left, which are there already, and acknowledges all.
func (r *followed) drain(what, broker string, left map[string]bool) {
	r.t.Helper()
	b := r.brokers[broker]
	ids := b.put(3, "")
	maps.Copy(ids, left)
	before := b.ackedCount()
	var got []*driver.Received
	eventually(r.t, 20*time.Second, func() error {
		if got = append(got, r.fetch(100*time.Millisecond)...); len(got) < len(ids) {
			return fmt.Errorf("%s: %d of %d messages came", what, len(got), len(ids))
		}
		return nil
	})
	same(r.t, ids, got)
	acknowledge(r.t, r.c, got...)
	if n := b.ackedCount() - before; n != len(ids) {
		r.t.Errorf("%s: broker %s took %d of %d acknowledgements", what, broker, n, len(ids))
	}
}

// leaves waits until broker is asked no more, while the other one is.
func (r *followed) leaves(broker, other string) {
	r.t.Helper()
	gone, stays := r.f.brokers[broker], r.f.brokers[other]
	eventually(r.t, 20*time.Second, func() error {
		asked, turns := gone.asked(codePop)+gone.asked(codeNotification), stays.asked(codePop)
		r.fetch(300 * time.Millisecond)
		if n := stays.asked(codePop) - turns; n < 5 {
			return fmt.Errorf("broker %s was asked %d times", other, n)
		}
		if n := gone.asked(codePop) + gone.asked(codeNotification) - asked; n > 0 {
			return fmt.Errorf("broker %s, which the route does not name any more, was asked %d times", broker, n)
		}
		return nil
	})
}

func TestAConsumerFollowsBrokersThatComeGoAndChangeAddress(t *testing.T) {
	noLeaks(t)
	a, readOnly := fakeShare{broker: "a", queues: 1, perm: 6}, fakeShare{broker: "b", queues: 1, perm: 4}
	r := follow(t, a)
	r.drain("before anything changes", "a", nil)

	// b comes, does not know the group, and makes none by itself.
	var made atomic.Bool
	r.brokers["b"].replying(func(cmd *wire.Command) (*wire.Command, bool) {
		switch cmd.Code {
		case codePop, codeNotification:
			return &wire.Command{Code: wire.CodeGroupNotExist, Remark: "no such group"}, !made.Load()
		case codeCreateGroup:
			made.Store(true)
		}
		return nil, false
	})
	r.f.topic("t", a, readOnly)
	r.drain("a broker that came, read-only", "b", nil)
	if n := r.f.brokers["b"].asked(codeCreateGroup); n != 1 {
		t.Errorf("the group was made %d times at the broker that came", n)
	}
	r.drain("beside it", "a", nil)

	r.f.brokers["a"].stop()
	r.drain("while the other broker is away", "b", nil)
	r.f.brokers["a"].start("127.0.0.1:0")
	r.drain("a broker at another address", "a", nil)

	r.f.topic("t", a)
	r.leaves("b", "a")
	left := r.brokers["b"].put(2, "")
	r.drain("when the other broker has gone", "a", nil)
	r.f.topic("t", a, readOnly)
	r.drain("a broker that is back", "b", left)
}

func TestAPairFollowsItsBroker(t *testing.T) {
	at := func(addresses ...string) []wire.Queue {
		var all []wire.Queue
		for i := 0; i < len(addresses); i += 2 {
			all = append(all, wire.Queue{Topic: "t", Broker: addresses[i], Address: addresses[i+1]})
		}
		return all
	}
	later := time.Now().Add(time.Hour)
	for _, c := range []struct {
		name   string
		pair   pair // of source 1 at broker a, address 1
		route  []wire.Queue
		kept   bool
		wanted pair
	}{
		{"it stays, and what failed is left alone", pair{retryAt: later}, at("a", "1"), true, pair{address: "1", retryAt: later}},
		{"another address is asked at once", pair{retryAt: later}, at("a", "2"), true, pair{address: "2"}},
		{"one that is gone is forgotten", pair{}, at("b", "3"), false, pair{}},
		{"one that is gone waits for its pop", pair{pops: 1}, at("b", "3"), true, pair{address: "1", pops: 1, gone: true}},
		{"one that is gone waits for its question", pair{parked: true}, at("b", "3"), true, pair{address: "1", parked: true, gone: true}},
		{"one that is back counts again", pair{pops: 1, gone: true}, at("a", "1", "b", "3"), true, pair{address: "1", pops: 1}},
		{"a route without brokers", pair{}, nil, false, pair{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := c.pair
			p.source, p.broker, p.address = 1, "a", "1"
			other := &pair{source: 0, broker: "a", address: "1"}
			con := &consumer{sources: make([]source, 2)}
			con.state.pairs = []*pair{other, &p}
			con.updatePairs(1, c.route, time.Now())
			s := &con.state
			if kept := s.pair(1, "a") == &p; kept != c.kept {
				t.Errorf("kept: %v", kept)
			}
			c.wanted.source, c.wanted.broker = 1, "a"
			if c.kept && p != c.wanted {
				t.Errorf("it is %+v, want %+v", p, c.wanted)
			}
			if came := s.pair(1, "b"); (came != nil) != (len(c.route) > 0 && c.route[len(c.route)-1].Broker == "b") || came != nil && came.address != "3" {
				t.Errorf("broker b: %+v", came)
			}
			if s.pair(0, "a") != other || other.gone {
				t.Error("another topic's pair was touched")
			}
		})
	}
}
