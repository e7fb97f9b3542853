// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
)

const (
	goodProducer = "topics: [orders]"
	goodConsumer = "group: mailer\nsubscriptions: [{topic: orders}]"
)

// raw makes an object from the YAML of its spec, as kubectl would send it.
func raw(t *testing.T, kind, namespace, name, spec string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{}}
	var s map[string]any
	must(t, yaml.Unmarshal([]byte(spec), &s))
	u.Object["spec"] = s
	u.SetAPIVersion(proxyv1alpha1.GroupVersion.String())
	u.SetKind(kind)
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

func wantRefusal(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("the API server took it; want a refusal with %q", texts)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the refusal does not contain %q: %v", text, err)
		}
	}
}

func TestWrongObjectsAreRefusedWithTheFieldsName(t *testing.T) {
	namespace := newNamespace(t)
	servers := func(s string) string { return goodProducer + "\nconnection: {nameServers: [" + s + "]}" }
	for i, c := range []struct {
		name, kind, spec string
		want             []string
	}{
		{"a name server without a port", "Producer", servers("'namesrv'"), []string{"spec.connection.nameServers[0]", "host:port"}},
		{"a name server with a scheme", "Producer", servers("'http://namesrv:9876'"), []string{"spec.connection.nameServers[0]", "host:port"}},
		{"a name server with a port that does not exist", "Producer", servers("'namesrv:98760'"), []string{"spec.connection.nameServers[0]", "port", "65535"}},
		{"a name server with port 0", "Producer", servers("'namesrv:0'"), []string{"spec.connection.nameServers[0]", "port"}},
		{"an IPv6 name server without brackets", "Producer", servers("'2001:db8::7:9876'"), []string{"spec.connection.nameServers[0]", "host:port"}},
		{"something else than IPv6 in brackets", "Producer", servers("'[1:2]:9876'"), []string{"spec.connection.nameServers[0]", "IPv6"}},
		{"two name servers in one string", "Producer", servers("'a:1;b:2'"), []string{"spec.connection.nameServers[0]", "host:port"}},
		{"the second name server is wrong", "Producer", servers("'a:1', 'b'"), []string{"spec.connection.nameServers[1]"}},
		{"the same name server twice", "Producer", servers("'a:1', 'a:1'"), []string{"spec.connection.nameServers[1]", "Duplicate"}},
		{"an empty list of name servers", "Producer", servers(""), []string{"spec.connection.nameServers", "at least 1"}},
		{"seventeen name servers", "Producer", servers(many(17, "'n%d:1'")), []string{"spec.connection.nameServers", "at most 16"}},
		{"a RocketMQ namespace with a percent sign", "Producer", goodProducer + "\nconnection: {namespace: 'a%b'}", []string{"spec.connection.namespace", "letters"}},
		{"a secret reference without a name", "Producer", goodProducer + "\nconnection: {credentialsSecretRef: {}}", []string{"spec.connection.credentialsSecretRef.name"}},
		{"an unknown driver", "Producer", goodProducer + "\ndriver: Memory", []string{"spec.driver", "Auto", "ClientGo", "Remoting"}},
		{"tls with a driver that cannot", "Producer", goodProducer + "\ndriver: ClientGo\nconnection: {tls: {}}", []string{"spec.connection.tls", "Remoting or Auto"}},
		{"tls with a driver that cannot, for a consumer", "Consumer", goodConsumer + "\ndriver: ClientGo\nconnection: {tls: {secretRef: {name: a}}}", []string{"spec.connection.tls", "Remoting or Auto"}},
		{"a tls secret reference without a name", "Producer", goodProducer + "\nconnection: {tls: {secretRef: {}}}", []string{"spec.connection.tls.secretRef.name"}},
		{"a tls secret's name that is too long", "Producer", goodProducer + "\nconnection: {tls: {secretRef: {name: " + strings.Repeat("a", 254) + "}}}", []string{"spec.connection.tls.secretRef.name", "253"}},
		{"a server name with a port", "Producer", goodProducer + "\nconnection: {tls: {serverName: 'broker:10911'}}", []string{"spec.connection.tls.serverName", "host name or an IP address"}},
		{"a server name for many", "Consumer", goodConsumer + "\nconnection: {tls: {serverName: '*.rocketmq'}}", []string{"spec.connection.tls.serverName", "host name or an IP address"}},
		{"an empty server name", "Producer", goodProducer + "\nconnection: {tls: {serverName: ''}}", []string{"spec.connection.tls.serverName"}},
		{"a server name that is too long", "Producer", goodProducer + "\nconnection: {tls: {serverName: " + strings.Repeat("a", 254) + "}}", []string{"spec.connection.tls.serverName", "253"}},
		{"a drain time-out above the range", "Producer", goodProducer + "\ndrainTimeoutSeconds: 601", []string{"spec.drainTimeoutSeconds", "600"}},
		{"a drain time-out below zero", "Producer", goodProducer + "\ndrainTimeoutSeconds: -1", []string{"spec.drainTimeoutSeconds"}},

		{"a producer without topics", "Producer", "{}", []string{"spec.topics", "Required"}},
		{"a producer with no topic in the list", "Producer", "topics: []", []string{"spec.topics", "at least 1"}},
		{"a topic with a blank", "Producer", "topics: ['a b']", []string{"spec.topics[0]", "letters"}},
		{"a topic that is too long", "Producer", "topics: [" + strings.Repeat("a", 128) + "]", []string{"spec.topics[0]", "127"}},
		{"a topic that is too long with its namespace", "Producer", "topics: [" + strings.Repeat("a", 120) + "]\nconnection: {namespace: longname}", []string{"spec.topics", "127"}},
		{"the same topic twice", "Producer", "topics: [a, a]", []string{"spec.topics[1]", "Duplicate"}},
		{"sixty-five topics", "Producer", "topics: [" + many(65, "t%d") + "]", []string{"spec.topics", "at most 64"}},
		{"sending to a retry topic", "Producer", "topics: ['%RETRY%g']", []string{"spec.topics[0]", "retry"}},
		{"a group with a dot", "Producer", goodProducer + "\ngroup: a.b", []string{"spec.group", "letters"}},
		{"a group of RocketMQ's own", "Producer", goodProducer + "\ngroup: DEFAULT_PRODUCER", []string{"spec.group", "choose another"}},
		{"a send time-out of zero", "Producer", goodProducer + "\nsendTimeoutSeconds: 0", []string{"spec.sendTimeoutSeconds"}},
		{"a send time-out above the range", "Producer", goodProducer + "\nsendTimeoutSeconds: 61", []string{"spec.sendTimeoutSeconds", "60"}},
		{"six retries", "Producer", goodProducer + "\nretries: 6", []string{"spec.retries", "5"}},
		{"a largest message of zero", "Producer", goodProducer + "\nmaxMessageBytes: 0", []string{"spec.maxMessageBytes"}},
		{"a compression limit below zero", "Producer", goodProducer + "\ncompressAboveBytes: -1", []string{"spec.compressAboveBytes"}},
		{"an unknown batching", "Producer", goodProducer + "\nbatching: On", []string{"spec.batching", "Enabled"}},
		{"an idle time-out below zero", "Producer", goodProducer + "\nidleTimeoutSeconds: -1", []string{"spec.idleTimeoutSeconds"}},

		{"a rate limit that limits nothing", "Producer", goodProducer + "\nrateLimit: {}", []string{"spec.rateLimit", "messagesPerSecond or bytesPerSecond"}},
		{"a rate of no messages", "Producer", goodProducer + "\nrateLimit: {messagesPerSecond: 0}", []string{"spec.rateLimit.messagesPerSecond"}},
		{"a rate above the range", "Producer", goodProducer + "\nrateLimit: {messagesPerSecond: 10000001}", []string{"spec.rateLimit.messagesPerSecond", "10000000"}},
		{"a rate of less than no bytes", "Consumer", goodConsumer + "\nrateLimit: {bytesPerSecond: -1}", []string{"spec.rateLimit.bytesPerSecond"}},
		{"a rate in bytes above the range", "Consumer", goodConsumer + "\nrateLimit: {bytesPerSecond: 1099511627777}", []string{"spec.rateLimit.bytesPerSecond", "1099511627776"}},
		{"a rate that is a text", "Consumer", goodConsumer + "\nrateLimit: {messagesPerSecond: '10'}", []string{"spec.rateLimit.messagesPerSecond"}},

		{"a deduplication window below zero", "Producer", goodProducer + "\ndeduplicationWindowSeconds: -1", []string{"spec.deduplicationWindowSeconds"}},
		{"a deduplication window of more than an hour", "Producer", goodProducer + "\ndeduplicationWindowSeconds: 3601", []string{"spec.deduplicationWindowSeconds", "3600"}},

		{"a consumer without a group", "Consumer", "subscriptions: [{topic: a}]", []string{"spec.group", "Required"}},
		{"a consumer without subscriptions", "Consumer", "group: g", []string{"spec.subscriptions", "Required"}},
		{"a consumer with no subscription in the list", "Consumer", "group: g\nsubscriptions: []", []string{"spec.subscriptions", "at least 1"}},
		{"a subscription without a topic", "Consumer", "group: g\nsubscriptions: [{filter: {tag: a}}]", []string{"spec.subscriptions[0].topic"}},
		{"the same topic in two subscriptions", "Consumer", "group: g\nsubscriptions: [{topic: a}, {topic: a, filter: {tag: x}}]", []string{"spec.subscriptions[1]", "Duplicate"}},
		{"tag and SQL together", "Consumer", "group: g\nsubscriptions: [{topic: a, filter: {tag: x, sql: 'a > 1'}}]", []string{"spec.subscriptions[0].filter.sql", "tag and sql"}},
		{"an empty filter", "Consumer", "group: g\nsubscriptions: [{topic: a, filter: {}}]", []string{"spec.subscriptions[0].filter", "tag or sql"}},
		{"a group of RocketMQ's own tools", "Consumer", "group: CID_RMQ_SYS_X\nsubscriptions: [{topic: a}]", []string{"spec.group", "choose another"}},
		{"an unknown model", "Consumer", goodConsumer + "\nmodel: Everybody", []string{"spec.model", "Broadcasting"}},
		{"broadcasting with a driver that cannot", "Consumer", goodConsumer + "\nmodel: Broadcasting\ndriver: ClientGo", []string{"spec.model", "Remoting or Auto"}},
		{"broadcasting with an idle time-out", "Consumer", goodConsumer + "\nmodel: Broadcasting\nidleTimeoutSeconds: 60", []string{"spec.idleTimeoutSeconds", "Broadcasting"}},
		{"a group that is too long to broadcast", "Consumer", "group: " + strings.Repeat("g", 99) + "\nsubscriptions: [{topic: a}]\nmodel: Broadcasting", []string{"spec.group", "98"}},
		{"a group that is too long to broadcast with its namespace", "Consumer", "group: " + strings.Repeat("g", 95) + "\nsubscriptions: [{topic: a}]\nmodel: Broadcasting\nconnection: {namespace: abc}", []string{"spec.group", "98"}},
		{"bounds of receivers without broadcasting", "Consumer", goodConsumer + "\nbroadcast: {maxReceivers: 10}", []string{"spec.broadcast", "model Broadcasting"}},
		{"no receivers at all", "Consumer", goodConsumer + "\nmodel: Broadcasting\nbroadcast: {maxReceivers: 0}", []string{"spec.broadcast.maxReceivers"}},
		{"too many receivers", "Consumer", goodConsumer + "\nmodel: Broadcasting\nbroadcast: {maxReceivers: 1001}", []string{"spec.broadcast.maxReceivers", "1000"}},
		{"receivers that expire too soon", "Consumer", goodConsumer + "\nmodel: Broadcasting\nbroadcast: {receiverExpirySeconds: 3599}", []string{"spec.broadcast.receiverExpirySeconds", "3600"}},
		{"an unknown start position", "Consumer", goodConsumer + "\nstartFrom: Middle", []string{"spec.startFrom", "Latest"}},
		{"Timestamp without a time", "Consumer", goodConsumer + "\nstartFrom: Timestamp", []string{"spec.startTime", "needed with startFrom Timestamp"}},
		{"a time without a startFrom", "Consumer", goodConsumer + "\nstartTime: '2026-11-26T08:00:00Z'", []string{"spec.startTime", "belongs to it alone"}},
		{"a time with Earliest", "Consumer", goodConsumer + "\nstartFrom: Earliest\nstartTime: '2026-11-26T08:00:00Z'", []string{"spec.startTime", "belongs to it alone"}},
		{"a time that is none", "Consumer", goodConsumer + "\nstartFrom: Timestamp\nstartTime: yesterday", []string{"spec.startTime", "date-time"}},
		{"an ack deadline below the range", "Consumer", goodConsumer + "\nackDeadlineSeconds: 9", []string{"spec.ackDeadlineSeconds", "10"}},
		{"an ack deadline above the range", "Consumer", goodConsumer + "\nackDeadlineSeconds: 601", []string{"spec.ackDeadlineSeconds", "600"}},
		{"nothing may be in flight", "Consumer", goodConsumer + "\nmaxInFlight: 0", []string{"spec.maxInFlight"}},
		{"too much in flight", "Consumer", goodConsumer + "\nmaxInFlight: 10001", []string{"spec.maxInFlight", "10000"}},
		{"no bytes in flight", "Consumer", goodConsumer + "\nmaxInFlightBytes: 0", []string{"spec.maxInFlightBytes"}},
		{"transactions with a driver that cannot", "Producer", goodProducer + "\ndriver: ClientGo\ntransactions: {}", []string{"spec.transactions", "Remoting or Auto"}},
		{"an address for checks that is none", "Producer", goodProducer + "\ntransactions: {checkURL: 'checks'}", []string{"spec.transactions.checkURL", "http://"}},
		{"an address for checks of another kind", "Producer", goodProducer + "\ntransactions: {checkURL: 'file:///etc/passwd'}", []string{"spec.transactions.checkURL", "http://"}},
		{"an address for checks with a password", "Producer", goodProducer + "\ntransactions: {checkURL: 'http://a:b@shop/checks'}", []string{"spec.transactions.checkURL", "without a user"}},
		{"an empty address for checks", "Producer", goodProducer + "\ntransactions: {checkURL: ''}", []string{"spec.transactions.checkURL"}},
		{"an address for checks that is too long", "Producer", goodProducer + "\ntransactions: {checkURL: 'http://shop/" + strings.Repeat("a", 1024) + "'}", []string{"spec.transactions.checkURL", "1024"}},
		{"an address for checks of a client that stops", "Producer", goodProducer + "\nidleTimeoutSeconds: 60\ntransactions: {checkURL: 'http://shop/checks'}", []string{"spec.idleTimeoutSeconds", "checkURL"}},
		{"order with a driver that cannot", "Consumer", goodConsumer + "\norder: Ordered\ndriver: ClientGo", []string{"spec.order", "Remoting or Auto"}},
		{"order for every receiver", "Consumer", goodConsumer + "\norder: Ordered\nmodel: Broadcasting", []string{"spec.order", "Clustering"}},
		{"an order that there is not", "Consumer", goodConsumer + "\norder: Global", []string{"spec.order", "Ordered"}},
		{"an idle time-out with a driver that cannot", "Consumer", goodConsumer + "\nidleTimeoutSeconds: 60\ndriver: ClientGo", []string{"spec.idleTimeoutSeconds", "Remoting or Auto"}},
		{"an idle time-out of more than a week", "Consumer", goodConsumer + "\nidleTimeoutSeconds: 604801", []string{"spec.idleTimeoutSeconds", "604800"}},
		{"a back-off of no kind", "Consumer", goodConsumer + "\nretryBackoff: {}", []string{"spec.retryBackoff", "exponential or stepsSeconds"}},
		{"a back-off of both kinds", "Consumer", goodConsumer + "\nretryBackoff: {exponential: {initialSeconds: 1, maxSeconds: 2}, stepsSeconds: [1]}", []string{"spec.retryBackoff.stepsSeconds", "exclude each other"}},
		{"a back-off whose cap is below its first delay", "Consumer", goodConsumer + "\nretryBackoff: {exponential: {initialSeconds: 3, maxSeconds: 2}}", []string{"spec.retryBackoff.exponential.maxSeconds", "below initialSeconds"}},
		{"a back-off without a cap", "Consumer", goodConsumer + "\nretryBackoff: {exponential: {initialSeconds: 3}}", []string{"spec.retryBackoff.exponential.maxSeconds", "Required"}},
		{"a back-off that begins at zero", "Consumer", goodConsumer + "\nretryBackoff: {exponential: {initialSeconds: 0, maxSeconds: 2}}", []string{"spec.retryBackoff.exponential.initialSeconds"}},
		{"a back-off of more than two hours", "Consumer", goodConsumer + "\nretryBackoff: {exponential: {initialSeconds: 1, maxSeconds: 7201}}", []string{"spec.retryBackoff.exponential.maxSeconds", "7200"}},
		{"a back-off that grows too fast", "Consumer", goodConsumer + "\nretryBackoff: {exponential: {initialSeconds: 1, maxSeconds: 2, multiplier: 11}}", []string{"spec.retryBackoff.exponential.multiplier", "10"}},
		{"a back-off of no steps", "Consumer", goodConsumer + "\nretryBackoff: {stepsSeconds: []}", []string{"spec.retryBackoff.stepsSeconds", "at least 1"}},
		{"a back-off of thirty-three steps", "Consumer", goodConsumer + "\nretryBackoff: {stepsSeconds: [" + many(33, "%d") + "]}", []string{"spec.retryBackoff.stepsSeconds", "at most 32"}},
		{"a step back in time", "Consumer", goodConsumer + "\nretryBackoff: {stepsSeconds: [1, -1]}", []string{"spec.retryBackoff.stepsSeconds[1]"}},
		{"a step of more than two hours", "Consumer", goodConsumer + "\nretryBackoff: {stepsSeconds: [7201]}", []string{"spec.retryBackoff.stepsSeconds[0]", "7200"}},
		{"no delivery attempt", "Consumer", goodConsumer + "\nmaxDeliveryAttempts: 0", []string{"spec.maxDeliveryAttempts"}},
		{"too many delivery attempts", "Consumer", goodConsumer + "\nmaxDeliveryAttempts: 101", []string{"spec.maxDeliveryAttempts", "100"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantRefusal(t, direct.Create(t.Context(), raw(t, c.kind, namespace, fmt.Sprintf("bad-%d", i), c.spec)), c.want...)
		})
	}
}

