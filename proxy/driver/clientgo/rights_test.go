// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"strings"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// user makes a user with rights and returns its credentials.
func (h *harness) newUser(t *testing.T, name string, rights rocketmq.Rights) driver.Credentials {
	t.Helper()
	u, err := h.cluster.CreateUser(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if len(rights.Publish)+len(rights.Subscribe)+len(rights.Groups) > 0 {
		if err := h.cluster.Grant(t.Context(), name, rights); err != nil {
			t.Fatal(err)
		}
	}
	return driver.Credentials{AccessKey: u.AccessKey, SecretKey: u.SecretKey}
}

// TestRightsThatAreMissingAreFoundBeforeAnythingIsReady: the library would only log them.
func TestRightsThatAreMissingAreFoundBeforeAnythingIsReady(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	topic, group := h.NewTopic(t, 2), h.NewGroup(t)
	users := map[string]driver.Credentials{
		"may publish":         h.newUser(t, "publisher_"+topic, rocketmq.Rights{Publish: []string{topic}}),
		"may subscribe":       h.newUser(t, "subscriber_"+topic, rocketmq.Rights{Subscribe: []string{topic}, Groups: []string{group}}),
		"may read topic only": h.newUser(t, "topiconly_"+topic, rocketmq.Rights{Subscribe: []string{topic}}),
		"may nothing":         h.newUser(t, "nobody_"+topic, rocketmq.Rights{}),
		"is anonymous":        {},
	}
	wrong := users["may publish"]
	wrong.SecretKey = "wrong"
	users["has the wrong secret"] = wrong
	for name, credentials := range users {
		t.Run("a user that "+name, func(t *testing.T) {
			pc, cc := h.producerConfig(topic), h.consumerConfig(group, topic)
			pc.Connection.Credentials, cc.Connection.Credentials = credentials, credentials
			p, err := h.driver.OpenProducer(within(t, 20*time.Second), pc)
			wantAllowed(t, "OpenProducer", err, name == "may publish", credentials)
			if err == nil {
				sendSome(t, p, topic, 1)
				mustClose(t, p)
			}
			wantAllowed(t, "ProbeConsumer", h.driver.ProbeConsumer(within(t, 20*time.Second), cc), name == "may subscribe", credentials)
			c, err := h.driver.OpenConsumer(within(t, 20*time.Second), cc)
			wantAllowed(t, "OpenConsumer", err, name == "may subscribe", credentials)
			if err == nil {
				mustClose(t, c)
			}
		})
	}
}

func wantAllowed(t *testing.T, what string, err error, allowed bool, secret driver.Credentials) {
	t.Helper()
	switch {
	case allowed && err != nil:
		t.Errorf("%s: %v", what, err)
	case !allowed && (err == nil || driver.ReasonOf(err) != driver.Unauthorized):
		t.Errorf("%s: got %v, want reason %s", what, err, driver.Unauthorized)
	case err != nil && secret.SecretKey != "" && strings.Contains(err.Error(), secret.SecretKey):
		t.Errorf("%s: the error shows the secret", what)
	}
}

// TestAConsumerWithTheRightToSubscribeOnlyCanDoEverything: asking for offsets needs another right (Get), so each step has a way without it.
func TestAConsumerWithTheRightToSubscribeOnlyCanDoEverything(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	topic, group := h.NewTopic(t, 2), h.NewGroup(t)
	p := h.openProducer(t, h.producerConfig(topic))
	sendSome(t, p, topic, 4)
	h.Settle(t)
	cfg := h.consumerConfig(group, topic)
	cfg.Connection.Credentials = h.newUser(t, "all_"+topic, rocketmq.Rights{Subscribe: []string{topic}, Groups: []string{group}})
	cfg.StartFrom = driver.Latest
	c := h.openConsumer(t, cfg)
	sent := sendSome(t, p, topic, 4)
	rs := receive(t, c, 4, time.Minute)
	for _, r := range rs {
		if !sent[r.ID] {
			t.Errorf("message %s is older than the group", r.ID)
		}
	}
	acknowledge(t, c, rs[0])
	if _, err := c.Nack(t.Context(), rs[1].Handle, 0); err != nil {
		t.Errorf("nack: %v", err)
	}
	if err := c.DeadLetter(t.Context(), rs[2], "test"); err != nil {
		t.Errorf("dead letter: %v", err)
	}
	again := receive(t, c, 1, time.Minute)[0]
	if again.ID != rs[1].ID || again.Attempt != 2 {
		t.Errorf("message %s came, attempt %d; want %s, attempt 2", again.ID, again.Attempt, rs[1].ID)
	}
	acknowledge(t, c, again, rs[3])
	if _, err := c.Lag(t.Context()); err != nil {
		t.Errorf("lag: %v", err)
	}
	if err := c.check(t.Context()); err != nil {
		t.Errorf("the check of a running client: %v", err)
	}
}
