// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

// TestAConsumerFromATimeWithThreeFiltersGetsWhatItAskedFor is the sample of docs/consumer.md: messages before and after a time, in three topics with
// another filter each, over HTTP.
func TestAConsumerFromATimeWithThreeFiltersGetsWhatItAskedFor(t *testing.T) {
	c := start(t)
	op := c.operator(t, localenv.OperatorOptions{})
	onDrivers(t, func(t *testing.T, driver string) { fromATime(t, c, op, driver) })
}

func fromATime(t *testing.T, c *cluster, op *localenv.Operator, driver string) {
	t.Helper()
	name := unique(t)
	orders, payments, events := c.topic(t, 4), c.topic(t, 4), c.topic(t, 1)
	c.apply(t, manifest("Producer", name, []string{fmt.Sprintf("topics: [%s, %s, %s]", orders, payments, events), "driver: " + driver}))
	c.waitReady(t, "rmqp/"+name)
	send := func(prefix string) {
		t.Helper()
		code, answer, err := op.Post(t.Context(), c.appToken, "/v1alpha1/namespaces/"+namespace+"/producers/"+name+":send", fmt.Sprintf(`{"messages": [
			{"topic": %q, "id": "%[4]s-created", "text": "x", "tag": "created"}, {"topic": %[1]q, "id": "%[4]s-cancelled", "text": "x", "tag": "cancelled"},
			{"topic": %[2]q, "id": "%[4]s-10", "text": "x", "properties": {"amount": "10.5", "region": "eu"}},
			{"topic": %[2]q, "id": "%[4]s-9", "text": "x", "properties": {"amount": "9", "region": "eu"}},
			{"topic": %[2]q, "id": "%[4]s-us", "text": "x", "properties": {"amount": "70", "region": "us"}},
			{"topic": %[2]q, "id": "%[4]s-none", "text": "x"},
			{"topic": %[3]q, "id": "%[4]s-event", "text": "x", "tag": "whatever"}]}`, orders, payments, events, prefix))
		if must(t, err); code != 200 {
			t.Fatalf("send: %d %s", code, answer)
		}
	}
	send("old")
	at := time.Now().Truncate(time.Second).Add(time.Second)
	<-time.After(time.Until(at)) // startTime counts in seconds
	send("new")
	c.apply(t, manifest("Consumer", name, []string{
		"group: g_" + name, "driver: " + driver, "drainTimeoutSeconds: 1", "startFrom: Timestamp", "startTime: " + at.UTC().Format(time.RFC3339), "subscriptions:",
		fmt.Sprintf("- {topic: %s, filter: {tag: created || paid}}", orders),
		fmt.Sprintf(`- {topic: %s, filter: {sql: "amount > 9.5 AND region IN ('eu', 'uk')"}}`, payments),
		fmt.Sprintf("- {topic: %s}", events)}))
	c.waitReady(t, "rmqc/"+name)
	send("later")
	got := c.pullIDs(t, op, name, 6)
	want := []string{"later-10", "later-created", "later-event", "new-10", "new-created", "new-event"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if more := c.pullIDs(t, op, name, 1); len(more) > 0 {
		t.Errorf("%q came as well", more)
	}
}

// pullIDs pulls and acknowledges until n messages came or none came for longer than it takes for one to come again that was fetched for a Pull which had just
// ended (a poll may be answered a moment after another one; what it brings is given back, which takes RocketMQ 2 to 3 s). It returns their ids in order.
func (c *cluster) pullIDs(t *testing.T, op *localenv.Operator, consumer string, n int) []string {
	t.Helper()
	path := "/v1alpha1/namespaces/" + namespace + "/consumers/" + consumer
	var ids []string
	for len(ids) < n {
		var pulled struct {
			Deliveries []struct {
				Message  struct{ ID string }
				AckToken string `json:"ack_token"`
			}
		}
		code, answer, err := op.Post(t.Context(), c.appToken, path+":pull", `{"max_messages": 32, "wait": "8s"}`)
		must(t, err)
		must(t, json.Unmarshal(answer, &pulled))
		if code != 200 {
			t.Fatalf("pull: %d %s", code, answer)
		}
		if len(pulled.Deliveries) == 0 {
			break
		}
		var tokens []string
		for _, d := range pulled.Deliveries {
			ids, tokens = append(ids, d.Message.ID), append(tokens, d.AckToken)
		}
		body, err := json.Marshal(map[string]any{"ack_tokens": tokens})
		must(t, err)
		if code, answer, err := op.Post(t.Context(), c.appToken, path+":ack", string(body)); err != nil || code != 200 {
			t.Fatalf("ack: %d %s %v", code, answer, err)
		}
	}
	slices.Sort(ids)
	return ids
}
