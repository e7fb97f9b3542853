// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
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

// TestWhichRightsBroadcastingNeeds: a consumer's own to mark and to list (5.5.0 answers the list to whoever signs), and one more to delete.
func TestWhichRightsBroadcastingNeeds(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	t.Parallel()
	topic, group := h.NewTopic(t, 1), h.NewGroup(t)
	cfg := h.consumerConfig(driver.ReceiverGroup(group, driver.ReceiverKey("a")), topic)
	cfg.Connection.Credentials = h.newUser(t, "receives_"+topic, rocketmq.Rights{Subscribe: []string{topic}, Groups: []string{group + "*"}})
	c := h.openConsumer(t, cfg)
	if err := h.driver.MarkGroup(within(t, 10*time.Second), cfg); err != nil {
		t.Errorf("a mark needs no right but the group's: %v", err)
	}
	if groups, err := h.driver.ListGroups(within(t, 10*time.Second), cfg, driver.ReceiverGroups(group)); err != nil || len(groups) != 1 || groups[0].Seen.IsZero() {
		t.Errorf("the list: %v, %v", groups, err)
	}
	mustClose(t, c)
	wantReason(t, "remove", h.driver.RemoveGroup(within(t, 10*time.Second), cfg), driver.Unauthorized)
	if cfg.Connection = h.Connection(); h.driver.RemoveGroup(within(t, 10*time.Second), cfg) != nil {
		t.Error("an administrator cannot remove the group")
	}
}
