// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
)

// TLS says how connections to name servers and brokers are encrypted. The fields hold PEM as strings, so that Connections compare with ==. It
// holds a secret and prints redacted.
type TLS struct {
	Enabled bool
	// CA are the certificates that servers' certificates are checked against; empty = those of the system.
	CA string
	// Certificate and Key are what this client shows to servers that ask; both or none.
	Certificate string
	Key         string
	// ServerName is the name that every server's certificate must carry; empty = the host that is dialled, which for brokers is most often an IP
	// address.
	ServerName string
}

// String hides the key, so that a %v in a log line cannot leak it.
func (t TLS) String() string {
	switch {
	case !t.Enabled:
		return "off"
	case t.Certificate == "":
		return fmt.Sprintf("on, server name %q", t.ServerName)
	default:
		return fmt.Sprintf("on, server name %q, client certificate REDACTED", t.ServerName)
	}
}

// GoString hides the key from %#v.
func (t TLS) GoString() string { return t.String() }

// Config is what crypto/tls needs, a new value each time; nil when TLS is off. Text that is no certificate or key is ErrInvalid with the
// field's name.
func (t TLS) Config() (*tls.Config, error) {
	if !t.Enabled {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CA != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM([]byte(t.CA)) {
			return nil, Errorf(Invalid, "connection.tls.ca", "it holds no certificate; put one or more PEM blocks of type CERTIFICATE there")
		}
	}
	switch {
	case t.Certificate == "" && t.Key == "":
		return c, nil
	case t.Certificate == "":
		return nil, Errorf(Invalid, "connection.tls.certificate", "there is a key without a certificate; give both or none")
	case t.Key == "":
		return nil, Errorf(Invalid, "connection.tls.key", "there is a certificate without a key; give both or none")
	}
	pair, err := tls.X509KeyPair([]byte(t.Certificate), []byte(t.Key))
	if err != nil {
		return nil, Errorf(Invalid, t.fieldAtFault(), "the client certificate and its key cannot be used: %w", err)
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}

// fieldAtFault tells a certificate that is none from a key that is none or belongs to another certificate.
func (t TLS) fieldAtFault() string {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(t.Certificate)) {
		return "connection.tls.certificate"
	}
	return "connection.tls.key"
}