func many(n int, format string) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(format, i)
	}
	return strings.Join(list, ", ")
}

func TestGoodObjectsAreTaken(t *testing.T) {
	namespace := newNamespace(t)
	for i, c := range []struct{ name, kind, spec string }{
		{"the shortest producer", "Producer", goodProducer},
		{"the shortest consumer", "Consumer", goodConsumer},
		{"every form of a name server", "Producer", goodProducer +
			"\nconnection: {nameServers: ['namesrv:9876', '10.0.0.7:9876', '[::1]:9876', '[2001:db8::7]:1', 'a.b.svc.cluster.local.:65535', 'under_score:9876']}"},
		{"sixteen long name servers", "Producer", goodProducer + "\nconnection: {nameServers: [" + many(16, "'n%d."+strings.Repeat("a", 240)+":9876'") + "]}"},
		{"zeros that mean something", "Producer", goodProducer + "\ndrainTimeoutSeconds: 0\nretries: 0\ncompressAboveBytes: 0\nidleTimeoutSeconds: 0"},
		{"everything at its limit", "Producer", "topics: [" + many(64, "t%d") +
			"]\nsendTimeoutSeconds: 60\nretries: 5\nmaxMessageBytes: 33554432\ndrainTimeoutSeconds: 600\nsuspend: true\nbatching: Disabled"},
		{"a deduplication window of an hour", "Producer", goodProducer + "\ndeduplicationWindowSeconds: 3600"},
		{"broadcasting", "Consumer", goodConsumer + "\nmodel: Broadcasting\nidleTimeoutSeconds: 0"},
		{"broadcasting with everything at its limit", "Consumer", "group: " + strings.Repeat("g", 94) +
			"\nsubscriptions: [{topic: a}]\nmodel: Broadcasting\nbroadcast: {maxReceivers: 1000, receiverExpirySeconds: 31536000}\nconnection: {namespace: abc}"},
		{"the model by its name", "Consumer", goodConsumer + "\nmodel: Clustering\ndriver: ClientGo"},
		{"a rate in messages", "Producer", goodProducer + "\nrateLimit: {messagesPerSecond: 1}"},
		{"a rate in both, at its limit", "Consumer", goodConsumer + "\nrateLimit: {messagesPerSecond: 10000000, bytesPerSecond: 1099511627776}"},
		{"tls with nothing in it", "Producer", goodProducer + "\nconnection: {tls: {}}"},
		{"tls with a secret and a name", "Consumer", goodConsumer + "\ndriver: Remoting\nconnection: {tls: {secretRef: {name: certificates}, serverName: broker.rocketmq.svc}}"},
		{"tls with an IP address as server name", "Producer", goodProducer + "\ndriver: Remoting\nconnection: {tls: {serverName: '2001:db8::7'}}"},
		{"transactions", "Producer", goodProducer + "\ntransactions: {}"},
		{"transactions with an address for checks", "Producer", goodProducer + "\ntransactions: {checkURL: 'https://orders.shop.svc:8443/rocketmq/checks?of=orders'}"},
		{"transactions of a client that stops", "Producer", goodProducer + "\nidleTimeoutSeconds: 60\ntransactions: {}"},
		{"transactions with a driver that can", "Producer", goodProducer + "\ndriver: Remoting\ntransactions: {}"},
		{"every driver", "Producer", goodProducer + "\ndriver: ClientGo"},
		{"order", "Consumer", goodConsumer + "\norder: Ordered\ndriver: Remoting"},
		{"no order with ClientGo", "Consumer", goodConsumer + "\norder: Unordered\ndriver: ClientGo"},
		{"an idle time-out", "Consumer", goodConsumer + "\nidleTimeoutSeconds: 60\ndriver: Remoting"},
		{"an idle time-out of zero with ClientGo", "Consumer", goodConsumer + "\nidleTimeoutSeconds: 0\ndriver: ClientGo"},
		{"the dead-letter topic of a group is received", "Consumer", "group: g\nsubscriptions: [{topic: '%DLQ%other'}]"},
		{"tag and SQL in two subscriptions", "Consumer",
			"group: g\nsubscriptions: [{topic: a, filter: {tag: 'x || y'}}, {topic: b, filter: {sql: \"n > 1 AND r = 'eu'\"}}]\nstartFrom: Earliest"},
		{"a back-off that grows", "Consumer", goodConsumer + "\nretryBackoff: {exponential: {initialSeconds: 1, maxSeconds: 7200, multiplier: 10}}"},
		{"a back-off that stays as it is", "Consumer", goodConsumer + "\nretryBackoff: {exponential: {initialSeconds: 5, maxSeconds: 5}}"},
		{"a back-off of thirty-two steps", "Consumer", goodConsumer + "\nretryBackoff: {stepsSeconds: [" + many(31, "%d") + ", 7200]}"},
		{"a start at a time", "Consumer", goodConsumer + "\nstartFrom: Timestamp\nstartTime: '2026-11-26T09:00:00+01:00'"},
		{"thirty-two subscriptions", "Consumer", "group: g\nsubscriptions: [" + many(32, "{topic: t%d, filter: {tag: x}}") + "]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, direct.Create(t.Context(), raw(t, c.kind, namespace, fmt.Sprintf("good-%d", i), c.spec)))
		})
	}
}

