// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// startHealth arms the one timer that looks after all running clients. It runs only while there are entries.
func (t *turn) startHealth() {
	if t.health != nil {
		return
	}
	r := t.r
	var tm *timer
	tm = t.arm(r.opts.HealthInterval, func() {
		r.pollHealth()
		r.turn(func(t *turn) {
			if t.health == tm {
				t.health = nil
				t.startHealth()
			}
		})
	})
	t.health = tm
}

// pollHealth lists under the lock, asks outside of it, and notes the answers under it again.
func (r *Registry) pollHealth() {
	type asked struct {
		e   *entry
		l   *live
		err error
	}
	var all []asked
	r.state.mu.Lock()
	for _, e := range r.state.entries {
		if e.live != nil {
			all = append(all, asked{e: e, l: e.live})
		}
	}
	r.state.mu.Unlock()
	for i := range all {
		all[i].err = all[i].l.client.Err()
	}
	r.turn(func(t *turn) {
		for _, a := range all {
			if a.e.live == a.l {
				t.noteHealth(a.e, a.err)
			}
		}
	})
}

func (t *turn) noteHealth(e *entry, err error) {
	if err == nil && e.live.err == nil {
		return
	}
	e.live.err = err
	if errors.Is(err, driver.ErrClosed) {
		e.live.closedPolls++
	} else {
		e.live.closedPolls = 0
	}
	t.wake(e)
}
