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

// secured is a TLS connection that remembers whether the server asked for a client certificate. With TLS 1.3 a server that does not like what it got says so
// only after the handshake, and then often resets the connection before its words arrive.
type secured struct {
	*tls.Conn
	asked, shown bool
}

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
	s := &secured{shown: len(secure.Certificates) > 0}
	// In place of the default, which silently shows nothing when the server does not name our certificate's issuer.
	secure.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		s.asked = true // within HandshakeContext, so before anybody reads it
		if s.shown {
			return &secure.Certificates[0], nil
		}
		return new(tls.Certificate), nil
	}
	s.Conn = tls.Client(socket, secure)
	if err := s.HandshakeContext(ctx); err != nil {
		// The handshake's error is the news; closing what it broke is not.
		_ = socket.Close()
		return nil, tlsError(address, secure.ServerName, s, err)
	}
	return s, nil
}

// explain tells what may be behind the end of a connection that never brought an answer.
func explain(socket net.Conn, address string, err error) error {
	if s, ok := socket.(*secured); ok && s.asked {
		return clientCertificateError(address, s, err)
	}
	return err
}

func clientCertificateError(address string, s *secured, err error) error {
	if s.shown {
		return driver.Errorf(driver.Unavailable, "connection.tls.certificate",
			"%s asks for a client certificate, got ours and ended the connection; it may not trust the one who issued it: %w", address, err)
	}
	return driver.Errorf(driver.Unavailable, "connection.tls.certificate",
		"%s asks for a client certificate and ended the connection; set certificate and key: %w", address, err)
}

// tlsError says which field a failed handshake is about, where that can be told.
func tlsError(address, name string, s *secured, err error) error {
	var (
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
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
	case s.asked:
		return clientCertificateError(address, s, err)
	}
	return driver.Errorf(driver.Unavailable, "", "make a TLS connection to %q: %w", address, err)
}
