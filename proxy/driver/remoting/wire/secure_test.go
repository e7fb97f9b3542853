// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func newAuthority(t *testing.T) *rocketmq.Authority {
	t.Helper()
	a, err := rocketmq.NewAuthority()
	must(t, "make an authority", err)
	return a
}

func issue(t *testing.T, a *rocketmq.Authority, names ...string) rocketmq.Pair {
	t.Helper()
	pair, err := a.Issue(names...)
	must(t, "issue a certificate", err)
	return pair
}

// securePeer answers over TLS with a certificate for names; clients, when set, must have issued the client's certificate.
func securePeer(t *testing.T, server rocketmq.Pair, version uint16, clients *rocketmq.Authority) *peer {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(server.Certificate), []byte(server.Key))
	must(t, "read the server's certificate", err)
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: version, MaxVersion: version}
	if clients != nil {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		config.ClientCAs.AppendCertsFromPEM([]byte(clients.CA))
	}
	serve := answers(echo)
	return newPeer(t, func(socket net.Conn) { serve(tls.Server(socket, config)) })
}

func secureTo(p *peer, s driver.TLS) driver.Connection {
	c := connectionTo(p.address())
	s.Enabled = true
	c.TLS = s
	return c
}

func askOnce(t *testing.T, c driver.Connection) error {
	t.Helper()
	_, err := newClient(t, c).Invoke(t.Context(), c.NameServers[0], &Command{Code: 1, Body: make([]byte, 100_000)})
	return err
}

func TestTLSErrorsNameTheFieldAtFault(t *testing.T) {
	noLeaks(t)
	ours, other := newAuthority(t), newAuthority(t)
	server, elsewhere := issue(t, ours, "127.0.0.1", "localhost"), issue(t, ours, "elsewhere.example")
	client, foreign := issue(t, ours, "client"), issue(t, other, "client")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, c := range []struct {
			name    string
			server  rocketmq.Pair
			clients *rocketmq.Authority
			tls     driver.TLS
			field   string // empty: it works
		}{
			{"a CA that vouches for the server", server, nil, driver.TLS{CA: ours.CA}, ""},
			{"another CA", server, nil, driver.TLS{CA: other.CA}, "connection.tls.ca"},
			{"the system's CAs", server, nil, driver.TLS{}, "connection.tls.ca"},
			{"a certificate for another host", elsewhere, nil, driver.TLS{CA: ours.CA}, "connection.tls.serverName"},
			{"that host's name as server name", elsewhere, nil, driver.TLS{CA: ours.CA, ServerName: "elsewhere.example"}, ""},
			{"a wrong server name", server, nil, driver.TLS{CA: ours.CA, ServerName: "elsewhere.example"}, "connection.tls.serverName"},
			{"the client certificate that is asked for", server, ours, driver.TLS{CA: ours.CA, Certificate: client.Certificate, Key: client.Key}, ""},
			{"no client certificate", server, ours, driver.TLS{CA: ours.CA}, "connection.tls.certificate"},
			{"a client certificate of somebody else", server, ours, driver.TLS{CA: ours.CA, Certificate: foreign.Certificate, Key: foreign.Key}, "connection.tls.certificate"},
			{"a CA that is no PEM", server, nil, driver.TLS{CA: "ca"}, "connection.tls.ca"},
		} {
			t.Run(tls.VersionName(version)+"/"+c.name, func(t *testing.T) {
				p := securePeer(t, c.server, version, c.clients)
				err := askOnce(t, secureTo(p, c.tls))
				var e *driver.Error
				if c.field == "" && err != nil || c.field != "" && (!errors.As(err, &e) || e.Field != c.field) {
					t.Errorf("got %v, want field %q", err, c.field)
				}
			})
		}
	}
}

func TestAPlainServerIsToldFromATLSOne(t *testing.T) {
	noLeaks(t)
	p := newPeer(t, func(socket net.Conn) {
		_, _ = socket.Read(make([]byte, 1))
		_, _ = socket.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	})
	err := askOnce(t, secureTo(p, driver.TLS{CA: newAuthority(t).CA}))
	var e *driver.Error
	if !errors.As(err, &e) || e.Field != "connection.tls" || !strings.Contains(err.Error(), "does not speak TLS") {
		t.Errorf("got %v", err)
	}
}

func TestAddressesAreCheckedBeforeTheHandshake(t *testing.T) {
	noLeaks(t)
	a := newAuthority(t)
	p := securePeer(t, issue(t, a, "127.0.0.1"), tls.VersionTLS13, nil)
	c := secureTo(p, driver.TLS{CA: a.CA})
	c.AllowAddress = func(string) error { return errors.New("not on the list") }
	if err := askOnce(t, c); driver.ReasonOf(err) != driver.AddressRefused || p.connected() != 0 {
		t.Errorf("got %v, %d connections", err, p.connected())
	}
}

// throughTLS sends and pops at a real broker that demands TLS, or client certificates too.
func throughTLS(t *testing.T, mode rocketmq.TLSMode, mine func(rocketmq.TLSFiles) driver.TLS, others map[string]driver.TLS) {
	cluster := rocketmq.StartForTest(t, rocketmq.Options{TLS: mode})
	noLeaks(t)
	topic := "topic_" + uuid.NewString()[:13]
	must(t, "create a topic", cluster.CreateTopic(t.Context(), topic, 1, nil))
	c := connectionTo(cluster.NameServers()...)
	c.TLS = mine(cluster.TLS())
	s := &site{Client: newClient(t, c), cluster: cluster, topic: topic}
	route, err := s.Route(t.Context(), topic)
	must(t, "route", err)
	s.queues = route.Readable(topic)
	group := "group_" + uuid.NewString()[:13]
	s.store(t, s.queues[0], 3)
	popped := s.pop(t, PopRequest{Group: group, Topic: topic, Earliest: true})
	if len(popped.Messages) != 3 {
		t.Errorf("%d messages of 3", len(popped.Messages))
	}
	s.ackAll(t, group, popped)
	for field, wrong := range others {
		if field == "connection.tls.certificate" {
			wrong.CA = cluster.TLS().CA
		}
		c.TLS = wrong
		_, err := newClient(t, c).Route(t.Context(), topic)
		var e *driver.Error
		if !errors.As(err, &e) || field != "" && e.Field != field {
			t.Errorf("%v: got %v, want field %q", wrong, err, field)
		}
	}
}

func TestARealBrokerThatRequiresTLS(t *testing.T) {
	throughTLS(t, rocketmq.TLSRequired, func(f rocketmq.TLSFiles) driver.TLS { return driver.TLS{Enabled: true, CA: f.CA} }, map[string]driver.TLS{
		"":                  {}, // plain: it hangs up
		"connection.tls.ca": {Enabled: true, CA: newAuthority(t).CA},
	})
}

func TestARealBrokerThatRequiresClientCertificates(t *testing.T) {
	throughTLS(t, rocketmq.TLSMutual, func(f rocketmq.TLSFiles) driver.TLS {
		return driver.TLS{Enabled: true, CA: f.CA, Certificate: f.Client.Certificate, Key: f.Client.Key}
	}, map[string]driver.TLS{"connection.tls.certificate": {Enabled: true}})
}
