// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// inWorld runs a story in a world of its own.
func inWorld(t *testing.T, story func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.end()
		story(w)
	})
}

// TestDeleteBetweenLookAndOpen: a host has asked the API server and was told "live"; before it opens the client, the object is deleted and the
// other host lets go of it. The finalizer must wait for the client that is about to open.
func TestDeleteBetweenLookAndOpen(t *testing.T) {
	inWorld(t, func(w *world) {
		a, b := w.boot("a", map[string]int{}), w.boot("b", map[string]int{})
		w.settle()
		uid := w.create("orders")
		w.deliver(b, "orders", w.versions("orders"))
		w.pass(b, "orders")
		w.let("b: patch finalizers")
		w.deliver(a, "orders", w.versions("orders"))
		w.pass(a, "orders")
		open := w.until("a", "open") // the look is over, the answer was "live"
		w.delete("orders")
		w.deliver(b, "orders", w.versions("orders"))
		w.pass(b, "orders")
		w.grant(w.until("b", "apply status by rocketmq-proxy-host"), true)
		w.let("b: list leases")
		w.let("b: apply status") // b sees that a has not let go, and says "terminating"
		w.grant(open, true)
		synctest.Wait()
		w.verify()
		if a.runs(uid) != 1 {
			t.Errorf("a runs %d clients, want the one that was already opening: otherwise this test shows nothing", a.runs(uid))
		}
		w.settle()
	})
}

// TestALateReleaseOfAnEarlierUID: a host's report "released" is under way for so long that the object is gone and recreated; it lands on the new
// object. When that is deleted, the report must not count for it.
func TestALateReleaseOfAnEarlierUID(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("orders")
		a, b := w.boot("a", map[string]int{}), w.boot("b", map[string]int{})
		w.settle()
		w.delete("orders")
		w.deliver(a, "orders", w.versions("orders"))
		w.pass(a, "orders")
		w.grant(w.until("a", "close"), true)
		synctest.Wait() // closed, and its entry gone: a pass before that would only wait
		for a.viewOf("orders") < w.versions("orders") || !a.wantsPass("orders") {
			w.drainRequests("a: apply status by rocketmq-proxy-operator")
			w.deliver(a, "orders", w.versions("orders"))
			w.elapse(time.Second)
		}
		w.pass(a, "orders")
		late := w.until("a", "apply status by rocketmq-proxy-host")
		w.abandonAsTimeout(late)
		w.lose(late)      // it is somewhere on the way
		w.strip("orders") // by hand, and the object is gone
		second := w.create("orders")
		w.settle()
		if a.runs(second) != 1 || b.runs(second) != 1 {
			t.Fatalf("the new object has %d and %d clients, want 1 and 1", a.runs(second), b.runs(second))
		}
		w.delete("orders")
		must(t, late.do()) // now it arrives
		if e := entryOf(w.at("orders", w.versions("orders")), a.host.Name()); e == nil || e.UID == second {
			t.Fatal("the late report is not on the new object: otherwise this test shows nothing")
		}
		w.deliver(b, "orders", w.versions("orders"))
		w.pass(b, "orders")
		w.drainRequests("b: ") // everything that b would do; a has not even seen the deletion
		w.elapse(2 * time.Second)
		w.pass(b, "orders")
		w.drainRequests("b: ")
		w.settle()
	})
}

// TestAStaleCacheAfterARestart: a restarted host's cache begins in the past and shows an object that is gone and recreated since. No client of
// the old one may start, and the new one must get its client.
func TestAStaleCacheAfterARestart(t *testing.T) {
	inWorld(t, func(w *world) {
		first := w.create("orders")
		a := w.boot("a", map[string]int{})
		w.settle()
		past := w.versions("orders") // the first object, live, with its finalizer
		w.delete("orders")
		w.settle()
		second := w.create("orders")
		w.settle()
		w.crash(a)
		again := w.boot("a", map[string]int{"orders": past})
		w.let("a: create", "Lease")
		w.let("a: get", "Lease")
		w.let("a: update", "Lease")
		w.let("a: list leases")
		w.pass(again, "orders")
		w.drainRequests("a: ")
		if again.runs(first) != 0 {
			t.Fatal("a client of the object that is gone was started from a stale cache")
		}
		w.settle()
		if again.runs(first) != 0 || again.runs(second) != 1 {
			t.Errorf("clients of the first and second object: %d and %d, want 0 and 1", again.runs(first), again.runs(second))
		}
	})
}