func TestDefaultsAreTheDocumentedOnes(t *testing.T) {
	namespace := newNamespace(t)
	producer := &proxyv1alpha1.Producer{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p"}}
	producer.Spec.Topics = []string{"orders"}
	must(t, direct.Create(t.Context(), producer))
	var absent proxyv1alpha1.ProducerSpec // what an object that was never defaulted means
	if p := producer.Spec; p.DrainTimeout() != 30*time.Second || p.SendTimeout() != 3*time.Second || p.RetriesOrDefault() != 2 ||
		p.MaxMessageBytes != 4194304 || p.CompressAbove() != 4096 || p.Batching != proxyv1alpha1.BatchingEnabled ||
		p.IdleTimeout() != 0 || p.Driver != proxyv1alpha1.DriverAuto || p.Suspend {
		t.Errorf("defaults of a Producer: %+v", p)
	} else if absent.DrainTimeout() != p.DrainTimeout() || absent.SendTimeout() != p.SendTimeout() || absent.RetriesOrDefault() != p.RetriesOrDefault() ||
		absent.MaxMessageBytesOrDefault() != p.MaxMessageBytesOrDefault() || absent.CompressAbove() != p.CompressAbove() {
		t.Errorf("an absent field means something else in the code than in the schema: %+v", p)
	}
	consumer := &proxyv1alpha1.Consumer{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "c"}}
	consumer.Spec.Group, consumer.Spec.Subscriptions = "g", []proxyv1alpha1.Subscription{{Topic: "orders"}}
	must(t, direct.Create(t.Context(), consumer))
	var none proxyv1alpha1.ConsumerSpec
	if c := consumer.Spec; c.StartFrom != proxyv1alpha1.StartFromLatest || c.AckDeadlineSeconds != 60 || c.MaxInFlight != 256 ||
		c.MaxInFlightBytes != 64<<20 || c.MaxDeliveryAttempts != 16 {
		t.Errorf("defaults of a Consumer: %+v", c)
	} else if none.AckDeadline() != c.AckDeadline() || none.MaxInFlightOrDefault() != c.MaxInFlightOrDefault() ||
		none.MaxInFlightBytesOrDefault() != c.MaxInFlightBytesOrDefault() || none.MaxDeliveryAttemptsOrDefault() != c.MaxDeliveryAttemptsOrDefault() {
		t.Errorf("an absent field means something else in the code than in the schema: %+v", c)
	}
	if producer.Status.ObservedGeneration != -1 || consumer.Status.ObservedGeneration != -1 {
		t.Errorf("observedGeneration of new objects is %d and %d, want -1: kubectl wait must not believe a status that nobody has written",
			producer.Status.ObservedGeneration, consumer.Status.ObservedGeneration)
	}
}

