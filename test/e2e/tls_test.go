// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
)

// pair is a Producer and a Consumer of one name.
type pair struct {
	name, driver string
	// files are in a Secret of that name, which both refer to; nil = connections are plain.
	files *rocketmq.TLSFiles
	// reason is why neither is Ready, and says what their messages must say.
	reason, says string
}

func (p *pair) objects() []string { return []string{"rmqp/" + p.name, "rmqc/" + p.name} }

func (p *pair) manifests(topic string) []string {
	extra := []string{"driver: " + p.driver}
	if p.files == nil {
		return []string{producer(p.name, topic, extra...), consumer(p.name, "g_"+p.name, topic, extra...)}
	}
	secret := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\nstringData:\n  ca.crt: %q\n", p.name, namespace, p.files.CA)
	if p.files.Client.Certificate != "" {
		secret += fmt.Sprintf("  tls.crt: %q\n  tls.key: %q\n", p.files.Client.Certificate, p.files.Client.Key)
	}
	extra = append(extra, "connection: {tls: {secretRef: {name: "+p.name+"}}}")
	return []string{secret, producer(p.name, topic, extra...), consumer(p.name, "g_"+p.name, topic, extra...)}
}

// faultyPairs are what a broker does not let in that wants a certificate which it trusts, with each driver that can encrypt.
func faultyPairs(t *testing.T, c *cluster, name string) []pair {
	t.Helper()
	other, err := rocketmq.NewAuthority()
	must(t, err)
	stranger, err := other.Issue("client")
	must(t, err)
	var pairs []pair
	for _, driver := range []struct{ name, reason string }{{"Auto", "BrokerVersionUnknown"}, {"Remoting", "BrokerUnavailable"}} {
		for _, fault := range []struct {
			name  string
			files *rocketmq.TLSFiles
			key   string // of the Secret
		}{
			{"plain", nil, ""},
			{"no-certificate", &rocketmq.TLSFiles{CA: c.broker.TLS().CA}, "tls.crt"},
			{"certificate-of-another", &rocketmq.TLSFiles{CA: c.broker.TLS().CA, Client: stranger}, "tls.crt"},
			{"ca-of-another", &rocketmq.TLSFiles{CA: other.CA, Client: c.broker.TLS().Client}, "ca.crt"},
		} {
			p := pair{name: strings.ToLower(name + "-" + fault.name + "-" + driver.name), driver: driver.name, files: fault.files, reason: driver.reason}
			p.says = c.broker.NameServers()[0]
			if fault.key != "" {
				p.says = fmt.Sprintf("spec.connection.tls.secretRef: the key %q of Secret %q", fault.key, p.name)
			}
			pairs = append(pairs, p)
		}
	}
	return pairs
}

// TestTLSFromASecretServesBothResourcesAndItsFaultsAreNamed is a broker that lets in nobody without a certificate which it trusts: what one Secret holds serves
// a Producer and a Consumer, from the question for the brokers' version (driver Auto) to the ack. With Secrets that lack something neither is Ready, and
// both say which key of which Secret it is.
func TestTLSFromASecretServesBothResourcesAndItsFaultsAreNamed(t *testing.T) {
	c := withBroker(t, rocketmq.Options{TLS: rocketmq.TLSMutual})
	op := c.operator(t, localenv.OperatorOptions{})
	files, topic := c.broker.TLS(), c.topic(t, 1)
	good := pair{name: unique(t), driver: "Auto", files: &files}
	faulty := faultyPairs(t, c, good.name)
	objects, manifests := good.objects(), good.manifests(topic)
	for _, p := range faulty {
		objects, manifests = append(objects, p.objects()...), append(manifests, p.manifests(topic)...)
	}
	c.apply(t, manifests...)
	c.waitReady(t, good.objects()...)
	for _, object := range good.objects() {
		driver, err := c.control.Output(t.Context(), "get", "-n", namespace, object, "-o", "jsonpath={.status.driver}")
		must(t, err)
		if driver != "Remoting" {
			t.Errorf("status.driver of %s is %q, want Remoting: Auto asked the brokers", object, driver)
		}
	}
	const id = "encrypted"
	sendAll(t, c, op, good.name, []string{id})
	k := &tokens{t: t, name: good.name, attempts: map[string][]int32{}, a: proxyv1alpha1.NewConsumerServiceClient(c.dial(t, op))}
	k.ack("the ack", k.a, k.pull(k.a, 20*time.Second, id)[id], proxyv1alpha1.TokenResult_OK)
	for _, p := range faulty {
		p.isRefused(t, c)
	}
	if took := c.delete(t, objects...); took > 20*time.Second {
		t.Errorf("the deletes took %s", took)
	}
}

// isRefused waits until neither object is Ready, and checks what they say.
func (p *pair) isRefused(t *testing.T, c *cluster) {
	t.Helper()
	for _, object := range p.objects() {
		message := c.awaitCondition(t, 30*time.Second, object, "Ready", p.reason)
		t.Logf("%s: %s", object, message)
		if !strings.Contains(message, p.says) {
			t.Errorf("%s says %q, not %q", object, message, p.says)
		}
	}
}
