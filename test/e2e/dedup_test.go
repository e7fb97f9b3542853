// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

// TestAnIDIsTheSameEndToEndAndSentOnceWithinTheWindow is a user's way through docs/api.md, "A message twice", over HTTP. The broker's own index and a
// receiver through the other driver see the id that the application chose.
func TestAnIDIsTheSameEndToEndAndSentOnceWithinTheWindow(t *testing.T) {
	c := start(t)
	op := c.operator(t, localenv.OperatorOptions{})
	onDriversAtOnce(t, func(t *testing.T, driver string) { sentOnce(t, c, op, driver) })
}

func sentOnce(t *testing.T, c *cluster, op *localenv.Operator, driver string) {
	t.Helper()
	other := map[string]string{"Remoting": "ClientGo", "ClientGo": "Remoting"}[driver]
	name, topic := unique(t), c.topic(t, 2)
	c.apply(t, producer(name, topic, "driver: "+driver, "deduplicationWindowSeconds: 600"), consumer(name, "g_"+name, topic, "driver: "+other, "drainTimeoutSeconds: 1"))
	c.waitReady(t, "rmqp/"+name, "rmqc/"+name)
	post := func(path, body string) (int, string) {
		t.Helper()
		code, answer, err := op.Post(t.Context(), c.appToken, "/v1alpha1/namespaces/"+namespace+path, body)
		must(t, err)
		return code, string(answer)
	}
	send := func(id, text string) (int, string) {
		t.Helper()
		return post("/producers/"+name+":send", fmt.Sprintf(`{"messages": [{"id": %q, "text": %q}]}`, id, text))
	}
	const id = "order-4711:created/1+2=3_."
	for range 2 {
		code, answer := send(id, "1 book")
		t.Log(answer)
		if code != 200 || !strings.Contains(answer, `"`+id+`"`) {
			t.Fatalf("send: %d %s", code, answer)
		}
	}
	code, answer := send(id, "2 books")
	t.Log(answer)
	if code != 400 || !strings.Contains(answer, "messages[0].id") {
		t.Errorf("the same id with other content: %d %s", code, answer)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if code, answer := send("many", "1 book"); code != 200 {
				t.Errorf("one of many at once: %d %s", code, answer)
			}
		})
	}
	all.Wait()
	must(t, c.broker.AwaitDispatch(t.Context()))
	for _, id := range []string{id, "many"} {
		if n, err := c.broker.CountByID(t.Context(), topic, id); err != nil || n != 1 {
			t.Errorf("the broker's index has %d messages with the id %q, %v", n, id, err)
		}
	}
	got := ""
	for strings.Count(got, "ack_token") < 2 {
		code, answer := post("/consumers/"+name+":pull", `{"max_messages": 10, "wait": "20s"}`)
		if code != 200 || !strings.Contains(answer, "ack_token") {
			t.Fatalf("after %s: %d %s", got, code, answer)
		}
		got += answer
	}
	if _, answer := post("/consumers/"+name+":pull", `{"max_messages": 10, "wait": "1s"}`); strings.Contains(answer, "ack_token") || strings.Count(got, "ack_token") != 2 {
		t.Errorf("came more than once: %s %s", got, answer)
	}
	if !strings.Contains(got, id) || !strings.Contains(got, `"many"`) {
		t.Errorf("the receiver got other ids: %s", got)
	}
	c.delete(t, "rmqp/"+name, "rmqc/"+name)
}
