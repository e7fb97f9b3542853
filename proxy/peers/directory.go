// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
)

// Member is one host.
type Member struct {
	Host, Incarnation string
	// Address is host:port of its gRPC data plane; empty = it cannot be reached by others.
	Address string
	// Stale: it has not been seen to live for a while. It is asked all the same, since it may only be cut off from the API server.
	Stale bool
}

// Directory knows the hosts of the operator. Safe for concurrent use. A host is in it before it makes its first token.
type Directory interface {
	// Members are the hosts as they were last seen. It does not block.
	Members() []Member
	// Look reads them now, within ctx.
	Look(ctx context.Context) ([]Member, error)
}

const (
	// lookEvery is the shortest time between two looks, whoever asks: tokens of dead processes must not drive the API server.
	lookEvery = time.Second
	// lookTimeout bounds one look.
	lookTimeout = 2 * time.Second
	// lookPause: after a look that failed nobody waits for another one for so long.
	lookPause = 5 * time.Second
	// maxBuried bounds what is remembered of processes that have ended; then all are forgotten, and asked for once more.
	maxBuried = 1024
)

// process is one incarnation of a host.
type process struct{ host, incarnation string }

// finder finds addresses of processes, and remembers which have ended.
type finder struct {
	directory Directory

	mu sync.Mutex
	// gone have ended: an incarnation does not come back.
	gone map[process]struct{}
	// under is the look under way; began, found and failed are those of the last one. What the directory remembers may be older than found.
	under         chan struct{}
	began, failed time.Time
	found         []Member
}

// member answers where the process is reached. ErrPeerGone only when it is surely gone: a look at the hosts, begun after the question, has not found it.
func (f *finder) member(ctx context.Context, whom process) (Member, error) {
	asked := time.Now()
	if m, found := locate(f.directory.Members(), whom); found {
		return m, nil
	}
	for {
		members, looked, err := f.lookOnce(ctx, whom, asked)
		switch {
		case err != nil:
			return Member{}, err
		case !looked:
			continue
		}
		if m, found := locate(members, whom); found {
			return m, nil
		}
		f.buried(whom)
		return Member{}, delivery.ErrPeerGone
	}
}

func locate(members []Member, whom process) (Member, bool) {
	i := slices.IndexFunc(members, func(m Member) bool { return m.Host == whom.host && m.Incarnation == whom.incarnation })
	if i < 0 {
		return Member{}, false
	}
	return members[i], true
}

// buried remembers that a process has ended.
func (f *finder) buried(whom process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.gone) >= maxBuried {
		f.gone = nil
	}
	if f.gone == nil {
		f.gone = map[process]struct{}{}
	}
	f.gone[whom] = struct{}{}
}

// lookOnce answers what a look shows that began after asked. When it had to wait for something first, looked is false: then it is called again.
func (f *finder) lookOnce(ctx context.Context, whom process, asked time.Time) (members []Member, looked bool, err error) {
	f.mu.Lock()
	now, under, wait := time.Now(), f.under, time.Duration(0)
	_, gone := f.gone[whom]
	switch {
	case gone:
		err = delivery.ErrPeerGone
	case under != nil: // another one looks
	case now.Sub(f.failed) < lookPause:
		err = fmt.Errorf("%w: the hosts' Leases could not be read a moment ago", delivery.ErrNotAsked)
	case f.began.After(asked): // another one has looked
		members, looked = f.found, true
	case now.Sub(f.began) < lookEvery:
		wait = lookEvery - now.Sub(f.began)
	default:
		f.under, f.began = make(chan struct{}), now
		f.mu.Unlock()
		members, err = f.look(ctx)
		return members, true, err
	}
	f.mu.Unlock()
	if looked || err != nil {
		return members, looked, err
	}
	return nil, false, pause(ctx, under, wait)
}

// pause waits for the end of a look, or for a time.
func pause(ctx context.Context, under <-chan struct{}, d time.Duration) error {
	var passed <-chan time.Time
	if under == nil {
		timer := time.NewTimer(d)
		defer timer.Stop()
		passed = timer.C
	}
	select {
	case <-under:
		return nil
	case <-passed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", delivery.ErrNotAsked, ctx.Err())
	}
}

// look reads the hosts for all who wait.
func (f *finder) look(ctx context.Context) ([]Member, error) {
	limited, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	members, err := f.directory.Look(limited)
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.under)
	f.under = nil
	if err == nil {
		f.found = members
		return members, nil
	}
	if f.began = (time.Time{}); !errors.Is(ctx.Err(), context.Canceled) { // a caller that went away says nothing about the API server
		f.failed = time.Now()
	}
	return nil, fmt.Errorf("%w: the hosts' Leases cannot be read: %w", delivery.ErrNotAsked, err)
}
