// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func mustClose(t testing.TB, c interface{ Close(context.Context) error }) {
	t.Helper()
	if err := c.Close(within(t, 20*time.Second)); err != nil {
		t.Errorf("close: %v", err)
	}
}

func messages(topic string, n int) []*driver.Message {
	all := make([]*driver.Message, n)
	for i := range all {
		id := uuid.NewString()
		all[i] = &driver.Message{ID: id, Topic: topic, Body: []byte("body of " + id)}
	}
	return all
}

// send stores n messages in one call.
func send(t testing.TB, p driver.Producer, topic string, n int) []driver.SendResult {
	t.Helper()
	results := p.Send(within(t, 20*time.Second), topic, messages(topic, n))
	for i, r := range results {
		if r.Err != nil {
			t.Fatalf("message %d of %d: %v", i, n, r.Err)
		}
	}
	return results
}

func wantReason(t testing.TB, what string, err error, want driver.Reason) {
	t.Helper()
	if err == nil || driver.ReasonOf(err) != want {
		t.Errorf("%s: got %v, want reason %s", what, err, want)
	}
}

// eventually asks until check is nil.
func eventually(t testing.TB, limit time.Duration, check func() error) {
	t.Helper()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for end := time.Now().Add(limit); ; <-again.C {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still after %v: %v", limit, err)
		}
	}
}

// only is the driver's only cluster.
func (d *Driver) only(t testing.TB) *cluster {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, cl := range d.clusters {
		return cl
	}
	t.Fatal("there is no cluster")
	return nil
}

// knows reports whether topic has a route.
func (cl *cluster) knows(name string) bool {
	cl.state.Lock()
	defer cl.state.Unlock()
	t := cl.state.topics[name]
	return t != nil && t.view != nil
}

// writers send one message after the other, from several goroutines; every error fails the test.
type writers struct {
	end   context.CancelFunc
	group sync.WaitGroup

	mu     sync.Mutex
	stored map[string]int // by broker
}

func startWriters(t testing.TB, p driver.Producer, topic string, n int) *writers {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &writers{end: cancel, stored: map[string]int{}}
	for range n {
		w.group.Go(func() {
			for ctx.Err() == nil {
				limit, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				r := p.Send(limit, topic, messages(topic, 1))[0]
				cancel()
				if r.Err != nil {
					t.Errorf("send: %v", r.Err)
				}
				w.mu.Lock()
				w.stored[r.Broker]++
				w.mu.Unlock()
			}
		})
	}
	t.Cleanup(w.stop)
	return w
}

func (w *writers) stop() {
	w.end()
	w.group.Wait()
}

// since counts what broker stored since forget.
func (w *writers) since(broker string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stored[broker]
}

func (w *writers) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.stored)
}
