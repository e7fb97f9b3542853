// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Secrets are read one by one, by the names that objects give: no list, no watch, so that the role does not need them.
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get

const (
	// secretInterval is the time between two reads of a Secret that is in use: a change is noticed within a minute, secretShared included.
	secretInterval = 55 * time.Second
	// secretRetry is the interval while a Secret is missing or RocketMQ refuses what it holds.
	secretRetry = 10 * time.Second
)

// connector makes driver connections from specs. Safe for concurrent use.
type connector struct {
	// secrets reads past the manager's cache: a cached read would list and watch all Secrets of the cluster.
	secrets            *sharedSecrets
	defaultNameServers []string
	policy             *AddressPolicy
}

// connection resolves where an object's client connects to and who it is there, with Secrets as they were at changed, when the object was heard of last,
// or later. Errors are *Stalled or *Waiting.
func (c *connector) connection(ctx context.Context, namespace string, spec *proxyv1alpha1.Connection, changed time.Time) (driver.Connection, error) {
	nameServers, err := c.nameServers(spec)
	if err != nil {
		return driver.Connection{}, err
	}
	credentials, err := c.credentials(ctx, namespace, spec.CredentialsSecretRef, changed)
	if err != nil {
		return driver.Connection{}, err
	}
	encryption, err := c.tls(ctx, namespace, spec.TLS, changed)
	if err != nil {
		return driver.Connection{}, err
	}
	return driver.Connection{
		NameServers: nameServers, Namespace: spec.Namespace, Credentials: credentials, TLS: encryption, AllowAddress: c.policy.CheckDial,
	}, nil
}

func (c *connector) nameServers(spec *proxyv1alpha1.Connection) ([]string, error) {
	if len(spec.NameServers) == 0 {
		if len(c.defaultNameServers) == 0 {
			return nil, &Stalled{Reason: proxyv1alpha1.ReasonNameServersMissing, Err: errors.New(
				"spec.connection.nameServers is empty and the operator has no default: name at least one name server, host:port")}
		}
		return sortedCopy(c.defaultNameServers), nil
	}
	for i, ns := range spec.NameServers {
		if err := c.policy.CheckNameServer(ns); err != nil {
			return nil, &Stalled{Reason: proxyv1alpha1.ReasonAddressRefused, Err: fmt.Errorf("spec.connection.nameServers[%d] %q: %w", i, ns, err)}
		}
	}
	return sortedCopy(spec.NameServers), nil
}

// allowCheckURL holds the address that a Producer has its hosts post to to the same rules as a name server. What its name leads to is looked at again when
// it is dialled.
func (c *connector) allowCheckURL(o object) error {
	p, is := o.(*proxyv1alpha1.Producer)
	if !is || p.Spec.Transactions == nil || p.Spec.Transactions.CheckURL == "" {
		return nil
	}
	address, err := hostPort(p.Spec.Transactions.CheckURL)
	if err == nil {
		err = c.policy.CheckNameServer(address)
	}
	if err != nil {
		return &Stalled{Reason: proxyv1alpha1.ReasonAddressRefused, Err: fmt.Errorf("spec.transactions.checkURL: %s: %w", address, err)}
	}
	return nil
}

// hostPort is where a URL leads. It has no part of the URL in its error.
func hostPort(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" {
		return "", errors.New("it is not a URL with a host")
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// sortedCopy makes the order in which somebody wrote the addresses mean nothing: the registry compares groups and connections by them.
func sortedCopy(addresses []string) []string {
	sorted := slices.Clone(addresses)
	for i := range sorted {
		sorted[i] = strings.ToLower(sorted[i])
	}
	slices.Sort(sorted)
	return slices.Compact(sorted)
}

// credentialsSecretField is what messages call the reference.
const credentialsSecretField = "spec.connection.credentialsSecretRef"

func (c *connector) credentials(
	ctx context.Context, namespace string, ref *proxyv1alpha1.CredentialsSecretRef, changed time.Time,
) (driver.Credentials, error) {
	if ref == nil {
		return driver.Credentials{}, nil
	}
	of := wantedSecret{
		namespace: namespace, name: ref.Name, field: credentialsSecretField, keys: proxyv1alpha1.SecretAccessKey + " and " + proxyv1alpha1.SecretSecretKey,
	}
	data, err := c.secret(ctx, of, changed)
	if err != nil {
		return driver.Credentials{}, err
	}
	for _, key := range []string{proxyv1alpha1.SecretAccessKey, proxyv1alpha1.SecretSecretKey} {
		if len(data[key]) == 0 {
			return driver.Credentials{}, waitForSecret(proxyv1alpha1.ReasonSecretKeyMissing,
				"%s: the Secret %q has no key %q, or it is empty", credentialsSecretField, ref.Name, key)
		}
	}
	return driver.Credentials{
		AccessKey:     string(data[proxyv1alpha1.SecretAccessKey]),
		SecretKey:     string(data[proxyv1alpha1.SecretSecretKey]),
		SecurityToken: string(data[proxyv1alpha1.SecretSecurityToken]),
	}, nil
}

// wantedSecret is a Secret that an object names in field. keys says what it should have, for the message when it is not there.
type wantedSecret struct{ namespace, name, field, keys string }

// secret reads one Secret as it was at changed or later.
func (c *connector) secret(ctx context.Context, of wantedSecret, changed time.Time) (map[string][]byte, error) {
	data, err := c.secrets.get(ctx, client.ObjectKey{Namespace: of.namespace, Name: of.name}, changed)
	switch {
	case apierrors.IsNotFound(err):
		return nil, waitForSecret(proxyv1alpha1.ReasonSecretNotFound,
			"%s: there is no Secret %q in namespace %q: create it with the keys %s", of.field, of.name, of.namespace, of.keys)
	case err != nil:
		return nil, waitForSecret(proxyv1alpha1.ReasonSecretNotReadable, "%s: the Secret %q cannot be read: %w", of.field, of.name, err)
	}
	return data, nil
}

// namesSecret reports whether the connection depends on a Secret, which has to be read again and again.
func namesSecret(c *proxyv1alpha1.Connection) bool {
	return c.CredentialsSecretRef != nil || c.TLS != nil && c.TLS.SecretRef != nil
}

func waitForSecret(reason, format string, args ...any) error {
	return &Waiting{Reason: reason, After: secretRetry, Err: fmt.Errorf(format, args...)}
}
