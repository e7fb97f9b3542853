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
