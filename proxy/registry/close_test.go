// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestClose_DrainsAllInParallelAndAnswersEveryReceipt(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.w.onDrain = func(context.Context, *fakeClient) DrainReport {
			time.Sleep(10 * time.Second)
			return DrainReport{InFlight: 1}
		}
		for i := range 50 {
			r.Acquire(producer(name("p", i), name("p", i)))
		}
		synctest.Wait()
		began := time.Now()
		receipts := r.Close(t.Context())
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("took %s", took)
		}
		keys := map[Key]bool{}
		for _, receipt := range receipts {
			keys[receipt.Key] = true
			if receipt.InFlight != 1 || receipt.Err != "" || receipt.Reason != "the host stops" {
				t.Errorf("receipt %+v", receipt)
			}
		}
		if len(keys) != 50 || len(r.List()) != 0 {
			t.Errorf("receipts of %d objects, %d entries left", len(keys), len(r.List()))
		}
	})
}

func TestClose_TwiceAndConcurrentlyAnswersTheSame(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.w.onDrain = func(context.Context, *fakeClient) DrainReport { time.Sleep(time.Second); return DrainReport{} }
		r.acquire(producer("orders", "uid-1"))
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				if n := len(r.Close(t.Context())); n != 1 {
					t.Errorf("%d receipts", n)
				}
			})
		}
		all.Wait()
		if n := len(r.Close(t.Context())); n != 1 {
			t.Errorf("%d receipts of the last call", n)
		}
		if got := r.Acquire(producer("late", "uid-2")); !errors.Is(got.Err, ErrGateClosed) {
			t.Errorf("acquire after close: %+v", got)
		}
		if _, err := r.Use(t.Context(), Producer, "shop", "orders"); !errors.Is(err, ErrDraining) {
			t.Errorf("use after close: %v", err)
		}
	})
}

func TestClose_OfARegistryThatNeverWorked(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		if receipts := r.Close(t.Context()); len(receipts) != 0 {
			t.Errorf("receipts %v", receipts)
		}
	})
}

func TestClose_EndsDrainsInTimeToClose(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := consumer("orders", "uid-1")
		s.DrainTimeout = 10 * time.Minute
		r.w.onDrain = func(ctx context.Context, _ *fakeClient) DrainReport { <-ctx.Done(); return DrainReport{LeftLeased: 7} }
		r.w.onClose = func(context.Context, *fakeClient) error { time.Sleep(2 * time.Second); return nil }
		r.acquire(s)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		began := time.Now()
		receipts := r.Close(ctx)
		if took := time.Since(began); took != 27*time.Second || receipts[0].Err != "" || receipts[0].LeftLeased != 7 {
			t.Errorf("took %s, receipt %+v", took, receipts[0])
		}
	})
}

func TestClose_NamesWhatIsLeftWhenItsTimeIsOver(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		stuck := make(chan struct{})
		r.w.onClose = func(context.Context, *fakeClient) error { <-stuck; return nil }
		r.acquire(consumer("orders", "uid-1"))
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		began := time.Now()
		receipts := r.Close(ctx)
		if took := time.Since(began); took > 31*time.Second || len(receipts) != 1 || receipts[0].Err == "" {
			t.Errorf("took %s, receipts %+v", took, receipts)
		}
		r.wantState(Key{Consumer, "uid-1"}, Draining)
		close(stuck)
	})
}

func TestClose_AnswersEverybodyWhoWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := producer("orders", "uid-1")
		s.IdleTimeout = time.Minute
		r.acquire(s)
		after(time.Minute)
		r.w.onOpen = func(ctx context.Context, _ Spec) error { <-ctx.Done(); return ctx.Err() }
		answer := make(chan error, 1)
		go func() {
			_, err := r.Use(context.Background(), Producer, "shop", "orders")
			answer <- err
		}()
		synctest.Wait()
		r.Close(t.Context())
		if err := <-answer; !errors.Is(err, ErrDraining) {
			t.Errorf("the waiting use got %v", err)
		}
	})
}

func TestClose_ACloseThatFailsIsInTheReceipt(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.w.onClose = func(ctx context.Context, _ *fakeClient) error {
			<-ctx.Done()
			return errors.New("two sockets are left")
		}
		s := producer("orders", "uid-1")
		r.acquire(s)
		r.Release(s.Key, "deleted")
		after(7 * time.Second)
		done, receipt := r.Release(s.Key, "deleted")
		if !done || receipt.Err != "two sockets are left" || receipt.Took != 7*time.Second {
			t.Errorf("done %v, receipt %+v", done, receipt)
		}
	})
}

func TestReceiptsAreKeptUntilTheyAreForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		s := producer("orders", "uid-1")
		r.acquire(s)
		r.Release(s.Key, "deleted")
		synctest.Wait()
		if done, receipt := r.Release(s.Key, "x"); !done || receipt.Reason != "deleted" || receipt.InFlight != 3 {
			t.Errorf("receipt %+v", receipt)
		}
		r.Forget(s.Key)
		if done, receipt := r.Release(s.Key, "x"); !done || receipt != (Receipt{Key: s.Key, Reason: "x"}) {
			t.Errorf("receipt after Forget %+v", receipt)
		}
		never := Key{Consumer, "never-ran"}
		if done, receipt := r.Release(never, "x"); !done || receipt != (Receipt{Key: never, Reason: "x"}) {
			t.Errorf("an object that never ran: %v %+v", done, receipt)
		}
	})
}

func TestClose_ReturnsAfterTheLastWorkerHasEnded(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.acquire(producer("orders", "uid-1"))
		ended := false
		r.Registry.opts.Notify = func(key Key) {
			if _, found := r.Status(key); !found { // the last thing that the last worker does
				time.Sleep(time.Second)
				ended = true
			}
		}
		r.Close(t.Context())
		if !ended {
			t.Error("Close returned while a worker was under way")
		}
	})
}
