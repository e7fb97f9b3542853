// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"runtime/pprof"
	"time"
)

// retire takes the running client away from its users and starts its drain.
func (t *turn) retire(e *entry) {
	l := e.live
	e.live = nil
	e.idleTimer.stop()
	e.idleTimer = nil
	l.drainTimeout = e.spec.DrainTimeout
	t.close(e, l)
}

// close starts the worker that drains and closes l. Until it has ended, e cannot go.
func (t *turn) close(e *entry, l *live) {
	l.draining = true
	close(l.done)
	if l.uses == 0 {
		close(l.unused)
	}
	e.closing[l] = struct{}{}
	t.goRun(func() { t.r.runClose(e, l) })
}

func (r *Registry) runClose(e *entry, l *live) {
	pprof.Do(context.Background(), pprof.Labels(clientLabel, string(l.id)), func(context.Context) {
		receipt := r.drainAndClose(l)
		r.removeRemains(e, l, &receipt)
		receipt.Key = e.key
		r.opts.Observer.Drained(l.spec.Kind, l.spec.Driver, receipt)
		r.turn(func(t *turn) { t.closed(e, l, receipt) })
	})
}

// drainAndClose is the stop order of one client.
func (r *Registry) drainAndClose(l *live) Receipt {
	began := time.Now()
	drainCtx, cancel := context.WithTimeout(r.drainLimit, l.drainTimeout)
	defer cancel()
	// 1. The client fetches nothing new and finishes what it has; its users were told by Done and hear it from their receivers.
	report := l.client.Drain(drainCtx)
	// 2. Calls and streams let go; after the deadline they are told a second time (Closing), and then they are not waited for.
	forced := !r.awaitUsers(drainCtx, l)
	// 3. Late acknowledgements (UseDraining) are let in no more, and those that are inside end.
	forced = !r.seal(l) || forced
	// 4. Close. It returns when nothing is left, or says what is.
	closeCtx, cancelClose := context.WithTimeout(r.hardLimit, r.opts.CloseTimeout)
	defer cancelClose()
	receipt := Receipt{
		InFlight: report.InFlight, Drained: report.Drained, GivenBack: report.GivenBack, LeftLeased: report.LeftLeased, Forced: forced,
	}
	if err := l.client.Close(closeCtx); err != nil {
		receipt.Err = err.Error()
	}
	receipt.Took = time.Since(began)
	return receipt
}

// removeRemains deletes what the client keeps at RocketMQ, when its object is no more.
func (r *Registry) removeRemains(e *entry, l *live, receipt *Receipt) {
	remover, keeps := l.client.(Remover)
	r.state.mu.Lock()
	deleted := e.releasing && (e.reason == ReleaseDeleted || e.reason == ReleaseGone)
	r.state.mu.Unlock()
	if !keeps || !deleted {
		return
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(r.hardLimit, r.opts.CloseTimeout)
	defer cancel()
	if err := remover.Remove(ctx); err != nil {
		*receipt = receipt.plus(Receipt{Err: err.Error()})
	}
	receipt.Took += time.Since(began)
}

// awaitUsers waits until nobody uses l, within the drain deadline and the grace after it.
func (r *Registry) awaitUsers(drainCtx context.Context, l *live) bool {
	select {
	case <-l.unused:
	case <-drainCtx.Done():
	}
	close(l.ending)
	return r.waitGrace(l.unused)
}

// waitGrace waits for c for the time that users have after the second notice.
func (r *Registry) waitGrace(c <-chan struct{}) bool {
	grace := time.NewTimer(useGrace)
	defer grace.Stop()
	select {
	case <-c:
		return true
	case <-grace.C:
	case <-r.hardLimit.Done():
	}
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// seal refuses further UseDraining and waits for those under way.
func (r *Registry) seal(l *live) bool {
	r.state.mu.Lock()
	l.sealed = true
	late := l.late
	if late > 0 {
		l.lateGone = make(chan struct{})
	}
	r.state.mu.Unlock()
	return late == 0 || r.waitGrace(l.lateGone)
}

// closed takes a client out of the books.
func (t *turn) closed(e *entry, l *live, receipt Receipt) {
	delete(e.closing, l)
	t.vacate(l.group, e)
	if e.releasing {
		e.receipt = e.receipt.plus(receipt)
	}
	if receipt.Err != "" || receipt.Forced {
		log, spec, id := t.r.opts.Log, l.spec, l.id
		t.after = append(t.after, func() {
			log.Info("client did not stop cleanly", "kind", spec.Kind, "namespace", spec.Namespace, "name", spec.Name, "uid", spec.UID,
				"client", id, "heldByUsers", receipt.Forced, "left", receipt.Err, "took", receipt.Took)
		})
	}
	t.wake(e)
}

// plus sums what two clients of one entry did.
func (r Receipt) plus(o Receipt) Receipt {
	r.InFlight += o.InFlight
	r.Drained += o.Drained
	r.GivenBack += o.GivenBack
	r.LeftLeased += o.LeftLeased
	r.Forced = r.Forced || o.Forced
	switch {
	case r.Err == "":
		r.Err = o.Err
	case o.Err != "":
		r.Err += "; " + o.Err
	}
	return r
}
