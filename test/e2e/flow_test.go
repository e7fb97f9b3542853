// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

// TestLimitsOfSizeAndRateHoldAndAreTold is a user's way through docs/api.md, "Limits", over HTTP: a message of exactly maxMessageBytes, one byte more, a
// send beyond rateLimit and the time to wait, deliveries at their pace, and a limit that is changed while everything runs.
func TestLimitsOfSizeAndRateHoldAndAreTold(t *testing.T) {
	c := start(t)
	op := c.operator(t, localenv.OperatorOptions{})
	onDriversAtOnce(t, func(t *testing.T, driver string) { limits(t, c, op, driver) })
}

func limits(t *testing.T, c *cluster, op *localenv.Operator, driver string) {
	t.Helper()
	name, topic := unique(t), c.topic(t, 2)
	limited := func(rate int) string {
		return producer(name, topic, "driver: "+driver, "maxMessageBytes: 1000", fmt.Sprintf("rateLimit: {messagesPerSecond: %d}", rate))
	}
	c.apply(t, limited(10), consumer(name, "g_"+name, topic, "driver: "+driver, "rateLimit: {messagesPerSecond: 20}", "drainTimeoutSeconds: 1"))
	c.waitReady(t, "rmqp/"+name, "rmqc/"+name)
	post := func(path, body string) (int, string) {
		t.Helper()
		code, answer, err := op.Post(t.Context(), c.appToken, "/v1alpha1/namespaces/"+namespace+path, body)
		must(t, err)
		return code, string(answer)
	}
	send := func(n, size int) (int, string) {
		t.Helper()
		one := fmt.Sprintf(`{"id": "0123456789", "text": %q}`, strings.Repeat("x", size-10))
		return post("/producers/"+name+":send", `{"messages": [`+strings.Repeat(one+",", n-1)+one+`]}`)
	}
	code, answer := send(1, 1001)
	t.Log(answer)
	if code != 400 || !strings.Contains(answer, "messages[0].body") || !strings.Contains(answer, "maxMessageBytes is 1000") {
		t.Errorf("one byte more than maxMessageBytes: %d %s", code, answer)
	}
	if code, answer := send(50, 1000); code != 200 {
		t.Fatalf("a batch of more than a second's worth, each of exactly maxMessageBytes: %d %s", code, answer)
	}
	code, answer = send(2, 100)
	t.Log(answer)
	var refusal struct {
		Details []struct {
			RetryDelay string `json:"retry_delay"`
		}
	}
	must(t, json.Unmarshal([]byte(answer), &refusal))
	wait := time.Duration(0)
	for _, d := range refusal.Details {
		if d.RetryDelay != "" {
			var err error
			wait, err = time.ParseDuration(d.RetryDelay)
			must(t, err)
		}
	}
	if code != 429 || !strings.Contains(answer, "RateLimited") || wait < time.Second || wait > 4*time.Second {
		t.Errorf("a send beyond the rate: %d %s", code, answer)
	}

	began, got := time.Now(), 0
	for got < 50 {
		code, answer := post("/consumers/"+name+":pull", `{"max_messages": 100, "wait": "10s"}`)
		n := strings.Count(answer, `"ack_token"`)
		if code != 200 || n == 0 {
			t.Fatalf("after %d: %d %s", got, code, answer)
		}
		got += n
	}
	if took := time.Since(began); got != 50 || took < 1200*time.Millisecond {
		t.Errorf("%d messages came in %s, want 20 at once and 20 a second", got, took)
	}

	// A higher limit counts without another client; what is owed is paid back faster.
	must(t, c.control.Apply(t.Context(), limited(10_000)))
	c.waitGeneration(t, 30*time.Second, "rmqp/"+name)
	if code, answer := send(1000, 50); code != 200 {
		t.Errorf("after the limit was raised: %d %s", code, answer)
	}
	c.delete(t, "rmqp/"+name, "rmqc/"+name)
}
