// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

// TestRetriesAndDeadLetters nacks messages until they are given up. It takes 15 s, most of it waiting.
func TestRetriesAndDeadLetters(t *testing.T) {
	c := start(t)
	op := c.operator(t, localenv.OperatorOptions{})
	onDriversAtOnce(t, func(t *testing.T, driver string) { newMorgue(t, c, op, driver).run() })
}

// morgue is a Consumer whose messages fail.
type morgue struct {
	*testing.T
	c            *cluster
	op           *localenv.Operator
	driver, name string
}

// received is a delivery as HTTP shows it.
type received struct {
	AckToken        string `json:"ack_token"`
	DeliveryAttempt int    `json:"delivery_attempt"`
	Message         struct {
		ID, Topic, Tag, Text string
		Keys                 []string
		Properties           map[string]string
	}
}

func newMorgue(t *testing.T, c *cluster, op *localenv.Operator, driver string) *morgue {
	m := &morgue{T: t, c: c, op: op, driver: driver, name: unique(t)}
	topic := c.topic(t, 1)
	c.apply(t, producer(m.name, topic, "driver: "+driver), consumer(m.name, "g_"+m.name, topic, "driver: "+driver, "drainTimeoutSeconds: 1",
		"maxDeliveryAttempts: 2", "retryBackoff: {stepsSeconds: [3, 1]}"))
	c.waitReady(t, "rmqp/"+m.name, "rmqc/"+m.name)
	return m
}

// post demands 200 and reads the answer.
func (m *morgue) post(path, body string, into any) {
	m.Helper()
	code, answer, err := m.op.Post(m.Context(), m.c.appToken, "/v1alpha1/namespaces/"+namespace+path, body)
	must(m.T, err)
	if code != 200 {
		m.Fatalf("POST %s %s: %d %s", path, body, code, answer)
	}
	m.Logf("POST %s %s\n%s", path, body, answer)
	must(m.T, json.Unmarshal(answer, into))
}

// pull takes exactly n deliveries.
func (m *morgue) pull(n int) []received {
	m.Helper()
	var all []received
	for end := time.Now().Add(30 * time.Second); len(all) < n; {
		var answer struct{ Deliveries []received }
		m.post("/consumers/"+m.name+":pull", fmt.Sprintf(`{"max_messages": %d, "wait": "5s"}`, n-len(all)), &answer)
		if all = append(all, answer.Deliveries...); time.Now().After(end) {
			m.Fatalf("%d of %d messages came", len(all), n)
		}
	}
	return all
}

// nack gives ds back without a delay and answers the real ones in seconds.
func (m *morgue) nack(ds []received, reason string) []float64 {
	m.Helper()
	entries := make([]map[string]string, len(ds))
	for i, d := range ds {
		entries[i] = map[string]string{"ack_token": d.AckToken, "reason": reason}
	}
	body, err := json.Marshal(map[string]any{"nacks": entries})
	must(m.T, err)
	var answer struct {
		Results []struct {
			Outcome        string
			EffectiveDelay string `json:"effective_delay"`
		}
	}
	m.post("/consumers/"+m.name+":nack", string(body), &answer)
	delays := make([]float64, len(ds))
	for i, r := range answer.Results {
		d, err := time.ParseDuration(r.EffectiveDelay)
		if delays[i] = d.Seconds(); err != nil || r.Outcome != "OK" {
			m.Fatalf("nack: %+v", r)
		}
	}
	return delays
}

func (m *morgue) run() {
	m.post("/producers/"+m.name+":send", `{"messages": [{"id": "poison", "text": "x", "tag": "a", "keys": ["k"], "properties": {"p": "v"}}]}`, &struct{}{})
	// What the back-off wants is rounded up: to 2 s by Remoting, to a level by ClientGo.
	first := map[string]float64{"Remoting": 3, "ClientGo": 5}[m.driver]
	second := map[string]float64{"Remoting": 2, "ClientGo": 1}[m.driver]

	ds := m.pull(1)
	began := time.Now()
	if got := m.nack(ds, "no stock"); got[0] != first {
		m.Errorf("the first nack: %v s, want %v", got[0], first)
	}
	ds = m.pull(1)
	if took := time.Since(began).Seconds(); took < first-1.2 {
		m.Errorf("it came again after %.1f s, before its delay of %v s", took, first)
	}
	if p := ds[0].Message.Properties; ds[0].DeliveryAttempt != 2 || p["PROXY_RETRY_ATTEMPT"] != "2" || p["PROXY_RETRY_REASON"] != "no stock" || p["p"] != "v" {
		m.Errorf("the second delivery: %+v", ds[0])
	}
	if got := m.nack(ds, "still no stock"); got[0] != second {
		m.Errorf("the second nack: %v s, want %v", got[0], second)
	}
}