func TestImmutableFieldsStayAsTheyWereCreated(t *testing.T) {
	namespace := newNamespace(t)
	const atNoon = goodConsumer + "\nstartFrom: Timestamp\nstartTime: '2026-11-26T12:00:00Z'"
	for i, c := range []struct{ name, kind, before, after, want string }{
		{"a producer's group is changed", "Producer", goodProducer + "\ngroup: a", goodProducer + "\ngroup: b", "spec.group"},
		{"a producer's group is set later", "Producer", goodProducer, goodProducer + "\ngroup: b", "spec.group"},
		{"a producer's group is removed", "Producer", goodProducer + "\ngroup: a", goodProducer, "spec.group"},
		{"a producer's topics are changed", "Producer", goodProducer, "topics: [other, orders]", ""},
		{"a producer's connection is changed", "Producer", goodProducer, goodProducer + "\nconnection: {nameServers: ['a:1']}", ""},
		{"a consumer's group is changed", "Consumer", goodConsumer, strings.Replace(goodConsumer, "mailer", "other", 1), "spec.group"},
		{"a consumer gets one more subscription", "Consumer", goodConsumer, strings.Replace(goodConsumer, "[{topic: orders}]", "[{topic: orders}, {topic: b}]", 1), "spec.subscriptions"},
		{"a consumer loses a subscription", "Consumer", "group: g\nsubscriptions: [{topic: a}, {topic: b}]", "group: g\nsubscriptions: [{topic: a}]", "spec.subscriptions"},
		{"a filter is set later", "Consumer", goodConsumer, strings.Replace(goodConsumer, "{topic: orders}", "{topic: orders, filter: {tag: x}}", 1), "spec.subscriptions"},
		{"a filter is removed", "Consumer", strings.Replace(goodConsumer, "{topic: orders}", "{topic: orders, filter: {tag: x}}", 1), goodConsumer, "spec.subscriptions"},
		{"a tag becomes SQL", "Consumer", "group: g\nsubscriptions: [{topic: a, filter: {tag: x}}]", "group: g\nsubscriptions: [{topic: a, filter: {sql: x}}]", "spec.subscriptions"},
		{"startFrom is changed", "Consumer", goodConsumer + "\nstartFrom: Latest", goodConsumer + "\nstartFrom: Earliest", "spec.startFrom"},
		{"startFrom is set to something else than its default later", "Consumer", goodConsumer, goodConsumer + "\nstartFrom: Earliest", "spec.startFrom"},
		{"startFrom is set to its default later", "Consumer", goodConsumer, goodConsumer + "\nstartFrom: Latest", ""},
		{"startTime is changed", "Consumer", atNoon, strings.Replace(atNoon, "12:00", "13:00", 1), "spec.startTime"},
		{"startTime is removed", "Consumer", atNoon, goodConsumer, "spec.startTime"},
		{"startFrom becomes a time", "Consumer", goodConsumer, atNoon, "spec.startTime"},
		{"startTime stays, and something else is changed", "Consumer", atNoon, atNoon + "\nmaxInFlight: 10", ""},
		{"the model is changed", "Consumer", goodConsumer + "\nmodel: Broadcasting", goodConsumer, "spec.model"},
		{"the model is set later", "Consumer", goodConsumer, goodConsumer + "\nmodel: Broadcasting", "spec.model"},
		{"the bounds of receivers are changed", "Consumer", goodConsumer + "\nmodel: Broadcasting", goodConsumer + "\nmodel: Broadcasting\nbroadcast: {maxReceivers: 10}", ""},
		{"the order of subscriptions means nothing", "Consumer", "group: g\nsubscriptions: [{topic: a}, {topic: b}]", "group: g\nsubscriptions: [{topic: b}, {topic: a}]", ""},
		{"order is set later", "Consumer", goodConsumer, goodConsumer + "\norder: Ordered", "spec.order"},
		{"order is given up", "Consumer", goodConsumer + "\norder: Ordered", goodConsumer + "\norder: Unordered", "spec.order"},
		{"order is removed", "Consumer", goodConsumer + "\norder: Ordered", goodConsumer, "spec.order"},
		{"order is set to its default later", "Consumer", goodConsumer, goodConsumer + "\norder: Unordered", ""},
		{"an ordered consumer goes to Remoting", "Consumer", goodConsumer + "\norder: Ordered", goodConsumer + "\norder: Ordered\ndriver: Remoting", ""},
		{"the driver is changed", "Consumer", goodConsumer + "\ndriver: ClientGo", goodConsumer + "\ndriver: Remoting", ""},
		{"transactions are allowed later", "Producer", goodProducer, goodProducer + "\ntransactions: {}", ""},
		{"tls is set later", "Consumer", goodConsumer, goodConsumer + "\nconnection: {tls: {}}", ""},
		{"the back-off is set later", "Consumer", goodConsumer, goodConsumer + "\nretryBackoff: {stepsSeconds: [0, 5]}", ""},
		{"the back-off becomes one of another kind", "Consumer", goodConsumer + "\nretryBackoff: {stepsSeconds: [5]}", goodConsumer + "\nretryBackoff: {exponential: {initialSeconds: 1, maxSeconds: 60}}", ""},
		{"the numbers of a consumer are changed", "Consumer", goodConsumer, goodConsumer + "\nmaxInFlight: 10\nackDeadlineSeconds: 10", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := fmt.Sprintf("immutable-%d", i)
			created := raw(t, c.kind, namespace, name, c.before)
			must(t, direct.Create(t.Context(), created))
			changed := raw(t, c.kind, namespace, name, c.after)
			changed.SetResourceVersion(created.GetResourceVersion())
			err := direct.Update(t.Context(), changed)
			if c.want == "" {
				must(t, err)
				return
			}
			wantRefusal(t, err, c.want, "later")
		})
	}
}

