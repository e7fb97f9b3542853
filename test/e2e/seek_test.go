// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

// TestAConsumerIsMovedOnAllHosts is a user's way through docs/consumer.md, "Moving a Consumer": two hosts serve it; it is moved by the annotation and by a call
// to one host, and the other brings the same.
func TestAConsumerIsMovedOnAllHosts(t *testing.T) {
	c := start(t)
	h := startHosts(t, c)
	name, topic := unique(t), c.topic(t, 4)
	c.apply(t, producer(name, topic, "driver: Remoting"), consumer(name, "g_"+name, topic, "driver: Remoting", "drainTimeoutSeconds: 1", "ackDeadlineSeconds: 10"))
	c.waitReady(t, "rmqp/"+name, "rmqc/"+name)
	path := "/v1alpha1/namespaces/" + namespace + "/consumers/" + name
	send := func(prefix string) (ids []string) {
		t.Helper()
		var messages []string
		for i := range 8 {
			ids = append(ids, fmt.Sprintf("%s-%d", prefix, i))
			messages = append(messages, fmt.Sprintf(`{"id": %q, "text": "x"}`, ids[i]))
		}
		code, answer, err := h.ops[0].Post(t.Context(), c.appToken, "/v1alpha1/namespaces/"+namespace+"/producers/"+name+":send", `{"messages": [`+strings.Join(messages, ", ")+`]}`)
		if must(t, err); code != 200 {
			t.Fatalf("send: %d %s", code, answer)
		}
		return ids
	}
	want := func(host int, what string, ids ...string) {
		t.Helper()
		slices.Sort(ids)
		// A poll that the other host has left at the broker may take some; they are given back after a second and come again 2 s later.
		var got []string
		for end := time.Now().Add(20 * time.Second); len(got) < len(ids) && time.Now().Before(end); {
			got = append(got, c.pullIDs(t, h.ops[host], name, len(ids)-len(got))...)
		}
		if len(ids) == 0 {
			got = c.pullIDs(t, h.ops[host], name, 1)
		}
		if slices.Sort(got); !slices.Equal(got, ids) {
			t.Fatalf("%s: %q, want %q", what, got, ids)
		}
	}
	old := send("old")
	want(0, "the first time", old...)
	sent := send("more")
	// Leased through the second host when the Consumer is moved.
	eventually(t, 20*time.Second, "the second host delivers", func() error {
		code, answer, err := h.ops[1].Post(t.Context(), c.appToken, path+":pull", `{"max_messages": 3, "wait": "3s"}`)
		if err == nil && (code != 200 || !strings.Contains(string(answer), "ack_token")) {
			err = fmt.Errorf("%d %s", code, answer)
		}
		return err
	})
	must(t, c.control.Kubectl(t.Context(), testWriter{t}, "annotate", "-n", namespace, "rmqc/"+name, "proxy.rocketmq.io/seek-to=Latest"))
	c.awaitSeek(t, name, "Latest", "Done")
	for i := range h.ops {
		want(i, "after the annotation Latest")
	}
	between := time.Now()
	<-time.After(10 * time.Millisecond) // by the broker's clock, which is this machine's
	fresh := send("fresh")
	want(1, "sent after the seek", fresh...)
	code, answer, err := h.ops[1].Post(t.Context(), c.appToken, path+":seek", fmt.Sprintf(`{"time": %q}`, between.UTC().Format(time.RFC3339Nano)))
	if must(t, err); code != 200 || !strings.Contains(string(answer), "sought_at") {
		t.Fatalf("seek to a time: %d %s", code, answer)
	}
	t.Logf("%s", answer)
	want(0, "after the seek to a time", fresh...)
	code, answer, err = h.ops[0].Post(t.Context(), c.appToken, path+":seek", `{"end": "EARLIEST"}`)
	if must(t, err); code != 200 {
		t.Fatalf("seek to the beginning: %d %s", code, answer)
	}
	want(1, "after the seek to the beginning", slices.Concat(old, sent, fresh)...)
	for _, args := range [][]string{
		{"get", "-n", namespace, "rmqc/" + name, "-o", "yaml", "--show-managed-fields=false"},
		{"events", "-n", namespace, "--for", "consumer/" + name},
	} {
		out, err := c.control.Output(t.Context(), args...)
		must(t, err)
		t.Logf("%s", out)
		if args[0] == "events" && (!strings.Contains(out, "moved to Latest by annotation") || !strings.Contains(out, "moved to Earliest by system:serviceaccount:")) {
			t.Error("the Events do not tell of the seeks")
		}
	}
	c.delete(t, "rmqp/"+name, "rmqc/"+name)
}

func TestASeekThatCannotBeSaysSo(t *testing.T) {
	c := start(t)
	op := c.operator(t, localenv.OperatorOptions{})
	name, topic := unique(t), c.topic(t, 1)
	c.apply(t, consumer(name, "g_"+name, topic, "driver: ClientGo", "drainTimeoutSeconds: 1"))
	c.waitReady(t, "rmqc/"+name)
	path := "/v1alpha1/namespaces/" + namespace + "/consumers/"
	for _, bad := range []struct {
		what, token, consumer, body string
		code                        int
		says                        string
	}{
		{"the driver cannot", c.appToken, name, `{"end": "LATEST"}`, 400, "ClientGo cannot move a group"},
		{"nowhere", c.appToken, name, `{}`, 400, "where to is missing"},
		{"no such Consumer", c.appToken, "nobody", `{"end": "LATEST"}`, 404, "nobody"},
		{"who may not manage", c.monToken, name, `{"end": "LATEST"}`, 401, ""},
	} {
		code, answer, err := op.Post(t.Context(), bad.token, path+bad.consumer+":seek", bad.body)
		if must(t, err); code != bad.code || !strings.Contains(string(answer), bad.says) {
			t.Errorf("%s: %d %s", bad.what, code, answer)
		}
		t.Logf("%s: %d %s", bad.what, code, answer)
	}
	must(t, c.control.Kubectl(t.Context(), testWriter{t}, "annotate", "-n", namespace, "rmqc/"+name, "proxy.rocketmq.io/seek-to=yesterday"))
	c.awaitSeek(t, name, "yesterday", "Failed")
	must(t, c.control.Kubectl(t.Context(), testWriter{t}, "annotate", "-n", namespace, "--overwrite", "rmqc/"+name, "proxy.rocketmq.io/seek-to=Latest"))
	c.awaitSeek(t, name, "Latest", "Failed")
}

// awaitSeek waits until the seek to that place has that state.
func (c *cluster) awaitSeek(t *testing.T, consumer, to, state string) {
	t.Helper()
	eventually(t, 20*time.Second, "the seek to "+to+" is "+state, func() error {
		out, err := c.control.Output(t.Context(), "get", "-n", namespace, "rmqc/"+consumer, "-o", `jsonpath={.status.seek.to} {.status.seek.state} {.status.seek.message}`)
		if err == nil && !strings.HasPrefix(out, to+" "+state) {
			err = fmt.Errorf("status.seek: %s", out)
		}
		if err == nil {
			t.Log(out)
		}
		return err
	})
}

// testWriter puts what a command says into the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}
