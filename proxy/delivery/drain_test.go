// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func TestDrainGivesBackWaitsForAcksAndTellsReceivers(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{MaxInFlight: 100, AckDeadline: time.Hour})
		g.broker.put("m", 20, 1)
		r := g.attach(t, ReceiverOptions{MaxMessages: 20})
		synctest.Wait()
		ds := receive(t, r, 8)
		var wg sync.WaitGroup
		var report DrainReport
		wg.Go(func() { report = g.Drain(t.Context()) })
		<-r.Draining()
		want(t, "given back before receivers are told", g.broker.counts().givenBack, 12)
		if _, err := g.Attach(ReceiverOptions{}); !errors.Is(err, ErrDraining) {
			t.Errorf("Attach: %v, want ErrDraining", err)
		}
		time.Sleep(3 * time.Second)
		g.ack(t, ds[:5]...)
		wantOutcome(t, "nack", one(g.Nack(t.Context(), []Nack{{Token: ds[5].Token}})), OK)
		m := one(g.Modify(t.Context(), []Modify{{ds[6].Token, 5 * time.Second}}))
		wantOutcome(t, "modify", m, OK)
		wantOutcome(t, "ack by the unary call of a stream that is gone", func() Result { r.Close(); return one(g.Ack(t.Context(), []string{ds[7].Token})) }(), OK)
		wg.Wait()
		want(t, "report", report, DrainReport{InFlight: 20, Acked: 7, Expired: 1, GivenBack: 12, Took: 8 * time.Second})
	})
}

func TestDrainEndsWithItsContextAndReportsWhatIsLeft(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{AckDeadline: time.Hour})
		g.broker.put("m", 3, 1)
		ds := receive(t, g.attach(t, ReceiverOptions{}), 3)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		report := g.Drain(ctx)
		want(t, "report", report, DrainReport{InFlight: 3, LeftLeased: 3, Took: 30 * time.Second})
		want(t, "nothing was nacked", g.broker.counts().leased, 3)
		g.ack(t, ds...)
		want(t, "again", g.Drain(t.Context()), DrainReport{})
	})
}

func TestAFetchThatEndsDuringADrainIsGivenBack(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		late := make(chan struct{})
		g.broker.afterFetch = func([]*driver.Received) { <-late }
		g.broker.put("m", 5, 1)
		r := g.attach(t, ReceiverOptions{})
		synctest.Wait()
		var wg sync.WaitGroup
		var report DrainReport
		wg.Go(func() { report = g.Drain(t.Context()) })
		synctest.Wait()
		close(late)
		wg.Wait()
		want(t, "given back", report.GivenBack, 5)
		want(t, "took", report.Took, 0)
		want(t, "ready in the broker", g.broker.counts().ready, 5)
		want(t, "delivered", len(takeAll(r)), 0)
	})
}

func TestAFailedGiveBackIsReportedAndTheLeaseRunsOut(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{AckDeadline: 20 * time.Second})
		g.broker.setOn(func(ctx context.Context, call string) error {
			if call != "GiveBack" {
				return nil
			}
			<-ctx.Done() // hangs until its time is over
			return ctx.Err()
		})
		g.broker.put("m", 4, 1)
		r := g.attach(t, ReceiverOptions{})
		synctest.Wait()
		began := time.Now()
		r.Close()
		want(t, "Close waited", time.Since(began), giveBackTimeout)
		want(t, "failures observed", g.seen.get(&g.seen.backFailed), 4)
		for _, d := range receive(t, g.attach(t, ReceiverOptions{}), 4) {
			want(t, "attempt", d.Attempt, 2)
		}
	})
}

func TestCloseGivesBackEndsCallsAndLeavesNothing(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		g.broker.put("m", 6, 1)
		r := g.attach(t, ReceiverOptions{MaxMessages: 5})
		synctest.Wait()
		ds := r.Take(3, 0)
		r.Written(ds[:2])
		g.broker.setOn(func(ctx context.Context, call string) error {
			if call == "GiveBack" {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
		var wg sync.WaitGroup
		wg.Go(func() { wantOutcome(t, "ack under way", one(g.Ack(t.Context(), tokens(ds[:1]))), Retry) })
		synctest.Wait()
		for range 2 {
			wg.Go(g.Close)
		}
		wg.Wait()
		<-r.Draining()
		want(t, "given back: what was never taken", g.broker.counts().givenBack, 2)
		for name, res := range map[string]Result{
			"ack":    one(g.Ack(t.Context(), tokens(ds))),
			"nack":   one(g.Nack(t.Context(), []Nack{{Token: ds[0].Token}})),
			"modify": one(g.Modify(t.Context(), []Modify{{Token: ds[0].Token}})),
		} {
			wantOutcome(t, name+" after Close", res, Retry)
			want(t, "detail", res.Detail, detailShutdown)
		}
		if _, err := g.Attach(ReceiverOptions{}); !errors.Is(err, ErrDraining) {
			t.Errorf("Attach after Close: %v", err)
		}
		// A receiver may be closed after its window; nothing is asked of the driver then, which is closed too.
		want(t, "taken after Close", len(r.Take(0, 0)), 0)
		r.Close()
		want(t, "given back by the receiver's Close", g.broker.counts().givenBack, 2)
		g.Drain(t.Context())
	})
}

func TestCloseOfAWindowThatNeverWorked(t *testing.T) {
	g := newRig(t, Settings{})
	g.Close()
	g.Close()
}