// TestLeasesAreReadAfterTheObject: while one host decides about the finalizer, another one comes up with a cache in which the object still lives. With the
// Leases read first the newcomer would be missed, and the finalizer would go without its word.
func TestLeasesAreReadAfterTheObject(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("orders")
		b := w.boot("b", map[string]int{})
		w.settle()
		past := w.versions("orders") // live, with its finalizer
		w.delete("orders")
		w.deliver(b, "orders", w.versions("orders"))
		w.pass(b, "orders")
		w.drainRequests("b: ") // the client is closed; the next pass decides
		w.elapse(2 * time.Second)
		w.pass(b, "orders")
		w.grant(w.until("b", "apply status by rocketmq-proxy-host"), true)
		list := w.request("b: list leases") // the object is read, the Leases are not
		newcomer := w.boot("a", map[string]int{"orders": past})
		w.let("a: create", "Lease")
		w.let("a: list leases")
		w.pass(newcomer, "orders")
		look := w.request("a: get", "Producer")
		w.grant(list, true)
		w.drainRequests("b: ")
		if w.gone(w.at("orders", 1).UID) {
			t.Fatal("the finalizer went although a host with a Lease had not said a word")
		}
		w.grant(look, true)
		w.settle()
	})
}

// TestTheOwnLeaseIsDeletedLate: a host's last request, the deletion of its Lease, is under way while the container is restarted in the same pod. It
// must not take away the Lease of the new process.
func TestTheOwnLeaseIsDeletedLate(t *testing.T) {
	inWorld(t, func(w *world) {
		uid := w.create("orders")
		a := w.boot("a", map[string]int{})
		w.settle()
		go func() {
			ctx, cancel := context.WithTimeout(a.ctx, time.Minute)
			defer cancel()
			a.reg.Close(ctx)
			_ = a.host.Leave(ctx)
		}()
		w.let("a: close")
		late := w.request("a: delete", "Lease")
		w.crash(a)
		again := w.boot("a", map[string]int{"orders": w.versions("orders")})
		w.let("a: create", "Lease")
		w.let("a: get", "Lease")
		w.let("a: update", "Lease")
		w.let("a: list leases")
		w.grant(late, true)
		w.settle()
		if again.runs(uid) != 1 {
			t.Fatalf("the new process runs %d clients, want 1", again.runs(uid))
		}
		w.api.mu.Lock()
		lease := w.api.leases[again.host.Name()]
		w.api.mu.Unlock()
		if lease == nil || holder(lease) != again.host.Incarnation() {
			t.Fatal("the late deletion took the new process's Lease")
		}
		w.delete("orders")
		w.settle()
	})
}

// TestACacheBehindTheOwnWrite: found by C1. A restarted host cannot start the client at once and writes that over the "ready" of its predecessor; when
// the client runs, its next pass still sees the "ready" in its cache, which is what it wants to write by now, and writes nothing. Status writes wake
// nobody, so "not ready" stood for ever.
func TestACacheBehindTheOwnWrite(t *testing.T) {
	inWorld(t, func(w *world) {
		uid := w.create("orders")
		w.crash(w.boot("a", map[string]int{}))
		first := w.boot("a", map[string]int{})
		w.settle()
		w.crash(first)
		a := w.boot("a", map[string]int{"orders": w.versions("orders")})
		w.drainRequests("a: ")
		w.pass(a, "orders")
		w.refuse(w.until("a", "get", "Producer"))
		synctest.Wait()
		w.pass(a, "orders")
		w.grant(w.until("a", "apply status by rocketmq-proxy-operator"), true)
		w.drainRequests("a: ")
		w.elapse(5 * time.Second)
		w.drainRequests("a: ")
		if a.runs(uid) != 1 || conditionOf(w.at("orders", w.versions("orders")), "Ready").Status == "True" {
			t.Fatal("the client does not run, or nothing was written: otherwise this test shows nothing")
		}
		w.pass(a, "orders") // the registry has woken it; the cache has seen nothing new
		w.drainRequests("a: ")
		w.settle()
	})
}

