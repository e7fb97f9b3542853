// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// cluster is a use of the fakes' cluster that ends with the test.
func (f *fakeRocket) cluster() *cluster {
	cl := f.driver.acquire(f.connection())
	f.t.Cleanup(cl.release)
	return cl
}

func TestOneQuestionIsAskedForManyWhoWait(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere("orders", 4)
	cl := f.cluster()
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if r, err := cl.route(within(t, 5*time.Second), "orders"); err != nil || len(r.Writable("orders")) != 4 {
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
	if n := f.nameServers[0].asked(codeRoute); n > 3 {
		t.Errorf("%d questions for one route", n)
	}
}

func TestADeadNameServerIsPassedBy(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 3, "a")
	f.everywhere("orders", 4)
	cl := f.cluster()
	f.nameServers[0].stop()
	f.nameServers[2].stop()
	if _, err := cl.route(within(t, 5*time.Second), "orders"); err != nil {
		t.Error(err)
	}
	f.nameServers[1].stop()
	_, err := cl.route(within(t, 5*time.Second), "bills")
	wantReason(t, "without any name server", err, driver.Unavailable)
	if _, err := cl.route(within(t, 5*time.Second), "orders"); err != nil {
		t.Errorf("a known route must go on: %v", err)
	}
	cl.stale("orders")
	if _, err := cl.route(within(t, 5*time.Second), "orders"); err != nil {
		t.Errorf("a stale one too: %v", err)
	}
}

func TestAStaleRouteIsAskedForAgainAndNotTooOften(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a", "b")
	f.topic("orders", fakeShare{broker: "a", queues: 1, perm: 6})
	cl := f.cluster()
	ask := func() []wire.Queue {
		r, err := cl.route(within(t, 5*time.Second), "orders")
		if err != nil {
			t.Fatal(err)
		}
		return r.Writable("orders")
	}
	ask()
	f.topic("orders", fakeShare{broker: "b", queues: 1, perm: 6})
	began := time.Now()
	eventually(t, 5*time.Second, func() error {
		cl.stale("orders")
		if q := ask(); q[0].Broker != "b" {
			return fmt.Errorf("still at broker %s", q[0].Broker)
		}
		return nil
	})
	if n, most := f.nameServers[0].asked(codeRoute), 2+int(time.Since(began)/askAgain); n > most {
		t.Errorf("%d questions, want at most %d", n, most)
	}
	if a, err := cl.address(within(t, time.Second), "orders", "b"); err != nil || a != f.brokers["b"].address() {
		t.Errorf("%q, %v", a, err)
	}
	_, err := cl.address(within(t, time.Second), "orders", "a")
	wantReason(t, "the address of a broker that has gone", err, driver.Unavailable)
}

func TestATopicThatNameServersForgotKeepsItsRoute(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.driver.periods.tick, f.driver.periods.idle = 2*time.Millisecond, time.Millisecond
	f.everywhere("orders", 1)
	p := f.producer(f.config("orders"))
	f.mu.Lock()
	delete(f.topics, "orders")
	f.mu.Unlock()
	eventually(t, 10*time.Second, func() error {
		if err := p.Err(); driver.ReasonOf(err) != driver.TopicNotFound || err == nil {
			return fmt.Errorf("Err() = %w", err)
		}
		return nil
	})
	send(t, p, "orders", 1)
}

func TestOnlyTopicsInUseAreRefreshedAndOthersForgotten(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.driver.periods = periods{tick: 2 * time.Millisecond, check: time.Hour, checkAgain: time.Hour, busy: time.Millisecond, idle: time.Millisecond, old: time.Hour, forget: 50 * time.Millisecond}
	f.everywhere("used", 1)
	f.everywhere("asked", 1)
	cl := f.cluster()
	cl.use("used")
	for _, topic := range []string{"used", "asked"} {
		if _, err := cl.route(within(t, time.Second), topic); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 10*time.Second, func() error {
		if cl.knows("asked") {
			return errors.New("a topic that nobody uses is remembered")
		}
		return nil
	})
	if !cl.knows("used") {
		t.Error("a topic in use was forgotten")
	}
	f.topic("used", fakeShare{broker: "a", queues: 7, perm: 6})
	eventually(t, 10*time.Second, func() error {
		if r, err := cl.route(within(t, time.Second), "used"); err != nil || len(r.Writable("used")) != 7 {
			return fmt.Errorf("it was not refreshed: %w", err)
		}
		return nil
	})
	cl.unuse("used")
	eventually(t, 10*time.Second, func() error {
		if cl.knows("used") {
			return errors.New("a topic out of use is remembered")
		}
		return nil
	})
}

func TestAWaiterLeavesWithItsContextAndTheQuestionGoesOn(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 0, "a")
	release := make(chan struct{})
	f.nameServers = append(f.nameServers, newFakeServer(t, func(cmd *wire.Command) *wire.Command {
		<-release
		return f.nameServer(cmd)
	}))
	f.everywhere("orders", 1)
	cl := f.cluster()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := cl.route(ctx, "orders")
	wantReason(t, "route", err, driver.Timeout)
	close(release)
	if _, err := cl.route(within(t, 5*time.Second), "orders"); err != nil {
		t.Error(err)
	}
	if n := f.nameServers[0].asked(codeRoute); n != 1 {
		t.Errorf("%d questions", n)
	}
}

func TestTheLastReleaseEndsQuestionsAtOnce(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 0, "a")
	f.nameServers = append(f.nameServers, newFakeServer(t, func(*wire.Command) *wire.Command { return nil }))
	cl := f.driver.acquire(f.connection())
	answer := make(chan error)
	go func() {
		_, err := cl.route(context.Background(), "orders")
		answer <- err
	}()
	eventually(t, 5*time.Second, func() error {
		if f.nameServers[0].asked(codeRoute) == 0 {
			return errors.New("nothing was asked")
		}
		return nil
	})
	began := time.Now()
	cl.release()
	wantReason(t, "a question under way", <-answer, driver.Closed)
	if took := time.Since(began); took > time.Second {
		t.Errorf("the release took %v", took)
	}
	_, err := cl.route(t.Context(), "orders")
	wantReason(t, "a question afterwards", err, driver.Closed)
}
