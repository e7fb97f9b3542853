// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testKey = RandomKey()

// rig is a window over a fakeBroker, closed at the end of its test.
type rig struct {
	*Window
	broker *fakeBroker
	seen   *watcher
}

func newRig(t testing.TB, s Settings, change ...func(*Options)) *rig {
	t.Helper()
	sealer, err := NewSealer(testKey)
	if err != nil {
		t.Fatal(err)
	}
	g := &rig{broker: newBroker(), seen: newWatcher()}
	o := Options{
		Settings: s, Origin: Origin{ConsumerUID: "uid-1", Host: "host-a", Incarnation: "inc-1"},
		Capabilities: driver.Capabilities{MaxLease: 12 * time.Hour}, Sealer: sealer, Observer: g.seen,
	}
	for _, f := range change {
		f(&o)
	}
	g.Window = NewWindow(g.broker, o)
	t.Cleanup(g.Close)
	return g
}

// inTime runs fn with a clock that passes when everything waits.
func inTime(t *testing.T, fn func(*testing.T)) {
	t.Helper()
	synctest.Test(t, fn)
}

func (g *rig) attach(t testing.TB, o ReceiverOptions) *Receiver {
	t.Helper()
	r, err := g.Attach(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// receive takes and writes exactly n deliveries, waiting up to a minute for each.
func receive(t testing.TB, r *Receiver, n int) []Delivery {
	t.Helper()
	var out []Delivery
	for len(out) < n {
		ds := r.Take(n-len(out), 0)
		if len(ds) == 0 {
			select {
			case <-r.Ready():
			case <-time.After(time.Minute):
				t.Fatalf("%d deliveries arrived within a minute, want %d", len(out), n)
			}
			continue
		}
		r.Written(ds)
		out = append(out, ds...)
	}
	return out
}

// takeAll takes and writes what is there now.
func takeAll(r *Receiver) []Delivery {
	synctest.Wait()
	ds := r.Take(0, 0)
	r.Written(ds)
	return ds
}

func tokens(ds []Delivery) []string {
	out := make([]string, len(ds))
	for i := range ds {
		out[i] = ds[i].Token
	}
	return out
}

func ids(ds []Delivery) []string {
	out := make([]string, len(ds))
	for i := range ds {
		out[i] = ds[i].ID
	}
	return out
}

func (g *rig) ack(t testing.TB, ds ...Delivery) {
	t.Helper()
	for i, r := range g.Ack(t.Context(), tokens(ds)) {
		if r.Outcome != OK {
			t.Fatalf("ack of %s: %v (%s), want OK", ds[i].ID, r.Outcome, r.Detail)
		}
	}
}

func wantOutcome(t testing.TB, what string, r Result, o Outcome) {
	t.Helper()
	if r.Outcome != o {
		t.Errorf("%s: %v (%s), want %v", what, r.Outcome, r.Detail, o)
	}
	if (r.Outcome == OK) != (r.Detail == "") {
		t.Errorf("%s: outcome %v with detail %q; only OK has none", what, r.Outcome, r.Detail)
	}
}

func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
