// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

// TestEveryReceiverGetsEveryMessageAndGoesOnAtAnotherHost is a user's way through docs/consumer.md, "Broadcasting", over HTTP: two receivers on two hosts
// get everything; one goes to the other host, which has died meanwhile in its place, and goes on where it was, acknowledging there what it got here;
// one without a name is refused; deleting the Consumer leaves no group at the broker.
func TestEveryReceiverGetsEveryMessageAndGoesOnAtAnotherHost(t *testing.T) {
	c := start(t)
	h := startHosts(t, c)
	name, topic := unique(t), c.topic(t, 2)
	group := "g_" + name
	c.apply(t, producer(name, topic), consumer(name, group, topic, "model: Broadcasting", "broadcast: {maxReceivers: 3}", "drainTimeoutSeconds: 1"))
	c.waitReady(t, "rmqp/"+name, "rmqc/"+name)
	b := &broadcastWalk{t: t, c: c, h: h, name: name}
	b.eventuallyServed()

	b.send("1", "2", "3")
	b.take(0, "screen-1", "1", "2", "3")
	b.take(1, "screen-2", "1", "2", "3")
	if code, answer := b.post(0, "pull", `{"wait": "0s"}`); code != 400 || !strings.Contains(answer, "client_id") {
		t.Errorf("a receiver without a name: %d %s", code, answer)
	} else {
		t.Log(answer)
	}

	b.send("4", "5")
	unacked := b.pull(0, "screen-1", 2)
	b.ack(1, "screen-1", unacked["4"]) // through the other host, which has not had this receiver
	must(t, h.ops[0].Kill())
	b.take(1, "screen-2", "4", "5")
	b.send("6")
	b.take(1, "screen-1", "6")         // the rest of what the dead host delivered is leased to its deadline
	b.ack(1, "screen-1", unacked["5"]) // and is still acknowledged
	if code, answer := b.post(1, "pull", `{"client_id": "screen-1", "wait": "1s"}`); code != 200 || strings.Contains(answer, "ack_token") {
		t.Errorf("something came again: %d %s", code, answer)
	}

	b.take(1, "screen-3", "1", "2", "3", "4", "5", "6") // startFrom: Earliest
	if code, answer := b.post(1, "pull", `{"client_id": "screen-4", "wait": "0s"}`); code != 429 || !strings.Contains(answer, "maxReceivers") {
		t.Errorf("a receiver too many: %d %s", code, answer)
	}
	if groups, err := c.broker.Groups(t.Context(), group); err != nil || len(groups) != 3 {
		t.Errorf("the broker has the groups %q, %v, want one for each receiver", groups, err)
	}
	h.again(0) // a delete waits for dead hosts, which is not what this is about
	c.delete(t, "rmqp/"+name, "rmqc/"+name)
	if groups, err := c.broker.Groups(t.Context(), group); err != nil || len(groups) != 0 {
		t.Errorf("after the Consumer was deleted the broker has the groups %q, %v", groups, err)
	}
}

func TestBroadcastingIsRefusedWhereTheDriverCannot(t *testing.T) {
	c := start(t)
	err := c.control.Apply(t.Context(), consumer(unique(t), "g", "t", "model: Broadcasting", "driver: ClientGo"))
	if err == nil || !strings.Contains(err.Error(), "model Broadcasting needs driver Remoting or Auto") {
		t.Errorf("apply: %v", err)
	}
}

// broadcastWalk calls one Consumer on two hosts.
type broadcastWalk struct {
	t    *testing.T
	c    *cluster
	h    *hosts
	name string
}

func (b *broadcastWalk) post(host int, call, body string) (int, string) {
	b.t.Helper()
	return b.call(b.h.ops[host], "/consumers/"+b.name+":"+call, body)
}

func (b *broadcastWalk) call(op *localenv.Operator, path, body string) (int, string) {
	b.t.Helper()
	code, answer, err := op.Post(b.t.Context(), b.c.appToken, "/v1alpha1/namespaces/"+namespace+path, body)
	must(b.t, err)
	return code, string(answer)
}

// eventuallyServed waits until both hosts have the objects: Ready says that one has.
func (b *broadcastWalk) eventuallyServed() {
	b.t.Helper()
	for host := range b.h.ops {
		eventually(b.t, 30*time.Second, "the host serves the Consumer", func() error {
			if code, answer := b.post(host, "ack", `{"client_id": "nobody", "ack_tokens": []}`); code != 400 {
				return fmt.Errorf("%d %s", code, answer)
			}
			return nil
		})
	}
}

func (b *broadcastWalk) send(texts ...string) {
	b.t.Helper()
	op := b.h.ops[1]
	for _, text := range texts {
		code, answer := b.call(op, "/producers/"+b.name+":send", fmt.Sprintf(`{"messages": [{"text": %q}]}`, text))
		if code != 200 {
			b.t.Fatalf("send: %d %s", code, answer)
		}
	}
}

// pull takes n messages and answers their tokens by text.
func (b *broadcastWalk) pull(host int, clientID string, n int) map[string]string {
	b.t.Helper()
	got := map[string]string{}
	for len(got) < n {
		code, answer := b.post(host, "pull", fmt.Sprintf(`{"client_id": %q, "max_messages": 10, "wait": "20s", "ack_deadline": "60s"}`, clientID))
		var pulled struct {
			Deliveries []struct {
				Message  struct{ Text string }
				AckToken string `json:"ack_token"`
			}
		}
		must(b.t, json.Unmarshal([]byte(answer), &pulled))
		if code != 200 || len(pulled.Deliveries) == 0 {
			b.t.Fatalf("%s on host %d after %v: %d %s", clientID, host, got, code, answer)
		}
		for _, d := range pulled.Deliveries {
			got[d.Message.Text] = d.AckToken
		}
	}
	return got
}

func (b *broadcastWalk) ack(host int, clientID string, tokens ...string) {
	b.t.Helper()
	list, err := json.Marshal(tokens)
	must(b.t, err)
	eventually(b.t, 30*time.Second, "the ack is OK", func() error {
		code, answer := b.post(host, "ack", fmt.Sprintf(`{"client_id": %q, "ack_tokens": %s}`, clientID, list))
		if code != 200 || strings.Count(answer, `"OK"`) != len(tokens) {
			return fmt.Errorf("%d %s", code, answer)
		}
		return nil
	})
}

// take demands exactly these messages, and acknowledges them.
func (b *broadcastWalk) take(host int, clientID string, want ...string) {
	b.t.Helper()
	got, texts, tokens := b.pull(host, clientID, len(want)), []string{}, []string{}
	for text, token := range got {
		texts, tokens = append(texts, text), append(tokens, token)
	}
	slices.Sort(texts)
	if !slices.Equal(texts, want) {
		b.t.Errorf("%s on host %d got %q, want %q", clientID, host, texts, want)
	}
	b.ack(host, clientID, tokens...)
}
