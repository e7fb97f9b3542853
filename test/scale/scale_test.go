// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package scale

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
)

// The project's aims for 5,000 Producers and 5,000 Consumers on one host, and what the short form judges instead.
const (
	fullPairs  = 5000
	shortPairs = 200
	// startLimit is for an operator that starts with objects which were Ready before, and for a few hundred new ones. Ten thousand new ones cost the API
	// server two writes each, its finalizer and its status, together 10 ms of a processor: on the two cores that all of this test's processes share, that
	// alone is most of a minute. freshLimit is for them, and freshCPU for the operator's own part, for each object.
	startLimit    = 60 * time.Second
	freshLimit    = 3 * time.Minute
	freshCPU      = 6 * time.Millisecond
	residentLimit = 500 << 20
	// goroutineLimit is for all objects together, beyond the idle operator.
	goroutineLimit = 100
	// liveLimit is for one object: 10,000 of them, and three times that before the collector runs, must stay below residentLimit.
	liveLimit = 14 << 10
)

// pairsWanted is how many Producers and how many Consumers are declared; SCALE_PAIRS overrides it.
func pairsWanted(t *testing.T) int {
	t.Helper()
	if text := os.Getenv("SCALE_PAIRS"); text != "" {
		n, err := strconv.Atoi(text)
		must(t, err)
		return n
	}
	if long() {
		return fullPairs
	}
	return shortPairs
}

// trial is one run: an operator before, with, and after so many pairs of objects.
type trial struct {
	*cluster
	t       *testing.T
	pairs   int
	driver  v1alpha1.DriverName
	options localenv.OperatorOptions
	at      string // where the operator serves its profiles
	empty   cost
	watch   *audience
}

// TestDeclaredObjectsCostLittleWithoutRocketMQ tells what the operator and the API server take of what the next test measures.
func TestDeclaredObjectsCostLittleWithoutRocketMQ(t *testing.T) {
	if !long() {
		t.Skip("LONG=1 runs it; the short form is on a real RocketMQ only")
	}
	newTrial(t, v1alpha1.DriverAuto, nil).run(func(int) error { return nil })
}

// TestDeclaredObjectsCostLittleOnRocketMQ: the first start meets consumer groups that do not exist yet, the second one groups that do.
func TestDeclaredObjectsCostLittleOnRocketMQ(t *testing.T) {
	broker := rocketmq.StartForTest(t, rocketmq.Options{})
	newTrial(t, v1alpha1.DriverRemoting, broker.NameServers()).run(func(i int) error {
		if err := broker.CreateTopic(t.Context(), idleTopic(i), 8, nil); err != nil {
			return err
		}
		if err := broker.CreateTopic(t.Context(), loneTopic(i), 4, nil); err != nil {
			return err
		}
		return broker.CreateTopic(t.Context(), busyTopic(i), 4, nil)
	})
}

func newTrial(t *testing.T, driver v1alpha1.DriverName, nameServers []string) *trial {
	t.Helper()
	r := &trial{cluster: start(t), t: t, pairs: pairsWanted(t), driver: driver}
	r.at = freeAddress(t)
	r.options = localenv.OperatorOptions{
		HostID: "crowded", NameServers: nameServers, ReadyWithin: 5 * time.Minute,
		ExtraArgs: []string{"--watch-namespaces=" + idle + "," + busy, "--pprof-bind-address=" + r.at},
	}
	return r
}

func idleTopic(i int) string { return fmt.Sprintf("idle-%d", i) }
func busyTopic(i int) string { return fmt.Sprintf("busy-%d", i) }
func loneTopic(i int) string { return fmt.Sprintf("lone-%d", i) }

// run goes through the life of the objects. makeTopics is called for each of the topics, before they are needed.
func (r *trial) run(makeTopics func(i int) error) {
	must(r.t, inParallel(busyPairs, makeTopics))
	op := r.operator(r.t, r.options)
	r.options.Ports = op.Ports
	r.empty = r.costAtRest("idle", op)
	r.t.Logf("idle operator: %s", r.empty)
	must(r.t, op.Stop())

	r.declareAll()
	op = r.firstStart()
	r.stop(op)
	op = r.restart()
	r.compare(op)
	r.deleteAll(op)
}

func (r *trial) declareAll() {
	took := r.declare(r.t, r.pairs, func(i int) (*v1alpha1.Producer, *v1alpha1.Consumer) {
		if i < busyPairs {
			return pair(busy, busyName(i), busyTopic(i), busyName(i), r.driver)
		}
		return pair(idle, fmt.Sprintf("o-%05d", i), idleTopic(i%busyPairs), fmt.Sprintf("group-%05d", i), r.driver)
	})
	r.t.Logf("%d + %d objects created in %s", r.pairs, r.pairs, took.Round(time.Millisecond))
	r.watch = r.watchAll(r.t)
}

// firstStart meets objects that no operator has seen.
func (r *trial) firstStart() *localenv.Operator {
	before, servers, began := r.requests(r.t), cpuOfServers(r.t), time.Now()
	op := r.operator(r.t, r.options)
	took := r.watch.await(r.t, began, 10*time.Minute, 2*r.pairs, 2*r.pairs)
	used, limit := cpuOf(r.t, op), startLimit
	r.t.Logf("first start: all Ready after %s; CPU: operator %s, API server %s", took.Round(time.Millisecond), used, cpuOfServers(r.t)-servers)
	if long() {
		limit = freshLimit
		if each := used / time.Duration(2*r.pairs); each > freshCPU {
			r.t.Errorf("first start: the operator used %s of a processor for each object, limit %s", each, freshCPU)
		}
	}
	r.judge("first start", op, took, limit)
	added := since(r.requests(r.t), before)
	r.t.Logf("first start: requests %v", added)
	// The finalizer and the status; on a slow machine some starts take long enough to be told.
	if n, limit := writes(added), 3*2*r.pairs; n > limit {
		r.t.Errorf("first start: %d writes for %d objects, limit %d", n, 2*r.pairs, limit)
	}
	return op
}