// TestAnObjectThatBecameInvalidCanStillBeDeleted makes every rule of the schema stricter than the object, and deletes it.
func TestAnObjectThatBecameInvalidCanStillBeDeleted(t *testing.T) {
	namespace := newNamespace(t)
	op := startOperator(t, operatorOptions{namespace: namespace})
	for _, kind := range []string{"Producer", "Consumer"} {
		spec := map[string]string{"Producer": goodProducer, "Consumer": goodConsumer}[kind]
		must(t, direct.Create(t.Context(), raw(t, kind, namespace, "old", spec)))
	}
	producer, consumer := &proxyv1alpha1.Producer{}, &proxyv1alpha1.Consumer{}
	op.waitReady(producer, "old")
	op.waitReady(consumer, "old")

	for _, plural := range []string{"producers", "consumers"} {
		stricter(t, plural)
	}
	for _, o := range []object{producer, consumer} {
		eventually(t, 10*time.Second, "the stricter schema is in force", func() bool {
			again := raw(t, kindOf(o), namespace, "probe", map[string]string{"Producer": goodProducer, "Consumer": goodConsumer}[kindOf(o)])
			return direct.Create(t.Context(), again, client.DryRunAll) != nil
		})
		must(t, direct.Delete(t.Context(), o))
		op.waitGone(o, 10*time.Second)
	}
}

