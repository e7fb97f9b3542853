// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package batching

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeProducer is a small working producer: it stores messages in order, takes time for each request, and can fail or hang.
type fakeProducer struct {
	mu       sync.Mutex
	stored   map[string][]string // ids by topic, in order
	requests [][]string
	atOnce   map[string]int
	most     int
	limits   driver.BatchLimits
	queues   int
	takes    time.Duration
	// refuse answers for a request as a whole; on may panic or wait.
	refuse func(ids []string) error
	on     func(ctx context.Context, ids []string)
	short  bool // answers too few results
}

func newProducer() *fakeProducer {
	return &fakeProducer{stored: map[string][]string{}, atOnce: map[string]int{}, limits: driver.BatchLimits{Messages: 100, Bytes: 1 << 20}, takes: time.Second, queues: 4}
}

func (p *fakeProducer) Lane(_, key string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return driver.Shard(key, p.queues)
}

func (p *fakeProducer) Limits() driver.BatchLimits { return p.limits }
func (p *fakeProducer) Err() error                 { return nil }
func (p *fakeProducer) Recall(context.Context, string) (string, error) {
	return "", driver.Errorf(driver.Unsupported, "", "a fake")
}
func (p *fakeProducer) Close(context.Context) error {
	return nil
}

func (p *fakeProducer) Send(ctx context.Context, topic string, msgs []*driver.Message) []driver.SendResult {
	names := make([]string, len(msgs))
	for i, m := range msgs {
		names[i] = m.ID
	}
	p.mu.Lock()
	p.requests = append(p.requests, names)
	p.atOnce[topic]++
	p.most = max(p.most, p.atOnce[topic])
	on, takes, refuse := p.on, p.takes, p.refuse
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.atOnce[topic]--
		p.mu.Unlock()
	}()
	if on != nil {
		on(ctx, names)
	}
	timer := time.NewTimer(takes)
	defer timer.Stop()
	var err error
	select {
	case <-timer.C:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil && refuse != nil {
		err = refuse(names)
	}
	return p.store(topic, msgs, err)
}

func (p *fakeProducer) store(topic string, msgs []*driver.Message, err error) []driver.SendResult {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]driver.SendResult, len(msgs))
	for i, m := range msgs {
		out[i] = driver.SendResult{MessageID: m.ID, Queue: -1, Offset: -1, Err: err}
		if err == nil {
			out[i].Broker, out[i].Queue, out[i].Offset = "b", 0, int64(len(p.stored[topic]))
			p.stored[topic] = append(p.stored[topic], m.ID)
		}
	}
	if p.short {
		return out[1:]
	}
	return out
}

func (p *fakeProducer) sent() [][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

func (p *fakeProducer) topicIDs(topic string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.stored[topic])
}

type watcher struct {
	mu                        sync.Mutex
	requests, refused, panics int
	callers                   []int
}

func (w *watcher) RequestSent(_, callers int, _ time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests++
	w.callers = append(w.callers, callers)
}

func (w *watcher) Refused(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused += n
}

func (w *watcher) DriverPanicked() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.panics++
}

type rig struct {
	*Queue
	p    *fakeProducer
	seen *watcher
	wg   sync.WaitGroup
}

func newRig(t testing.TB, s Settings) *rig {
	t.Helper()
	if s.FullInAir == 0 {
		s.FullInAir = 1 // tests of one rule at a time; whole requests have their own
	}
	g := &rig{p: newProducer(), seen: &watcher{}}
	g.Queue = NewQueue(g.p, Options{Settings: s, Observer: g.seen})
	t.Cleanup(func() { g.Close(); g.wg.Wait() })
	return g
}

func inTime(t *testing.T, fn func(*testing.T)) {
	t.Helper()
	synctest.Test(t, fn)
}

// messages makes n messages with ids name-0 to name-(n-1) and bodies of size bytes.
func messages(name string, n, size int) []*driver.Message {
	out := make([]*driver.Message, n)
	for i := range out {
		out[i] = &driver.Message{ID: fmt.Sprintf("%s-%d", name, i), Body: make([]byte, size)}
	}
	return out
}

// begin starts a Send in a goroutine, and returns when it waits for the driver or in the queue.
func (g *rig) begin(ctx context.Context, topic string, msgs []*driver.Message) *[]driver.SendResult {
	out := new([]driver.SendResult)
	g.wg.Go(func() { *out = g.Send(ctx, topic, msgs) })
	synctest.Wait()
	return out
}

func wantStored(t testing.TB, rs []driver.SendResult, msgs []*driver.Message) {
	t.Helper()
	if len(rs) != len(msgs) {
		t.Fatalf("%d results for %d messages", len(rs), len(msgs))
	}
	for i, r := range rs {
		if r.Err != nil || r.MessageID != msgs[i].ID || r.Offset < 0 {
			t.Errorf("message %d (%s): %+v, want it stored", i, msgs[i].ID, r)
		}
	}
}

func wantReason(t testing.TB, rs []driver.SendResult, n int, reason driver.Reason) {
	t.Helper()
	if len(rs) != n {
		t.Fatalf("%d results, want %d", len(rs), n)
	}
	for i, r := range rs {
		if r.Err == nil || driver.ReasonOf(r.Err) != reason || errors.Is(r.Err, errUndecided) {
			t.Errorf("result %d: %v, want reason %s", i, r.Err, reason)
		}
	}
}

func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func wantSizes(t testing.TB, got [][]string, sizes ...int) {
	t.Helper()
	var have []int
	for _, r := range got {
		have = append(have, len(r))
	}
	if !slices.Equal(have, sizes) {
		t.Errorf("requests of %v messages, want %v", have, sizes)
	}
}
