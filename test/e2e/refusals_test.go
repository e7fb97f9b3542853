// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/test/load"
)

func TestAnObjectThatCannotWorkSaysWhyAndCanBeDeleted(t *testing.T) {
	c := start(t)
	c.operator(t, localenv.OperatorOptions{})
	topic, other := c.topic(t, 2), c.topic(t, 1)
	taken := "g_" + unique(t)
	must(t, c.control.Apply(t.Context(), "apiVersion: v1\nkind: Secret\nmetadata: {name: half, namespace: "+namespace+"}\nstringData: {accessKey: someone}\n"))
	older, classic := unique(t)+"-older", unique(t)+"-classic"
	c.apply(t, consumer(older, taken, topic), consumer(classic, "g_"+classic, topic, "driver: ClientGo", "drainTimeoutSeconds: 1"))
	c.waitReady(t, "rmqc/"+older, "rmqc/"+classic)
	// The operator takes other name servers for another RocketMQ, so that it does not see by itself that the group is taken.
	elsewhere := fmt.Sprintf(`connection: {nameServers: [%q, "127.0.0.1:1"]}`, c.broker.NameServers()[0])

	for _, refused := range []struct {
		name, object, manifest, condition, reason, says string
	}{
		{"nothing listens at the name server", "rmqp/wrong-ns", producer("wrong-ns", topic, "driver: Remoting", `connection: {nameServers: ["127.0.0.1:1"]}`), "Connected", "BrokerUnavailable", "127.0.0.1:1"},
		{"an address that is not on the allow-list", "rmqp/meta", producer("meta", topic, `connection: {nameServers: ["169.254.169.254:80"]}`), "Ready", "AddressRefused", "169.254.169.254"},
		{"the Secret is missing", "rmqp/no-secret", producer("no-secret", topic, `connection: {credentialsSecretRef: {name: nowhere}}`), "CredentialsReady", "SecretNotFound", "nowhere"},
		{"the Secret lacks a key", "rmqp/no-key", producer("no-key", topic, `connection: {credentialsSecretRef: {name: half}}`), "CredentialsReady", "SecretKeyMissing", "secretKey"},
		{"the topic does not exist", "rmqp/no-topic", producer("no-topic", "nowhere"), "Ready", "TopicNotFound", "nowhere"},
		{"the SQL filter does not parse", "rmqc/bad-sql", manifest("Consumer", "bad-sql", []string{"group: g_bad_sql", fmt.Sprintf(`subscriptions: [{topic: %s, filter: {sql: "a >"}}]`, topic)}), "Ready", "InvalidFilter", "filter"},
		{"the SQL filter of the second topic cannot work", "rmqc/bad-sql-2", manifest("Consumer", "bad-sql-2", []string{"group: g_bad_sql_2", fmt.Sprintf(`subscriptions: [{topic: %s}, {topic: %s, filter: {sql: "NOT amount > 9"}}]`, topic, other)}), "Accepted", "InvalidFilter", "subscriptions[1].filter.sql"},
		{"an older Consumer has the group", "rmqc/younger", consumer("younger", taken, topic), "Accepted", "GroupInUse", taken},
		{"clients that do not pop are in the group", "rmqc/pops", consumer("pops", "g_"+classic, topic, "driver: Remoting", elsewhere), "Connected", "GroupHasClassicMembers", "do not pop"},
	} {
		t.Run(refused.name, func(t *testing.T) {
			c.apply(t, refused.manifest)
			message := c.awaitCondition(t, 30*time.Second, refused.object, refused.condition, refused.reason)
			t.Log(message)
			if !strings.Contains(message, refused.says) {
				t.Errorf("%s says %q, not a word of %q", refused.condition, message, refused.says)
			}
			if took := c.delete(t, refused.object); took > 40*time.Second {
				t.Errorf("delete took %s", took)
			}
		})
	}
	c.delete(t, "rmqc/"+older, "rmqc/"+classic)
}

func TestBadInputIsRefusedClearlyAndLosesNothing(t *testing.T) {
	c := start(t)
	op := c.operator(t, localenv.OperatorOptions{})
	onDrivers(t, func(t *testing.T, driver string) { badInput(t, c, op, driver) })
}

