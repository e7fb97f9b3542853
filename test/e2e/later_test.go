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

// TestAMessageOfLaterComesAtItsTimeAndARecalledOneNever is a user's way through docs/api.md, over HTTP: three messages, of which one waits and one is
// recalled; the driver that cannot recall says so.
func TestAMessageOfLaterComesAtItsTimeAndARecalledOneNever(t *testing.T) {
	c := start(t)
	op := c.operator(t, localenv.OperatorOptions{})
	onDrivers(t, func(t *testing.T, driver string) { later(t, c, op, driver) })
}

func later(t *testing.T, c *cluster, op *localenv.Operator, driver string) {
	t.Helper()
	const delay = 6 * time.Second
	name, topic, recalls := unique(t), c.topic(t, 2), driver == "Remoting"
	c.apply(t, producer(name, topic, "driver: "+driver), consumer(name, "g_"+name, topic, "driver: "+driver, "drainTimeoutSeconds: 1"))
	c.waitReady(t, "rmqp/"+name, "rmqc/"+name)
	post := func(path, body string) (int, string) {
		t.Helper()
		code, answer, err := op.Post(t.Context(), c.appToken, "/v1alpha1/namespaces/"+namespace+path, body)
		must(t, err)
		return code, string(answer)
	}
	began := time.Now()
	code, answer := post("/producers/"+name+":send", fmt.Sprintf(
		`{"messages": [{"id": "later", "text": "x", "delay": "%ds"}, {"id": "recalled", "text": "x", "deliver_at": %q}, {"id": "now", "text": "x"}]}`,
		int(delay.Seconds()), began.Add(delay).UTC().Format(time.RFC3339Nano)))
	t.Log(answer)
	var sent struct {
		Results []struct {
			RecallHandle string `json:"recall_handle"`
			Error        any
		}
	}
	must(t, json.Unmarshal([]byte(answer), &sent))
	if code != 200 || len(sent.Results) != 3 || strings.Contains(answer, `"error"`) || (sent.Results[1].RecallHandle != "") != recalls {
		t.Fatalf("send: %d %s", code, answer)
	}
	handle := sent.Results[1].RecallHandle
	if handle == "" {
		handle = "none"
	}
	code, answer = post("/producers/"+name+":recall", fmt.Sprintf(`{"recall_handle": %q}`, handle))
	t.Log(answer)
	want := map[string]bool{"now": true, "later": true}
	if !recalls {
		want["recalled"] = true
		if code != 400 || !strings.Contains(answer, "Unsupported") {
			t.Errorf("recall where the driver cannot: %d %s", code, answer)
		}
	} else if code != 200 || !strings.Contains(answer, `"recalled"`) {
		t.Errorf("recall: %d %s", code, answer)
	}
	for end := began.Add(delay + 10*time.Second); len(want) > 0 && time.Now().Before(end); {
		_, answer := post("/consumers/"+name+":pull", `{"max_messages": 10, "wait": "3s"}`)
		for id := range want {
			if !strings.Contains(answer, `"id":"`+id+`"`) && !strings.Contains(answer, `"id": "`+id+`"`) {
				continue
			}
			delete(want, id)
			if took := time.Since(began); id != "now" && took < delay-time.Second || id == "now" && took > delay {
				t.Errorf("%q came after %s", id, took)
			}
		}
		if recalls && strings.Contains(answer, `"recalled"`) {
			t.Error("a recalled message came")
		}
	}
	if len(want) > 0 {
		t.Errorf("%v did not come", want)
	}
	if _, answer := post("/consumers/"+name+":pull", `{"max_messages": 10, "wait": "4s"}`); strings.Contains(answer, "ack_token") {
		t.Errorf("something more came: %s", answer)
	}
	c.delete(t, "rmqp/"+name, "rmqc/"+name)
}
