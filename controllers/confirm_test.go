// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// slowLists is an API server whose lists show what is there when they begin, and answer after a while.
type slowLists struct {
	client.Reader
	mu      sync.Mutex
	objects map[types.UID]metav1.ObjectMeta
	takes   time.Duration
	err     error
	lists   int
}

func newSlowLists(n int) *slowLists {
	s := &slowLists{objects: map[types.UID]metav1.ObjectMeta{}, takes: 500 * time.Millisecond}
	for i := range n {
		uid := types.UID(fmt.Sprint("uid-", i))
		s.objects[uid] = metav1.ObjectMeta{UID: uid, Finalizers: []string{proxyv1alpha1.Finalizer}}
	}
	return s
}

func (s *slowLists) List(ctx context.Context, list client.ObjectList, _ ...client.ListOption) error {
	s.mu.Lock()
	s.lists++
	into := list.(*metav1.PartialObjectMetadataList)
	for _, o := range s.objects {
		into.Items = append(into.Items, metav1.PartialObjectMetadata{ObjectMeta: o})
	}
	takes, err := s.takes, s.err
	s.mu.Unlock()
	select {
	case <-time.After(takes):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *slowLists) change(f func(*slowLists)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *slowLists) rollCall() *rollCall {
	return &rollCall{kind: registry.Producer, reader: s, namespaces: []string{"shop"}}
}

// inQueue is when an entry became visible that has waited for long enough since then.
func inQueue() time.Time {
	visible := time.Now()
	time.Sleep(rollQueue)
	return visible
}

// ask asks n times at once about the first objects, each of which has been visible since, and answers how many the list confirmed.
func ask(t *testing.T, c *rollCall, n int, visible time.Time) int {
	t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	confirmed := 0
	for i := range n {
		all.Go(func() {
			if c.has(t.Context(), types.UID(fmt.Sprint("uid-", i)), visible) {
				mu.Lock()
				confirmed++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return confirmed
}

func TestVeryManyObjectsAreConfirmedByOneList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newSlowLists(5000)
		c, visible := api.rollCall(), time.Now()
		if n := ask(t, c, 5000, visible); n != 0 || api.lists != 0 {
			t.Errorf("objects that did not have to wait were confirmed by %d lists", api.lists)
		}
		time.Sleep(2 * rollQueue)
		if n := ask(t, c, rollAfter, visible); n != 0 || api.lists != 0 {
			t.Errorf("a few objects were confirmed by %d lists", api.lists)
		}
		if n := ask(t, c, 5000, visible); n != 5000 || api.lists != 1 {
			t.Errorf("%d of 5000 more were confirmed by %d lists, want all by one", n, api.lists)
		}
		time.Sleep(rollAge)
		if n := ask(t, c, rollAfter, visible); n != 0 {
			t.Errorf("%d objects were confirmed by a list that is too old", n)
		}
		if c.last != nil {
			t.Error("a list that is too old is still remembered")
		}
		if (*rollCall)(nil).has(t.Context(), "uid-1", visible) {
			t.Error("nothing confirms")
		}
	})
}

// TestAListThatBeganBeforeTheEntryWasVisibleConfirmsNothing: the object is live in the list, is deleted, this host reports that it runs nothing, and only
// then an entry appears: the list must not let it open.
func TestAListThatBeganBeforeTheEntryWasVisibleConfirmsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newSlowLists(1000)
		c := api.rollCall()
		first := inQueue()
		var all sync.WaitGroup
		all.Go(func() { ask(t, c, 1000, first) })
		began := time.Now()
		time.Sleep(100 * time.Millisecond) // the list is under way
		if c.has(t.Context(), "uid-1", time.Now()) {
			t.Error("a list that was under way when the entry appeared confirmed it")
		}
		all.Wait()
		time.Sleep(time.Second) // few ask now, so that no other list is made
		if c.has(t.Context(), "uid-1", began.Add(100*time.Millisecond)) {
			t.Error("a list that ended after the entry had appeared, and began before, confirmed it")
		}
		later := inQueue()
		if n := ask(t, c, 1000, later); n < 1000-rollAfter || api.lists != 2 {
			t.Errorf("%d of 1000 later entries were confirmed after %d lists, want nearly all by a second one", n, api.lists)
		}
	})
}

func TestAListConfirmsOnlyWhatLivesWithTheFinalizer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newSlowLists(1000)
		now := metav1.Now()
		api.objects["uid-1"] = metav1.ObjectMeta{UID: "uid-1", Finalizers: []string{proxyv1alpha1.Finalizer}, DeletionTimestamp: &now}
		api.objects["uid-2"] = metav1.ObjectMeta{UID: "uid-2", Finalizers: []string{"somebody.else/s"}}
		delete(api.objects, "uid-3")
		c, visible := api.rollCall(), inQueue()
		ask(t, c, 1000, visible)
		for uid, want := range map[types.UID]bool{"uid-1": false, "uid-2": false, "uid-3": false, "uid-4": true} {
			if got := c.has(t.Context(), uid, visible); got != want {
				t.Errorf("%s: confirmed %v, want %v", uid, got, want)
			}
		}
	})
}

func TestListsThatFailOrAreSlowAreNotTriedAgainSoon(t *testing.T) {
	for name, broken := range map[string]func(*slowLists){
		"a list that fails": func(s *slowLists) { s.err = errors.New("overloaded") },
		"a list that hangs": func(s *slowLists) { s.takes = time.Hour },
		"a slow list":       func(s *slowLists) { s.takes = rollSlow + time.Second/2 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newSlowLists(1000)
				api.change(broken)
				c := api.rollCall()
				for range 5 {
					ask(t, c, 1000, inQueue())
				}
				if api.lists != 1 {
					t.Errorf("%d lists were tried in a row, want 1", api.lists)
				}
				api.change(func(s *slowLists) { s.err, s.takes = nil, time.Second/2 })
				time.Sleep(rollPause)
				if ask(t, c, 1000, inQueue()) == 0 || api.lists != 2 {
					t.Errorf("after a pause %d lists were tried, want a second one that works", api.lists)
				}
			})
		})
	}
}

func TestWhoGoesAwayWhileAListIsMadeTakesItFromNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newSlowLists(1000)
		c, visible := api.rollCall(), inQueue()
		ask(t, c, rollAfter, visible)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { c.has(ctx, "uid-1", visible) })
		synctest.Wait()
		all.Go(func() {
			if !c.has(t.Context(), "uid-2", visible) {
				t.Error("the list was lost with the one who began it")
			}
		})
		short, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer stop()
		all.Go(func() {
			if c.has(short, "uid-3", visible) {
				t.Error("who waited for less than the list took was confirmed")
			}
		})
		synctest.Wait()
		cancel()
		all.Wait()
	})
}