// TestALostLeaseClosesTheGate: rule 10.
func TestALostLeaseClosesTheGate(t *testing.T) {
	inWorld(t, func(w *world) {
		a := w.boot("a", map[string]int{})
		w.settle()
		w.collect(a) // somebody deleted it by hand
		err := make(chan error, 1)
		go func() { err <- a.host.Renew(a.ctx) }()
		w.let("a: update", "Lease")
		if got := <-err; got == nil {
			t.Fatal("renewing a Lease that is gone has no error")
		}
		select {
		case <-a.host.Lost():
		default:
			t.Fatal("Lost is not closed")
		}
		if err := a.r.confirm(&fakeProducer)(a.ctx); err == nil {
			t.Error("a host without its Lease still confirms starts")
		}
		key := registry.Key{Kind: registry.Producer, UID: "x"}
		a.reg.CloseGate()
		if s := a.reg.Acquire(registry.Spec{Key: key, Producer: &registry.ProducerSpec{}, Confirm: func(context.Context) error { return nil }}); s.Err == nil {
			t.Error("a client may start after the Lease was lost")
		}
	})
}

// steps are what a scheduler can do next; the order is the same for the same past, so that a seed means a story.
type step struct {
	what string
	do   func()
}

// bounds says how often the destructive things may happen.
type bounds struct{ crashes, faults, lies int }

func (w *world) steps(user []step, left *bounds) []step {
	var list []step
	for _, c := range w.requests() {
		list = append(list, step{c.what, func() { w.grant(c, true) }})
		if left.faults > 0 && c.mutates && !c.ghost {
			list = append(list,
				step{c.what + " (answer lost)", func() { left.faults--; w.grant(c, false) }},
				step{c.what + " (refused)", func() { left.faults--; w.refuse(c) }},
				step{c.what + " (late)", func() { left.faults--; w.abandonAsTimeout(c) }})
		}
	}
	for _, p := range w.alive() {
		for _, name := range w.names() {
			for n := p.viewOf(name) + 1; n <= w.versions(name); n++ {
				list = append(list, step{fmt.Sprintf("%s sees version %d of %s", p.pod, n, name), func() { w.deliver(p, name, n) }})
			}
			if p.wantsPass(name) {
				list = append(list, step{p.pod + " looks at " + name, func() { w.pass(p, name) }})
			}
		}
	}
	if len(user) > 0 {
		list = append(list, user[0])
	}
	return append(list, w.disasters(left)...)
}

// disasters: a process is killed and comes back in its pod with a cache of any age, or its pod is replaced.
func (w *world) disasters(left *bounds) []step {
	if left.crashes == 0 {
		return nil
	}
	var list []step
	for _, p := range w.alive() {
		list = append(list, step{p.pod + " is killed and restarted", func() {
			left.crashes--
			w.crash(p)
			view := map[string]int{}
			for _, name := range w.names() {
				view[name] = w.versions(name) - min(w.versions(name), left.lies)
			}
			w.boot(p.pod, view)
		}}, step{p.pod + " is replaced by another pod", func() {
			left.crashes--
			w.crash(p)
			w.collect(p)
			w.boot(p.pod+"x", map[string]int{})
		}})
	}
	return list
}

// abandonAsTimeout lets the caller give up while the request is still under way.
func (w *world) abandonAsTimeout(c *parkedCall) {
	w.mu.Lock()
	c.ghost = true
	w.mu.Unlock()
	c.done <- context.DeadlineExceeded
	c.done = make(chan error, 1) // nobody hears the real answer
}

