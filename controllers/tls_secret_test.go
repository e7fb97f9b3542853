// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// pair is a certificate and its key in PEM.
func pair(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	must(t, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
}

// TestTheTLSSecretIsWaitedForAndItsRotationIsProven walks through everything that can be wrong with it; the message names the Secret and the key.
func TestTheTLSSecretIsWaitedForAndItsRotationIsProven(t *testing.T) {
	op := newOperator(t, operatorOptions{namespace: newNamespace(t)})
	certificate, key := pair(t)
	_, otherKey := pair(t)
	untrusted, _ := pair(t)
	var mu sync.Mutex
	var got driver.TLS
	op.opener.fail = func(s registry.Spec) error {
		mu.Lock()
		defer mu.Unlock()
		if got = s.Producer.Config.Connection.TLS; got.CA == untrusted {
			return driver.Errorf(driver.Unavailable, "", "certificate signed by unknown authority")
		}
		return nil
	}
	op.start()
	o := op.apply("Producer", "orders", goodProducer+"\nconnection: {tls: {secretRef: {name: certificates}, serverName: broker.test}}")
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionCredentialsReady, "False", proxyv1alpha1.ReasonSecretNotFound)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: op.options.namespace, Name: "certificates"}}
	must(t, direct.Create(t.Context(), secret))
	put := func(data map[string]string) {
		t.Helper()
		secret.Data = map[string][]byte{}
		for name, value := range data {
			secret.Data[name] = []byte(value)
		}
		must(t, direct.Update(t.Context(), secret))
		op.look(o)
	}
	for _, c := range []struct {
		name, reason, want string
		data               map[string]string
	}{
		{"nothing of it", proxyv1alpha1.ReasonSecretKeyMissing, "none of the keys", map[string]string{"ca.pem": certificate}},
		{"a certificate without its key", proxyv1alpha1.ReasonSecretKeyMissing, `no "tls.key"`, map[string]string{"tls.crt": certificate}},
		{"a key without its certificate", proxyv1alpha1.ReasonSecretKeyMissing, `no "tls.crt"`, map[string]string{"ca.crt": certificate, "tls.key": key}},
		{"an empty authority, which would mean every public one", proxyv1alpha1.ReasonSecretKeyMissing, `"ca.crt"`, map[string]string{"ca.crt": ""}},
		{"an authority that is none", proxyv1alpha1.ReasonSecretKeyInvalid, `"ca.crt"`, map[string]string{"ca.crt": "rubbish"}},
		{"a certificate that is none", proxyv1alpha1.ReasonSecretKeyInvalid, `"tls.crt"`, map[string]string{"tls.crt": "rubbish", "tls.key": key}},
		{"the key of another certificate", proxyv1alpha1.ReasonSecretKeyInvalid, `"tls.key"`, map[string]string{"tls.crt": certificate, "tls.key": otherKey}},
	} {
		put(c.data)
		op.waitCondition(o, "orders", proxyv1alpha1.ConditionCredentialsReady, "False", c.reason)
		eventually(t, 5*time.Second, c.name+": the message has "+c.want, func() bool {
			must(t, op.get(o, "orders"))
			m := conditionOf(o, proxyv1alpha1.ConditionReady).Message
			return strings.Contains(m, c.want) && strings.Contains(m, `"certificates"`) && strings.Contains(m, "spec.connection.tls.secretRef")
		})
	}
	put(map[string]string{"ca.crt": certificate, "tls.crt": certificate, "tls.key": key})
	op.waitReady(o, "orders")
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionCredentialsReady, "True", proxyv1alpha1.ReasonCredentialsFound)
	mu.Lock()
	if want := (driver.TLS{Enabled: true, CA: certificate, Certificate: certificate, Key: key, ServerName: "broker.test"}); got != want {
		t.Errorf("the client was opened with other certificates than the Secret's: %v", got)
	}
	mu.Unlock()

	put(map[string]string{"ca.crt": untrusted})
	op.waitCondition(o, "orders", proxyv1alpha1.ConditionReady, "False", proxyv1alpha1.ReasonBrokerUnavailable)
	if n := op.opener.runningNow(string(o.GetUID())); n != 1 {
		t.Errorf("%d clients run after a bad rotation, want the last good one", n)
	}
	before := op.opener.openedEver(string(o.GetUID()))
	put(map[string]string{"ca.crt": certificate})
	op.waitReady(o, "orders")
	if n := op.opener.openedEver(string(o.GetUID())); n != before+1 || op.opener.runningNow(string(o.GetUID())) != 1 {
		t.Errorf("%d clients opened after the rotation, want one more than %d", n, before)
	}
	op.waitNoSecret(o, strings.Split(key, "\n")[1], strings.Split(otherKey, "\n")[1])
}

func TestBothSecretsAreReadAgain(t *testing.T) {
	for _, c := range []struct {
		name       string
		connection proxyv1alpha1.Connection
		want       bool
	}{
		{"no Secret", proxyv1alpha1.Connection{TLS: &proxyv1alpha1.TLS{}}, false},
		{"credentials", proxyv1alpha1.Connection{CredentialsSecretRef: &proxyv1alpha1.CredentialsSecretRef{Name: "a"}}, true},
		{"certificates", proxyv1alpha1.Connection{TLS: &proxyv1alpha1.TLS{SecretRef: &proxyv1alpha1.TLSSecretRef{Name: "a"}}}, true},
	} {
		o := &proxyv1alpha1.Producer{}
		o.Spec.Connection = c.connection
		want := resyncInterval
		if c.want {
			want = secretInterval
		}
		if again := (&reconciler{}).next(o, &facts{}); again != want {
			t.Errorf("%s: looked at again after %s, want %s", c.name, again, want)
		}
	}
}

// TestWhatADriverSaysOfCertificatesNamesTheSecret: a driver knows its own fields only, which no user has ever seen.
func TestWhatADriverSaysOfCertificatesNamesTheSecret(t *testing.T) {
	with := &proxyv1alpha1.TLS{SecretRef: &proxyv1alpha1.TLSSecretRef{Name: "certificates"}}
	about := func(field string) error { return driver.Errorf(driver.Unavailable, field, "no handshake") }
	const plain = "BrokerUnavailable: connection.nameServers: no handshake"
	for _, c := range []struct {
		name string
		err  error
		spec *proxyv1alpha1.TLS
		want string
	}{
		{"the authority", about("connection.tls.ca"), with, `spec.connection.tls.secretRef: the key "ca.crt" of Secret "certificates": BrokerUnavailable: `},
		{"our certificate, asked for by Auto", versionUnknown(about("connection.tls.certificate")), with,
			`spec.connection.tls.secretRef: the key "tls.crt" of Secret "certificates": spec.driver is Auto`},
		{"our key", about("connection.tls.key"), with, `the key "tls.key" of Secret "certificates"`},
		{"no Secret at all", about("connection.tls.certificate"), &proxyv1alpha1.TLS{}, `spec.connection.tls.secretRef is not set, so there is no Secret with the key "tls.crt"`},
		{"another field", about("connection.nameServers"), with, plain},
		{"no TLS", about("connection.nameServers"), nil, plain},
		{"no error of a driver", errors.New("else"), with, "else"},
	} {
		got := blameSecret(c.err, c.spec)
		if !strings.Contains(got.Error(), c.want) {
			t.Errorf("%s: %q, want %q in it", c.name, got, c.want)
		}
		if v, want := explain(got), explain(c.err); v.reason != want.reason || v.condition != want.condition || v.requeue != want.requeue {
			t.Errorf("%s: it became %+v, and was %+v", c.name, v, want)
		}
	}
}
