// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package examples

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/memory"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// ackDeadline is short, so that a delivery whose answer was lost comes again within the test.
const ackDeadline = 2 * time.Second

// world is one proxy with a Producer and a Consumer called `name`, and the files that an application has.
type world struct {
	t         *testing.T
	dir       string
	name      string
	proxy     *proxy.Proxy
	registry  *registry.Registry
	tls       *tls.Config // of clients
	tokenFile string
	stop      context.CancelFunc
}

func newWorld(t *testing.T, name string) *world {
	w := &world{t: t, dir: t.TempDir(), name: name}
	w.writeCertificate()
	w.tokenFile = filepath.Join(w.dir, "token")
	auth := &tokens{file: w.tokenFile, name: name}
	auth.write(t)
	memoryDriver := memory.New(memory.NewBroker(memory.Options{}))
	clients, err := proxy.NewClients(proxy.ClientsOptions{Drivers: []driver.Driver{memoryDriver}, HostID: "host", Incarnation: "one", Log: logr.Discard()})
	w.must(err)
	changed := make(chan struct{}, 1)
	w.registry = registry.New(registry.Options{Opener: clients, HostID: "host", Incarnation: "one", Log: logr.Discard(), Notify: func(registry.Key) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}})
	w.proxy, err = proxy.New(proxy.Options{
		GRPCAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0", Registry: w.registry, Authorizer: auth, Log: logr.Discard(),
		CertFile: filepath.Join(w.dir, "tls.crt"), KeyFile: filepath.Join(w.dir, "tls.key"), DrainTimeout: 10 * time.Second,
	})
	w.must(err)
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	served := make(chan error, 1)
	go func() { served <- w.proxy.Start(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("the proxy ended with: %v", err)
		}
	})
	<-w.proxy.Listening()
	w.applyObjects(memoryDriver.Name(), changed)
	return w
}

// applyObjects does what the controllers do for a Producer and a Consumer of the same topic, and waits until both run.
func (w *world) applyObjects(driverName string, changed <-chan struct{}) {
	connection := driver.Connection{NameServers: []string{"memory:9876"}, AllowAddress: func(string) error { return nil }}
	common := registry.Spec{
		Namespace: "shop", Name: w.name, Generation: 1, Created: time.Now(), Driver: driverName, Group: w.name, DrainTimeout: 5 * time.Second,
		Confirm: func(context.Context) error { return nil },
	}
	producer, consumer := common, common
	producer.Key = registry.Key{Kind: registry.Producer, UID: "producer"}
	producer.Producer = &registry.ProducerSpec{Batching: true, MaxMessageBytes: 4 << 20, Config: driver.ProducerConfig{
		Connection: connection, Group: w.name, Topics: []string{w.name}, SendTimeout: 3 * time.Second, MaxMessageBytes: 4 << 20}}
	consumer.Key = registry.Key{Kind: registry.Consumer, UID: "consumer"}
	consumer.Consumer = &registry.ConsumerSpec{AckDeadline: ackDeadline, MaxInFlight: 256, MaxInFlightBytes: 64 << 20, MaxDeliveryAttempts: 16,
		Config: driver.ConsumerConfig{Connection: connection, Group: w.name, StartFrom: driver.Earliest, Subscriptions: []driver.Subscription{{Topic: w.name}}}}
	deadline := time.After(10 * time.Second)
	for _, spec := range []registry.Spec{producer, consumer} {
		for status := w.registry.Acquire(spec); status.State != registry.Running; status, _ = w.registry.Status(spec.Key) {
			select {
			case <-changed:
			case <-deadline:
				w.t.Fatalf("the %s does not run after 10 s: %+v", spec.Kind, status)
			}
		}
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// writeCertificate writes tls.crt, tls.key for 127.0.0.1; it signs itself, so tls.crt is what clients trust.
func (w *world) writeCertificate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	w.must(err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	w.must(err)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	w.must(os.WriteFile(filepath.Join(w.dir, "tls.crt"), certificate, 0o600))
	w.must(os.WriteFile(filepath.Join(w.dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	w.tls = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// tokens is an Authorizer that knows the token in the file and, for a little while, the one before. Early on it replaces the file, as the kubelet
// does: a program that does not read the file again is refused soon afterwards.
type tokens struct {
	file, name string

	mu       sync.Mutex
	number   int
	current  string
	uses     int
	previous string
	grace    int // how often the previous token is still taken: calls under way have it
}

func (a *tokens) write(t *testing.T) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.replace(); err != nil {
		t.Fatal(err)
	}
}

func (a *tokens) replace() error {
	a.number++
	a.previous, a.grace = a.current, 3
	a.current, a.uses = fmt.Sprintf("token-%d", a.number), 0
	if err := os.WriteFile(a.file+".new", []byte(a.current+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(a.file+".new", a.file)
}

func (a *tokens) Authenticate(_ context.Context, token string) (server.Caller, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if token == a.previous && a.grace > 0 {
		a.grace--
	} else if token != a.current {
		return server.Caller{}, fmt.Errorf("token %q is not %q: %w", token, a.current, server.ErrUnauthenticated)
	}
	if a.uses++; a.uses == 3 && a.number == 1 {
		if err := a.replace(); err != nil {
			return server.Caller{}, err
		}
	}
	return server.Caller{Name: "system:serviceaccount:shop:app"}, nil
}

func (a *tokens) Authorize(_ context.Context, _ server.Caller, verb, resource, namespace, name string) error {
	if right := verb + " " + resource; (right != "send producers" && right != "receive consumers") || namespace != "shop" || name != a.name {
		return errors.Join(server.ErrForbidden, fmt.Errorf("%s %s/%s", right, namespace, name))
	}
	return nil
}
