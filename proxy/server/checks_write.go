// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
)

// write is the handler's loop: it waits for something to tell and tells it.
func (cs *checkStream) write(ctx context.Context) error {
	limits := cs.s.limits
	age := time.NewTimer(jitter(limits.MaxConnectionAge, rand.Float64()))
	defer age.Stop()
	check := time.NewTimer(jitter(limits.ReauthorizeEvery, rand.Float64()))
	defer check.Stop()
	expire := time.NewTicker(expireEvery)
	defer expire.Stop()
	var checked chan error
	var leave <-chan time.Time
	draining, ready := cs.receiver.Draining(), cs.receiver.Ready()
	for {
		notice := false
		select {
		case <-ready:
		case <-cs.done:
		case <-expire.C:
			cs.receiver.Expire()
			continue
		case <-draining:
			notice, draining, ready, leave = true, nil, nil, time.After(checkGrace)
		case <-age.C:
			notice, draining, ready, leave = true, nil, nil, time.After(checkGrace)
		case <-leave:
			return cs.end(cs.leaving())
		case <-cs.closing:
			return cs.end(cs.s.drainingError())
		case err := <-cs.ended:
			return cs.end(err)
		case <-check.C:
			checked = cs.s.checkAgain(ctx, cs.c, maySend)
		case err := <-checked:
			if refused(err) {
				return cs.end(err)
			}
			checked = nil
			check.Reset(jitter(limits.ReauthorizeEvery, rand.Float64()))
		case <-ctx.Done():
			return contextFailure(ctx)
		}
		if err := cs.tell(notice, ready != nil); err != nil {
			return err
		}
		if leave != nil && cs.receiver.Open() == 0 {
			return cs.end(cs.leaving())
		}
	}
}

// leaving is why a stream ends after the draining notice: its host or its object, or its age.
func (cs *checkStream) leaving() error {
	select {
	case <-cs.receiver.Draining():
		return cs.s.drainingError()
	default:
		return errStreamAge
	}
}

// tell writes what there is: a notice, results and, when wanted, checks.
func (cs *checkStream) tell(notice, ask bool) error {
	response := &pb.TransactionChecksResponse{Draining: notice, Results: cs.takeResults()}
	if ask {
		size := 0
		for size < frameCheckBytes && len(response.Checks) < frameChecks {
			taken := cs.receiver.Take(1)
			if len(taken) == 0 {
				break
			}
			m := checkMessage(taken[0])
			size += proto.Size(m)
			response.Checks = append(response.Checks, m)
		}
	}
	if !notice && len(response.Results) == 0 && len(response.Checks) == 0 {
		return nil
	}
	return cs.send(response)
}

func (cs *checkStream) takeResults() []*pb.TransactionResult {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	n, size := 0, 0
	for n < len(cs.results) && n < frameResults && size < frameBytes {
		size += resultSize(cs.results[n])
		n++
	}
	taken := cs.results[:n:n]
	if cs.results = cs.results[n:]; len(cs.results) > 0 {
		signal(cs.done)
	}
	cs.held -= size
	signal(cs.room)
	return taken
}

// end tells the results of what was resolved until now, and answers why.
func (cs *checkStream) end(why error) error {
	cs.receiver.Close()
	cs.finish()
	for {
		cs.mu.Lock()
		left := len(cs.results)
		cs.mu.Unlock()
		if left == 0 {
			return why
		}
		if err := cs.tell(false, false); err != nil {
			return err
		}
	}
}
