// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	library "github.com/apache/rocketmq-client-go/v2/consumer"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func TestTheInletParksAPullUntilThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		l := tb.loop(0)
		l.pull(pullBatch)
		passed := false
		go func() { l.pull(pullBatch); passed = true }()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if passed {
			t.Fatalf("a second pull passed while %d wait", pullBatch)
		}
		tb.fetch(pullBatch-1, time.Hour)
		synctest.Wait()
		if passed {
			t.Fatal("it passed while one still waits")
		}
		tb.fetch(1, time.Hour)
		synctest.Wait()
		if !passed {
			t.Fatal("it stays parked though nothing waits")
		}
	})
}

// TestASilentReceiverNeverStopsAPullLoopForTwoMinutes is upstream #941: the library starts a queue anew whose loop did not move for 120 s, and
// delivers everything in flight again.
func TestASilentReceiverNeverStopsAPullLoopForTwoMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		loops := []*fakeLoop{tb.loop(0), tb.loop(1)}
		parkedFor := make([]time.Duration, len(loops))
		for i, l := range loops {
			l.pull(pullBatch)
			go func() {
				began := time.Now()
				l.pull(pullBatch)
				parkedFor[i] = time.Since(began)
			}()
		}
		tb.fetch(10, time.Hour) // a window of ten, and then silence
		time.Sleep(150 * time.Second)
		synctest.Wait()
		for i, d := range parkedFor {
			if d == 0 || d > 100*time.Second {
				t.Errorf("loop %d was parked for %v", i, d)
			}
		}
		if len(tb.throttled) == 0 || !tb.throttled[len(tb.throttled)-1] {
			t.Fatalf("the library's pulling was not stopped: %v", tb.throttled)
		}
		came, waits := tb.progress()
		if len(came) != 2 || waits["T"].Waiting != 4*pullBatch-10 {
			t.Errorf("%d wait, want %d", waits["T"].Waiting, 4*pullBatch-10)
		}
		tb.fetch(4*pullBatch-10, time.Hour)
		synctest.Wait()
		if tb.throttled[len(tb.throttled)-1] {
			t.Error("the library's pulling was not resumed when everything is taken")
		}
	})
}

func TestTheInletBoundsBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		l := tb.loop(0)
		l.pullSized(1, prefetchBytes)
		passed := false
		go func() { l.pullSized(1, 1); passed = true }()
		synctest.Wait()
		if passed {
			t.Fatal("it passed above the bound")
		}
		tb.fetch(1, time.Hour)
		synctest.Wait()
		if !passed {
			t.Fatal("it stays parked")
		}
	})
}

func TestNothingPassesTheInletAfterCloseAndParkedLoopsLeaveOnRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		l := tb.loop(0)
		l.pull(pullBatch)
		var left atomic.Int32
		enter := func(offset int64) {
			if !tb.admit(l.queue, []*arrival{l.message(offset, 1)}) {
				left.Add(1)
			}
		}
		for range 3 {
			go enter(1000)
		}
		synctest.Wait()
		tb.close()
		go enter(2000)
		time.Sleep(10 * time.Minute)
		if left.Load() != 0 {
			t.Fatal("a loop went on before the library was shut down: it could send on a closed channel")
		}
		tb.release()
		synctest.Wait()
		if left.Load() != 4 {
			t.Errorf("%d of 4 loops left", left.Load())
		}
		if tb.admit(l.queue, []*arrival{l.message(3000, 1)}) {
			t.Error("a late loop passed")
		}
	})
}

func TestAMessageIsLeasedOnlyWhenTheCallbacksBeforeItHaveBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		l := tb.loop(0)
		if !tb.admit(l.queue, []*arrival{l.message(0, 1), l.message(1, 1)}) {
			t.Fatal("refused")
		}
		go tb.await(l.queue, 1)
		synctest.Wait()
		tb.nothing("the callback of offset 0 has not begun")
		go tb.await(l.queue, 0)
		if rs := tb.fetch(2, time.Minute); rs[0].Offset != 0 || rs[1].Offset != 1 {
			t.Errorf("order %d, %d", rs[0].Offset, rs[1].Offset)
		}
	})
}

// TestTheSameMessageAgainFromANewLoopVoidsTheOldLease: the library started the queue anew; it ignores the old callbacks.
func TestTheSameMessageAgainFromANewLoopVoidsTheOldLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		older, newer := tb.loop(0), tb.loop(0)
		older.pull(2)
		old := tb.fetch(1, time.Minute)[0]
		newer.pull(2)
		synctest.Wait() // its callbacks have begun
		again := tb.fetch(2, time.Minute)
		if again[0].ID != old.ID {
			t.Fatalf("%s came, want %s again", again[0].ID, old.ID)
		}
		wantReason(t, "ack of the old lease", tb.ack(old.Handle), driver.LeaseExpired)
		older.done.Wait()
		if v, _ := older.verdict(0); v != library.ConsumeRetryLater {
			t.Errorf("verdict of the old callback: %v", v)
		}
		if err := tb.ack(again[0].Handle); err != nil {
			t.Errorf("ack of the new lease: %v", err)
		}
		// A late pull of the dead loop passes without entering: what the inlet swallows would be lost if the loop lived after all.
		older.pull(1)
		older.done.Wait()
		if v, ok := older.verdict(2); !ok || v != library.ConsumeRetryLater {
			t.Errorf("verdict of a dead loop's message: %v, %v", v, ok)
		}
	})
}

func TestARebalanceThatTakesAQueueVoidsItsLeasesAndFreesItsCallbacksOneLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		kept, lost := tb.loop(0), tb.loop(1)
		kept.pull(1)
		synctest.Wait() // it waits first
		lost.pull(3)
		byQueue := map[int]*driver.Received{}
		for _, r := range tb.fetch(2, time.Minute) {
			byQueue[r.Queue] = r
		}
		tb.assigned("another topic", nil)
		tb.assigned("T", []queueKey{keyOf(kept.queue)})
		wantReason(t, "ack in the lost queue", tb.ack(byQueue[1].Handle), driver.LeaseExpired)
		if err := tb.ack(byQueue[0].Handle); err != nil {
			t.Errorf("ack in the kept queue: %v", err)
		}
		tb.nothing("the rest of the lost queue is somebody else's")
		synctest.Wait()
		if _, ok := lost.verdict(0); ok {
			t.Error("a callback returned before it was sure that the library ignores it")
		}
		time.Sleep(2 * time.Minute) // past the lease: it must not come again here
		tb.nothing("the lease of a lost queue ended")
		tb.assigned("T", []queueKey{keyOf(kept.queue)})
		lost.done.Wait()
		if v, _ := lost.verdict(0); v != library.ConsumeRetryLater {
			t.Errorf("verdict %v", v)
		}
	})
}