// restart meets objects that were Ready before, as a roll-out does.
func (r *trial) restart() *localenv.Operator {
	before, servers, began := r.requests(r.t), cpuOfServers(r.t), time.Now()
	op := r.operator(r.t, r.options)
	took := r.awaitRunning(op, began)
	_, ready, _ := r.watch.counts()
	r.t.Logf("restart: all clients run after %s; CPU: operator %s, API server %s; %d objects are Ready", took.Round(time.Millisecond), cpuOf(r.t, op),
		cpuOfServers(r.t)-servers, ready)
	if ready != 2*r.pairs {
		r.t.Errorf("restart: %d of %d objects are Ready", ready, 2*r.pairs)
	}
	r.judge("restart", op, took, startLimit)
	added := since(r.requests(r.t), before)
	r.t.Logf("restart: requests %v", added)
	if n := writes(added); n > 0 {
		r.t.Errorf("restart: %d writes about objects that stayed Ready, want none", n)
	}
	return op
}

// costAtRest waits until the operator has nothing to do any more, which is when its goroutines have stopped to become fewer, and measures it. Its
// resident memory is read before the garbage is collected.
func (r *trial) costAtRest(phase string, op *localenv.Operator) cost {
	var last cost
	for same := 0; same < 5; {
		now := r.costNow(r.t, op)
		if same++; now.goroutines < last.goroutines || last.goroutines == 0 {
			same = 0
		}
		last = now
		time.Sleep(500 * time.Millisecond) // how long it takes is not told by anything
	}
	collectGarbage(r.t, r.at, phase)
	last.live = r.costNow(r.t, op).live
	return last
}

// judge measures the operator at rest.
func (r *trial) judge(phase string, op *localenv.Operator, took, limit time.Duration) {
	full := r.costAtRest(phase, op)
	live := (full.live - r.empty.live) / int64(2*r.pairs)
	r.t.Logf("%s: %s; %d goroutines more than idle, %d live bytes per object", phase, full, full.goroutines-r.empty.goroutines, live)
	if more := full.goroutines - r.empty.goroutines; more >= goroutineLimit {
		r.t.Errorf("%s: %d goroutines more than the idle operator's, limit %d", phase, more, goroutineLimit)
	}
	if live > liveLimit {
		r.t.Errorf("%s: %d live bytes per object, limit %d", phase, live, liveLimit)
	}
	if full.resident > residentLimit {
		r.t.Errorf("%s: %.1f MiB resident, limit %d", phase, mib(full.resident), residentLimit>>20)
	}
	if took > limit {
		r.t.Errorf("%s: took %s, limit %s", phase, took, limit)
	}
}

// awaitRunning waits until the operator has opened all clients, and answers how long that took since began.
func (r *trial) awaitRunning(op *localenv.Operator, began time.Time) time.Duration {
	for {
		m, err := op.Metrics(r.t.Context(), r.monToken)
		must(r.t, err)
		running := m[`rocketmq_proxy_clients{kind="Producer",state="Running"}`] + m[`rocketmq_proxy_clients{kind="Consumer",state="Running"}`]
		took := time.Since(began)
		if int(running) == 2*r.pairs {
			return took
		}
		if took > 10*time.Minute {
			r.t.Fatalf("after %s %.0f of %d clients run", took, running, 2*r.pairs)
		}
		time.Sleep(200 * time.Millisecond) // a scrape of ten thousand objects costs something itself
	}
}

// stop is an orderly end; it must not write about each object either.
func (r *trial) stop(op *localenv.Operator) {
	before, began := r.requests(r.t), time.Now()
	must(r.t, op.Stop())
	added := since(r.requests(r.t), before)
	r.t.Logf("stopped in %s; requests %v", time.Since(began).Round(time.Millisecond), added)
	if n := writes(added); n > 0 {
		r.t.Errorf("%d writes while the operator stopped, want none", n)
	}
}

// deleteAll deletes everything at once.
func (r *trial) deleteAll(op *localenv.Operator) {
	before, began := r.requests(r.t), time.Now()
	r.deleteIn(idle)
	r.deleteIn(busy)
	asked := time.Since(began)
	took := r.watch.await(r.t, began, 15*time.Minute, 0, 0)
	r.t.Logf("all deleted after %s (the API server took %s to mark them); requests %v", took.Round(time.Millisecond), asked.Round(time.Millisecond),
		since(r.requests(r.t), before))
	left := r.costAtRest("after", op)
	r.t.Logf("after the last object: %s", left)
	if more := left.goroutines - r.empty.goroutines; more > 20 { // connections and the writers of Events, which begin with the first object
		r.t.Errorf("%d goroutines more than before the first object", more)
	}
}

// deleteIn deletes the objects one by one: the API server gives the deletion of a whole collection a minute.
func (r *trial) deleteIn(namespace string) {
	for _, kind := range []string{"Producer", "Consumer"} {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind + "List"))
		must(r.t, r.client.List(r.t.Context(), list, client.InNamespace(namespace)))
		must(r.t, inParallel(len(list.Items), func(i int) error { return client.IgnoreNotFound(r.client.Delete(r.t.Context(), &list.Items[i])) }))
	}
}
