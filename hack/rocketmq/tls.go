// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rocketmq

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// TLSMode says what name server and broker demand of connections.
type TLSMode int

const (
	// TLSOptional is RocketMQ's own default ("permissive"): both plain and encrypted, with a certificate of its own making.
	TLSOptional TLSMode = iota
	// TLSRequired refuses plain connections.
	TLSRequired
	// TLSMutual wants a certificate of the client as well.
	TLSMutual
)

// TLSFiles is what a client needs, as PEM.
type TLSFiles struct {
	CA     string
	Client Pair
}

// TLS returns the authority and a client certificate of a cluster that was started with TLSRequired or TLSMutual; both have no other meaning than to
// let tests in. The servers' certificate is for 127.0.0.1 and localhost.
func (c *Cluster) TLS() TLSFiles { return c.tls }

// prepareTLS writes certificates and tls.properties (org.apache.rocketmq.remoting.netty.TlsSystemConfig, 5.5.0). Every JVM is both a server and a client:
// brokers register at name servers.
func (c *Cluster) prepareTLS() error {
	if c.options.TLS == TLSOptional {
		return nil
	}
	if c.options.Join != nil {
		c.tls = c.options.Join.tls
		return nil
	}
	authority, err := NewAuthority()
	if err != nil {
		return err
	}
	server, err := authority.Issue("127.0.0.1", "localhost")
	if err != nil {
		return err
	}
	client, err := authority.Issue("test-client")
	if err != nil {
		return err
	}
	c.tls = TLSFiles{CA: authority.CA, Client: client}
	needClient := "none"
	if c.options.TLS == TLSMutual {
		needClient = "require"
	}
	at := c.tlsFile
	properties := []string{
		"tls.test.mode.enable=false", "tls.server.need.client.auth=" + needClient, "tls.server.authClient=true", "tls.client.authServer=true",
		"tls.server.certPath=" + at("server.pem"), "tls.server.keyPath=" + at("server.key"), "tls.server.trustCertPath=" + at("ca.pem"),
		"tls.client.certPath=" + at("client.pem"), "tls.client.keyPath=" + at("client.key"), "tls.client.trustCertPath=" + at("ca.pem"),
	}
	if err := os.MkdirAll(at(""), 0o700); err != nil {
		return fmt.Errorf("create the folder for certificates: %w", err)
	}
	for name, text := range map[string]string{
		"ca.pem": authority.CA, "server.pem": server.Certificate, "server.key": server.Key, "client.pem": client.Certificate, "client.key": client.Key,
		"tls.properties": strings.Join(properties, "\n"),
	} {
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

// tlsFile is where a file of that name is; a cluster that joins another uses the other's.
func (c *Cluster) tlsFile(name string) string {
	if c.options.Join != nil {
		return c.options.Join.tlsFile(name)
	}
	return filepath.Join(c.dir, "tls", name)
}

// tlsFlags are for every JVM of the cluster, mqadmin's included.
func (c *Cluster) tlsFlags() []string {
	if c.options.TLS == TLSOptional {
		return nil
	}
	return []string{"-Dtls.enable=true", "-Dtls.server.mode=enforcing", "-Dtls.config.file=" + c.tlsFile("tls.properties")}
}

// tlsConfig is for our own administration; nil without TLS.
func (c *Cluster) tlsConfig() (*tls.Config, error) {
	if c.options.TLS == TLSOptional {
		return nil, nil
	}
	pair, err := tls.X509KeyPair([]byte(c.tls.Client.Certificate), []byte(c.tls.Client.Key))
	if err != nil {
		return nil, fmt.Errorf("read the client certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(c.tls.CA))
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{pair}, ServerName: "127.0.0.1"}, nil
}
