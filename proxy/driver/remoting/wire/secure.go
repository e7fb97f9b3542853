// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// encrypt makes the TLS handshake on socket, which it closes on an error. address is what the user wrote: its host is the name that the
// server's certificate must carry, unless secure names another.
func encrypt(ctx context.Context, socket net.Conn, address string, secure *tls.Config) (net.Conn, error) {
	if secure.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, errors.Join(driver.Errorf(driver.Invalid, "", "address %q is not host:port: %w", address, err), socket.Close())
		}
		secure.ServerName = host
	}
	encrypted := tls.Client(socket, secure)
	if err := encrypted.HandshakeContext(ctx); err != nil {
		// The handshake's error is the news; closing what it broke is not.
		_ = socket.Close()
		return nil, tlsError(address, secure.ServerName, err)
	}
	return encrypted, nil
}

// tlsError says which field a failed handshake is about, where that can be told.
func tlsError(address, name string, err error) error {
	var (
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		alert   tls.AlertError
		record  tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &host):
		return driver.Errorf(driver.Unavailable, "connection.tls.serverName",
			"%s shows a certificate that is not for %q; set serverName to a name that is in it, or give the server a certificate for its address: %w", address, name, err)
	case errors.As(err, &unknown):
		return driver.Errorf(driver.Unavailable, "connection.tls.ca", "%s shows a certificate that no certificate of the CA vouches for: %w", address, err)
	case errors.As(err, &invalid):
		return driver.Errorf(driver.Unavailable, "connection.tls.ca", "%s shows a certificate that is not valid: %w", address, err)
	case errors.As(err, &record):
		return driver.Errorf(driver.Unavailable, "connection.tls", "%s does not speak TLS: %w", address, err)
	case errors.As(err, &alert):
		return driver.Errorf(driver.Unavailable, "connection.tls.certificate", "%s refuses the TLS connection; it may want a client certificate: %w", address, err)
	}
	return driver.Errorf(driver.Unavailable, "", "make a TLS connection to %q: %w", address, err)
}
