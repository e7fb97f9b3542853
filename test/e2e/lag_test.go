// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

// TestWhatWaitsIsToldAlthoughNobodyReceives: two hosts, one of which asks for each Consumer; an idle one stays idle; and status tells of much.
func TestWhatWaitsIsToldAlthoughNobodyReceives(t *testing.T) {
	c := start(t)
	var ops [2]*localenv.Operator
	for i := range ops {
		ops[i] = c.operator(t, localenv.OperatorOptions{HostID: fmt.Sprintf("%s-%c", unique(t), 'a'+i), ExtraArgs: []string{"--lag-interval=1s"}})
	}
	name, topic := unique(t), c.topic(t, 4)
	idle := name + "-idle"
	c.apply(t, producer(name, topic, "driver: Remoting"), consumer(name, "g_"+name, topic, "driver: Remoting", "drainTimeoutSeconds: 1"),
		consumer(idle, "g_"+idle, topic, "driver: Remoting", "idleTimeoutSeconds: 1"))
	c.waitReady(t, "rmqp/"+name, "rmqc/"+name, "rmqc/"+idle)
	const n = 1500
	for sent := 0; sent < n; sent += 500 {
		body := `{"messages": [` + strings.TrimSuffix(strings.Repeat(`{"text": "x"},`, 500), ",") + `]}`
		code, answer, err := ops[0].Post(t.Context(), c.appToken, "/v1alpha1/namespaces/"+namespace+"/producers/"+name+":send", body)
		if must(t, err); code != 200 {
			t.Fatalf("send: %d %s", code, answer)
		}
	}
	began := time.Now()
	told := func(consumer string, waiting float64, old bool) func() error {
		return func() error {
			hosts, text := 0, ""
			for _, op := range ops {
				samples, err := op.Metrics(t.Context(), c.monToken)
				if err != nil {
					return err
				}
				labels := fmt.Sprintf(`{name=%q,namespace=%q,topic=%q}`, consumer, namespace, topic)
				waits, found := samples["rocketmq_proxy_waiting_messages"+labels]
				age := samples["rocketmq_proxy_oldest_waiting_seconds"+labels]
				text += fmt.Sprintf("%v %v %v; ", found, waits, age)
				if found {
					hosts++
				}
				if found && (waits != waiting || (age > 0) != old || age > time.Since(began).Seconds()+5) {
					return fmt.Errorf("%s", text)
				}
			}
			if hosts != 1 {
				return fmt.Errorf("%d hosts tell: %s", hosts, text)
			}
			return nil
		}
	}
	eventually(t, 15*time.Second, "the metrics have what waits", told(name, n, true))
	eventually(t, 15*time.Second, "the metrics have what waits for the idle one", told(idle, n, true))
	if _, reason, _ := c.condition(t, "rmqc/"+idle, "Ready"); reason != "Idle" {
		t.Errorf("the question has woken the idle Consumer: %s", reason)
	}
	eventually(t, 15*time.Second, "status tells of much", func() error {
		out, err := c.control.Output(t.Context(), "get", "-n", namespace, "rmqc/"+name, "-o", "jsonpath={.status.lag}")
		if err == nil && !strings.Contains(out, fmt.Sprintf(`"waiting":%d`, n)) {
			err = fmt.Errorf("status.lag is %q", out)
		}
		if err == nil {
			t.Log(out)
		}
		return err
	})
	if got := c.pullIDs(t, ops[1], name, n); len(got) < n {
		t.Errorf("%d of %d came", len(got), n)
	}
	eventually(t, 15*time.Second, "nothing waits any more", told(name, 0, false))
	c.delete(t, "rmqp/"+name, "rmqc/"+name, "rmqc/"+idle)
}
