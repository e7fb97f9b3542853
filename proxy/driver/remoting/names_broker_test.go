// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// TestTheLongestNamesWork: a topic of 127 bytes and a group of 120 make a retry topic of 255, which 5.x brokers take although a topic may have 127.
func TestTheLongestNamesWork(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	t.Parallel()
	id := uuid.NewString()
	topic, group := id+strings.Repeat("t", driver.MaxTopicBytes-len(id)), id+strings.Repeat("g", driver.MaxGroupBytes-len(id))
	if err := h.cluster.CreateTopic(t.Context(), topic, 1, nil); err != nil {
		t.Fatal(err)
	}
	p, c := h.openProducer(t, h.producerConfig(topic)), h.openConsumer(t, h.consumerConfig(group, topic))
	sent := idsOfResults(send(t, p, topic, 3))
	got := receive(t, c, 3, time.Minute)
	same(t, sent, got)
	acknowledge(t, c, got[0])
	for _, r := range got[1:] {
		if _, err := c.Nack(t.Context(), r.Handle, 0); err != nil {
			t.Fatal(err)
		}
	}
	again := receive(t, c, 2, time.Minute)
	for _, r := range again {
		if r.Topic != topic || r.Attempt != 2 {
			t.Errorf("message %s came again from %q, attempt %d", r.ID, r.Topic, r.Attempt)
		}
	}
	acknowledge(t, c, again[0])
	if err := c.DeadLetter(t.Context(), again[1], "test"); err != nil {
		t.Fatal(err)
	}
	dead := receive(t, h.openConsumer(t, h.consumerConfig(h.NewGroup(t), driver.DeadLetterTopic(group))), 1, time.Minute)[0]
	if dead.ID != again[1].ID {
		t.Errorf("dead letter %s, want %s", dead.ID, again[1].ID)
	}
}
