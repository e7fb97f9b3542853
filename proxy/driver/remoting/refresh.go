// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// refresh asks for the routes that are due: of topics in use that were used since the last answer, that nobody used for long, or that are in
// trouble. It ends early when the name servers do not answer: the others would not be answered either.
func (cl *cluster) refresh() {
	const atOnce = 16
	due := cl.dueTopics()
	for len(due) > 0 {
		n := min(atOnce, len(due))
		var under []*flight
		for _, name := range due[:n] {
			under = append(under, cl.refreshOne(name))
		}
		due = due[n:]
		for _, f := range under {
			err := f.wait(cl.life)
			if _, answered := wire.CodeOf(err); err != nil && !answered && driver.Retryable(err) {
				return
			}
		}
	}
}

func (cl *cluster) dueTopics() []string {
	now := time.Now()
	cl.state.Lock()
	defer cl.state.Unlock()
	var due []string
	for name, t := range cl.state.topics {
		if t.users == 0 || t.question != nil {
			continue
		}
		age := t.idle
		if t.used.After(t.asked) {
			age = cl.periods.busy
		}
		if t.fault != nil || t.failures > 0 {
			age = cl.periods.checkAgain
		}
		if t.dueLocked(now, age) {
			due = append(due, name)
		}
	}
	return due
}

func (cl *cluster) refreshOne(name string) *flight {
	cl.state.Lock()
	t := cl.topicLocked(name)
	f, begin := t.askLocked()
	cl.state.Unlock()
	if begin {
		cl.ask(name, t, f)
	}
	return f
}

// forget drops what nobody needs: topics without an object that were asked for by the way, proofs that are old, brokers that no route has.
func (cl *cluster) forget() {
	before := time.Now().Add(-cl.periods.forget)
	cl.state.Lock()
	defer cl.state.Unlock()
	named := make(map[string]bool)
	for name, t := range cl.state.topics {
		if t.users == 0 && t.question == nil && t.used.Before(before) {
			delete(cl.state.topics, name)
			continue
		}
		if t.view != nil {
			for _, b := range t.view.route.Brokers {
				named[b.Name] = true
			}
		}
	}
	for name := range cl.state.brokers {
		if !named[name] {
			delete(cl.state.brokers, name)
		}
	}
	for name, f := range cl.state.proofs {
		if f.over() && f.started.Before(before) {
			delete(cl.state.proofs, name)
		}
	}
}
