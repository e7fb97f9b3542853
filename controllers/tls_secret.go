// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// tlsSecretField is what messages call the reference.
const tlsSecretField = "spec.connection.tls.secretRef"

// tls reads how the connection is encrypted, with the certificates from the Secret. A Secret that cannot be used is a *Waiting that names the key.
func (c *connector) tls(ctx context.Context, namespace string, spec *proxyv1alpha1.TLS, changed time.Time) (driver.TLS, error) {
	if spec == nil {
		return driver.TLS{}, nil
	}
	t := driver.TLS{Enabled: true, ServerName: spec.ServerName}
	if spec.SecretRef == nil {
		return t, nil
	}
	name := spec.SecretRef.Name
	of := wantedSecret{namespace: namespace, name: name, field: tlsSecretField, keys: "ca.crt, tls.crt and tls.key, as far as they are needed"}
	data, err := c.secret(ctx, of, changed)
	if err != nil {
		return driver.TLS{}, err
	}
	if err := checkTLSKeys(name, data); err != nil {
		return driver.TLS{}, err
	}
	t.CA = string(data[proxyv1alpha1.SecretCA])
	t.Certificate, t.Key = string(data[proxyv1alpha1.SecretCertificate]), string(data[proxyv1alpha1.SecretPrivateKey])
	if _, err := t.Config(); err != nil {
		return driver.TLS{}, waitForSecret(proxyv1alpha1.ReasonSecretKeyInvalid, "%s: the key %q of Secret %q cannot be used: %s",
			tlsSecretField, keyAtFault(err), name, reasonWithoutField(err))
	}
	return t, nil
}

// checkTLSKeys finds what is missing. A key that is there and empty is never taken for absent: an empty ca.crt would quietly mean that every public
// authority is trusted.
func checkTLSKeys(name string, data map[string][]byte) error {
	found := 0
	for _, key := range []string{proxyv1alpha1.SecretCA, proxyv1alpha1.SecretCertificate, proxyv1alpha1.SecretPrivateKey} {
		value, there := data[key]
		if there && len(value) == 0 {
			return waitForSecret(proxyv1alpha1.ReasonSecretKeyMissing, "%s: the key %q of Secret %q is empty: fill it or remove it", tlsSecretField, key, name)
		}
		if there {
			found++
		}
	}
	_, certificate := data[proxyv1alpha1.SecretCertificate]
	_, private := data[proxyv1alpha1.SecretPrivateKey]
	const together = "%s: the Secret %q has %q but no %q: they come together"
	switch {
	case found == 0:
		return waitForSecret(proxyv1alpha1.ReasonSecretKeyMissing, "%s: the Secret %q has none of the keys ca.crt, tls.crt and tls.key; without a Secret of its own, leave secretRef out",
			tlsSecretField, name)
	case certificate && !private:
		return waitForSecret(proxyv1alpha1.ReasonSecretKeyMissing, together, tlsSecretField, name, proxyv1alpha1.SecretCertificate, proxyv1alpha1.SecretPrivateKey)
	case private && !certificate:
		return waitForSecret(proxyv1alpha1.ReasonSecretKeyMissing, together, tlsSecretField, name, proxyv1alpha1.SecretPrivateKey, proxyv1alpha1.SecretCertificate)
	default:
		return nil
	}
}

// keyAtFault is the Secret's key for the field that a driver's error is about; empty when it is about something else.
func keyAtFault(err error) string {
	var e *driver.Error
	if !errors.As(err, &e) {
		return ""
	}
	switch e.Field {
	case "connection.tls.ca":
		return proxyv1alpha1.SecretCA
	case "connection.tls.certificate":
		return proxyv1alpha1.SecretCertificate
	case "connection.tls.key":
		return proxyv1alpha1.SecretPrivateKey
	default:
		return ""
	}
}

// blameSecret names the key of the Secret that an error of a driver is about, which is what the user can change: drivers know no Secrets. Other errors
// stay as they are. The result wraps err.
func blameSecret(err error, spec *proxyv1alpha1.TLS) error {
	key := keyAtFault(err)
	switch {
	case spec == nil || key == "":
		return err
	case spec.SecretRef == nil:
		return fmt.Errorf("%s is not set, so there is no Secret with the key %q: %w", tlsSecretField, key, err)
	default:
		return fmt.Errorf("%s: the key %q of Secret %q: %w", tlsSecretField, key, spec.SecretRef.Name, err)
	}
}

// reasonWithoutField is a driver error's text without the driver's own name of the field, which no user knows.
func reasonWithoutField(err error) string {
	var e *driver.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return fmt.Sprint(err)
}
