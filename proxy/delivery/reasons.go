// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"strconv"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Reasons of deliveries that ended without a word.
const (
	reasonExpired = "lease expired"
	reasonNacked  = "nacked without a reason"
)

// maxReasons bounds what one window remembers; with the longest reasons that is half a MiB.
const maxReasons = 1024

// reasons remembers, for the messages that failed last, why. RocketMQ delivers the stored message again as it is, so that there is no other place
// for it than this host. The zero value is ready. It is guarded by the window's mu.
type reasons struct {
	last map[messageName]rememberedReason
	// order has the names in the order in which they were put; a name is in it once for each put, and only the newest one counts.
	order []rememberedName
	next  int
	puts  uint64
}

// messageName tells messages apart as well as anything does that survives a redelivery: the place in the queue does not.
type messageName struct{ topic, id string }

type rememberedReason struct {
	text string
	put  uint64
}

type rememberedName struct {
	messageName
	put uint64
}

func nameOf(m *driver.Received) messageName { return messageName{m.Topic, m.ID} }

// nackReason is what is remembered of a nack.
func nackReason(said string) string {
	if said == "" {
		return reasonNacked
	}
	return driver.CutText(said, MaxNackReasonBytes)
}

// put remembers why a delivery of m failed. The oldest one is forgotten for it when there are too many.
func (r *reasons) put(m *driver.Received, why string) {
	if r.last == nil {
		r.last = make(map[messageName]rememberedReason)
	}
	r.puts++
	entry := rememberedName{nameOf(m), r.puts}
	r.last[entry.messageName] = rememberedReason{why, r.puts}
	if len(r.order) < maxReasons {
		r.order = append(r.order, entry)
		return
	}
	oldest := r.order[r.next]
	if r.last[oldest.messageName].put == oldest.put {
		delete(r.last, oldest.messageName)
	}
	r.order[r.next] = entry
	r.next = (r.next + 1) % maxReasons
}

// of is why the last delivery of m failed, as far as this host knows; empty = it does not.
func (r *reasons) of(m *driver.Received) string { return r.last[nameOf(m)].text }

func (r *reasons) forget(m *driver.Received) {
	if len(r.last) > 0 {
		delete(r.last, nameOf(m))
	}
}

// annotate tells the application in m's properties which attempt it is and why the last one failed. A first delivery has neither.
func (r *reasons) annotate(m *driver.Received) {
	if m.Attempt <= 1 {
		return
	}
	if m.Properties == nil {
		m.Properties = make(map[string]string, 2)
	}
	m.Properties[driver.PropertyRetryAttempt] = strconv.Itoa(m.Attempt)
	delete(m.Properties, driver.PropertyRetryReason) // of an earlier life: an application has sent on what it had received
	if why := r.of(m); why != "" {
		m.Properties[driver.PropertyRetryReason] = why
	}
}