func badInput(t *testing.T, c *cluster, op *localenv.Operator, driver string) {
	t.Helper()
	topic, name := c.topic(t, 2), unique(t)
	c.apply(t, producer(name, topic, "driver: "+driver), consumer(name, "g_"+name, topic, "driver: "+driver))
	c.waitReady(t, "rmqp/"+name, "rmqc/"+name)
	send := func(producer string) string {
		return "/v1alpha1/namespaces/" + namespace + "/producers/" + producer + ":send"
	}
	receive := func(method string) string {
		return "/v1alpha1/namespaces/" + namespace + "/consumers/" + name + ":" + method
	}
	for _, refused := range []struct {
		name, token, path, body string
		code                    int
		says                    string
	}{
		{"an unknown object", c.appToken, send("nobody"), `{"messages":[{"text":"a"}]}`, http.StatusNotFound, "nobody"},
		{"a topic that is not allowed", c.appToken, send(name), `{"messages":[{"topic":"other","text":"a"}]}`, http.StatusBadRequest, "messages[0].topic"},
		{"an empty body", c.appToken, send(name), `{"messages":[{"text":""}]}`, http.StatusBadRequest, "messages[0]"},
		{"a body of 5 MiB", c.appToken, send(name), `{"messages":[{"text":"` + strings.Repeat("a", 5<<20) + `"}]}`, http.StatusBadRequest, "4194304"},
		{"no messages", c.appToken, send(name), `{}`, http.StatusBadRequest, "messages"},
		{"an unknown field", c.appToken, send(name), `{"messages":[{"tpoic":"x","text":"a"}]}`, http.StatusBadRequest, "tpoic"},
		{"a token that is nonsense", c.appToken, receive("ack"), `{"ack_tokens":["nonsense"]}`, http.StatusOK, "INVALID"},
		{"no bearer token", "", send(name), `{"messages":[{"text":"a"}]}`, http.StatusUnauthorized, "token"},
		{"a bearer token of another audience", c.monToken, send(name), `{"messages":[{"text":"a"}]}`, http.StatusUnauthorized, ""},
		{"a wait that is too long", c.appToken, receive("pull"), `{"wait":"3600s"}`, http.StatusBadRequest, "wait"},
	} {
		t.Run(refused.name, func(t *testing.T) {
			code, answer, err := op.Post(t.Context(), refused.token, refused.path, refused.body)
			must(t, err)
			if code != refused.code || !strings.Contains(string(answer), refused.says) {
				t.Errorf("%d %.400s; expected %d with %q", code, answer, refused.code, refused.says)
			}
		})
	}
	t.Run("1,000 messages with one bad among them", func(t *testing.T) {
		messages := make([]string, 1000)
		for i := range messages {
			messages[i] = fmt.Sprintf(`{"text":"m","id":"%s-%d"}`, name, i)
		}
		messages[500] = `{"text":"m","topic":"other"}`
		code, answer, err := op.Post(t.Context(), c.appToken, send(name), `{"messages":[`+strings.Join(messages, ",")+`]}`)
		must(t, err)
		stored, failed := strings.Count(string(answer), `"message_id":"`+name), strings.Count(string(answer), `"messages[500].topic"`)
		if code != http.StatusOK || stored != 999 || failed != 1 {
			t.Errorf("%d: %d stored, %d refused", code, stored, failed)
		}
		ledger := load.NewLedger()
		for i := range messages {
			if id := fmt.Sprintf("%s-%d", name, i); i != 500 {
				ledger.Trying(id, []byte("m"))
				ledger.SendOK(id)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		received := make(chan error, 1)
		receive, stop := context.WithCancel(ctx)
		go func() {
			received <- load.Receive(receive, c.dial(t, op), ledger, load.ReceiveOptions{Consumer: load.Object{Namespace: namespace, Name: name}, Outstanding: 200})
		}()
		err = load.AwaitAcked(ctx, ledger)
		stop()
		must(t, errors.Join(err, <-received, ledger.Check()))
		if n := ledger.Counts().Delivered; n != 999 {
			t.Errorf("%d deliveries of 999 messages", n)
		}
	})
	c.delete(t, "rmqp/"+name, "rmqc/"+name)
}