func kindOf(o object) string {
	if _, is := o.(*proxyv1alpha1.Producer); is {
		return "Producer"
	}
	return "Consumer"
}

// stricter adds a required field, a range and a rule that no existing object fulfils, until the test ends.
func stricter(t *testing.T, plural string) {
	t.Helper()
	name := plural + ".proxy.rocketmq.io"
	change := func(ctx context.Context, f func(spec *apiextensionsv1.JSONSchemaProps)) {
		crd := &unstructured.Unstructured{}
		crd.SetAPIVersion("apiextensions.k8s.io/v1")
		crd.SetKind("CustomResourceDefinition")
		must(t, direct.Get(ctx, client.ObjectKey{Name: name}, crd))
		var typed apiextensionsv1.CustomResourceDefinition
		must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(crd.Object, &typed))
		root := typed.Spec.Versions[0].Schema.OpenAPIV3Schema
		spec := root.Properties["spec"]
		f(&spec)
		root.Properties["spec"] = spec
		changed, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&typed)
		must(t, err)
		must(t, direct.Update(ctx, &unstructured.Unstructured{Object: changed}))
	}
	var before apiextensionsv1.JSONSchemaProps
	change(t.Context(), func(spec *apiextensionsv1.JSONSchemaProps) {
		before = *spec.DeepCopy()
		spec.Properties["newlyRequired"] = apiextensionsv1.JSONSchemaProps{Type: "string"}
		spec.Required = append(spec.Required, "newlyRequired")
		drain := spec.Properties["drainTimeoutSeconds"]
		most := 5.0
		drain.Maximum, drain.Default = &most, nil
		spec.Properties["drainTimeoutSeconds"] = drain
		spec.XValidations = append(spec.XValidations, apiextensionsv1.ValidationRule{Rule: "self.drainTimeoutSeconds < 3", Message: "stricter"})
	})
	t.Cleanup(func() {
		change(context.Background(), func(spec *apiextensionsv1.JSONSchemaProps) { *spec = before })
	})
}
