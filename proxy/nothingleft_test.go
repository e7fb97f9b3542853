// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
)

// TestD11LivesAndStreamsOnARealBrokerLeaveNothing is tests.md D11 on our own client and a real RocketMQ: goroutines and sockets are back at once when the last
// object is gone, the heap within 1 % and 2 MiB, and goleak, which the rig calls at its end, has no exception. LONG=1 has the full numbers.
func TestD11LivesAndStreamsOnARealBrokerLeaveNothing(t *testing.T) {
	broker := rocketmq.StartForTest(t, rocketmq.Options{})
	lives, calls := 50, 500
	if os.Getenv("LONG") == "1" {
		lives, calls = 1000, 10000
	}
	const topic = "d11"
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for _, name := range []string{topic, "d11-empty"} {
		if err := broker.CreateTopic(ctx, name, 4, nil); err != nil {
			t.Fatal(err)
		}
	}
	r := world{Rig: proxytest.New(t, proxytest.Options{
		Driver:     remoting.New(logr.Discard()),
		Connection: driver.Connection{NameServers: broker.NameServers(), AllowAddress: func(string) error { return nil }},
	})}
	r.topic = func(name string) string {
		if strings.HasSuffix(name, "streams") {
			return "d11-empty"
		}
		return topic
	}
	r.forget = func(name string) {
		if err := broker.DeleteGroup(ctx, proxytest.Namespace+"_"+name); err != nil {
			t.Error(err)
		}
	}
	cycles(ctx, t, r, "warm", 40)
	streams(ctx, t, r, "warm-streams", 500)
	before, known := settled(t, r.Rig), stacks()

	began := time.Now()
	cycles(ctx, t, r, "c", lives)
	atOnce(t, "the last life", before, known)
	streams(ctx, t, r, "streams", calls)
	atOnce(t, "the last stream's Consumer", before, known)
	took := time.Since(began)
	var after size
	defer func() {
		t.Logf("%d lives and %d streams in %s: before %+v, after %+v", lives, calls, took.Round(time.Millisecond), before, after)
	}()
	r.Eventually("goroutines, descriptors and heap are back within 1 % and a constant", func() bool {
		after = measure(t, r.Rig)
		return after.goroutines <= before.goroutines+before.goroutines/100 && after.files <= before.files+before.files/100 &&
			after.heap <= before.heap+before.heap/100+2<<20
	})
}

// settled measures when the streams that have ended have left the proxy's own connections.
func settled(t *testing.T, r *proxytest.Rig) size {
	t.Helper()
	least := measure(t, r)
	for range 20 {
		time.Sleep(50 * time.Millisecond) // nothing tells that the last of them is gone
		if now := measure(t, r); now.goroutines < least.goroutines {
			least = now
		}
	}
	return least
}

// owners are the packages whose goroutines are an object's own.
var owners = []string{"driver/remoting", "registry", "delivery", "batching", "dedup", "retry", "ratelimit"}

// atOnce demands that nothing of an object is left, now and not soon: no socket, and no goroutine beside those of before. The driver has none in any state:
// its Close joins them. Whoever closes it tells so from a goroutine of its own, which may have a few instructions to go; one that waits is left.
func atOnce(t *testing.T, after string, before size, known map[string]string) {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) > before.files {
		t.Errorf("%d descriptors are open after %s, before it were %d", len(files), after, before.files)
	}
	for id, stack := range stacks() {
		owner := slices.IndexFunc(owners, func(of string) bool { return strings.Contains(stack, "rocketmq-proxy-operator/proxy/"+of) })
		if owner < 0 || owner > 0 && (known[id] != "" || runs(stack)) {
			continue
		}
		t.Errorf("a goroutine of %s is left after %s:\n%s", owners[owner], after, stack)
	}
}

// stacks are those of all goroutines, by "goroutine 1".
func stacks() map[string]string {
	text := make([]byte, 16<<20)
	text = text[:runtime.Stack(text, true)]
	all := make(map[string]string)
	for stack := range strings.SplitSeq(string(text), "\n\n") {
		id, _, _ := strings.Cut(stack, " [")
		all[id] = stack
	}
	return all
}

// runs reports whether a goroutine does not wait, or only for a lock.
func runs(stack string) bool {
	_, state, _ := strings.Cut(stack, " [")
	for _, way := range []string{"run", "sync.Mutex.Lock", "sync.RWMutex"} {
		if strings.HasPrefix(state, way) {
			return true
		}
	}
	return false
}