// play runs a story: user steps in their order, everything else in the order that choose picks. The script has a letter for each user step: c creates,
// unless the name is taken; d deletes; s strips the finalizer by hand; x does both at once, so that the object is gone without a word.
func play(t *testing.T, script string, most int, left bounds, choose func(n int) int) {
	inWorld(t, func(w *world) {
		w.boot("a", map[string]int{})
		w.boot("b", map[string]int{})
		user := w.userSteps(script)
		for range most {
			synctest.Wait()
			w.verify()
			list := w.steps(user, &left)
			if len(list) == 0 {
				w.note("time passes")
				w.elapse(2 * time.Second)
				continue
			}
			next := list[choose(len(list))]
			w.note("%s", next.what)
			if len(user) > 0 && next.what == user[0].what {
				user = user[1:]
			}
			next.do()
		}
		w.note("from here on everything is fair")
		w.settle()
	})
}

func (w *world) userSteps(script string) []step {
	var list []step
	for i, letter := range script {
		what := fmt.Sprintf("the user's step %d: %c", i, letter)
		list = append(list, step{what, func() {
			switch letter {
			case 'c':
				if w.gone(w.uidOf("orders")) {
					w.create("orders")
				}
			case 'd':
				w.delete("orders")
			case 's':
				w.strip("orders")
			case 'x':
				w.delete("orders")
				w.strip("orders")
			}
		}})
	}
	return list
}

// uidOf is the UID of the object that has the name, or had it last.
func (w *world) uidOf(name string) types.UID {
	for n := w.versions(name); n > 0; n-- {
		if o := w.at(name, n); o != nil {
			return o.UID
		}
	}
	return ""
}

func (w *world) gone(uid types.UID) bool {
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	for _, o := range w.api.objects {
		if o.UID == uid {
			return false
		}
	}
	return true
}

// TestTheProtocolInRandomInterleavings is C0, random part: crashes at any step, answers lost, requests that arrive late, caches that lag.
func TestTheProtocolInRandomInterleavings(t *testing.T) {
	seeds := 400
	if testing.Short() {
		seeds = 60
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(uint64(seed), 42))
			script := "c"
			for range 3 + random.IntN(5) {
				script += string("ccddsx"[random.IntN(6)])
			}
			play(t, script, 40+random.IntN(160), bounds{crashes: random.IntN(4), faults: random.IntN(6), lies: random.IntN(8)}, random.IntN)
		})
	}
}

// TestTheProtocolInEnumeratedInterleavings is C0, systematic part, without disasters: the plain order of events with every single deviation (at one
// decision, every other choice), then with pairs of deviations in a fixed scattered order, up to a bound.
func TestTheProtocolInEnumeratedInterleavings(t *testing.T) {
	pairs := 600
	if testing.Short() {
		pairs = 60
	}
	widths := playDeviating(t, nil)
	var single []deviation
	for at, n := range widths {
		for choice := 1; choice < n; choice++ {
			single = append(single, deviation{at, choice})
		}
	}
	for _, d := range single {
		playDeviating(t, []deviation{d})
	}
	scattered := rand.New(rand.NewPCG(1, 2))
	for range pairs {
		first, second := single[scattered.IntN(len(single))], single[scattered.IntN(len(single))]
		playDeviating(t, []deviation{first, second})
	}
}

// deviation is another choice than the first at one decision.
type deviation struct{ at, choice int }

// playDeviating plays the story with deviations and answers how many choices each decision had.
func playDeviating(t *testing.T, deviations []deviation) (widths []int) {
	t.Run(fmt.Sprint(deviations), func(t *testing.T) {
		play(t, "cdcxcd", 110, bounds{}, func(n int) int {
			choice := 0
			for _, d := range deviations {
				if d.at == len(widths) {
					choice = min(d.choice, n-1)
				}
			}
			widths = append(widths, n)
			return choice
		})
	})
	return widths
}
