// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"
)

func TestCloseShutsWaitsForThoseInsideAndWorksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New()
		if !g.Enter() || g.Shut() {
			t.Fatal("an open gate must let in")
		}
		errWork := errors.New("work failed")
		runs := 0
		work := func() error {
			g.Wait()
			runs++
			return errWork
		}
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() {
				if err := g.Close(context.Background(), work); !errors.Is(err, errWork) {
					t.Errorf("Close: %v", err)
				}
			})
		}
		<-g.Life().Done()
		if g.Enter() || !g.Shut() {
			t.Error("a shut gate let in")
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := g.Close(ctx, work); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while somebody is inside: %v", err)
		}
		g.Stay()
		g.Leave()
		g.Leave()
		group.Wait()
		if err := g.Close(ctx, work); !errors.Is(err, errWork) || runs != 1 {
			t.Errorf("once more, with an ended context: %v; work ran %d times", err, runs)
		}
	})
}

func TestTakeWaitsForItsTurnAndEndsWithItsContextOrTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := New(), semaphore.NewWeighted(2)
		giveBack, ok := g.Take(t.Context(), s, 2)
		if !ok {
			t.Fatal("nobody has anything of it")
		}
		late, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, ok := g.Take(late, s, 1); ok || late.Err() == nil {
			t.Error("what another one has was taken")
		}
		var group sync.WaitGroup
		group.Go(func() {
			if back, ok := g.Take(t.Context(), s, 1); ok {
				back()
			} else {
				t.Error("it was given back and not taken")
			}
		})
		synctest.Wait()
		giveBack()
		group.Wait()
		if !s.TryAcquire(2) {
			t.Fatal("something was not given back")
		}
		group.Go(func() {
			if _, ok := g.Take(t.Context(), s, 1); ok {
				t.Error("it was taken after the gate was shut")
			}
		})
		synctest.Wait()
		if err := g.Close(t.Context(), func() error { return nil }); err != nil {
			t.Error(err)
		}
		group.Wait()
	})
}
