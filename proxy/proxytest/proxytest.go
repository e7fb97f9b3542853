// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package proxytest runs a whole proxy on loopback ports over the memory driver, for tests: real sockets, the real registry, windows and queues,
// no Kubernetes. Each proxy is stopped at the end of its test, and goroutines that it leaves behind fail the test.
package proxytest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/memory"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/metrics"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// Namespace is where AddProducer and AddConsumer put their objects.
const Namespace = "shop"

// Patience is how long a test waits for a fact before it fails. Facts come in milliseconds; a loaded machine may take longer.
const Patience = 20 * time.Second

// Options of a Rig.
type Options struct {
	Limits server.Limits
	// Auth, when set, switches authentication on.
	Auth *Auth
	// DrainTimeout of the host; 0 = 1 s.
	DrainTimeout time.Duration
	Broker       memory.Options
	// Broadcast is how often broadcasting Consumers look after their receivers.
	Broadcast proxy.BroadcastPeriods
	// Drivers are there beside the memory driver.
	Drivers []driver.Driver
	// LeavesGoroutines: a driver's library leaves some behind, so nobody looks for them at the end.
	LeavesGoroutines bool
	// Driver, when set, is one more, and the one of AddProducer and AddConsumer, with Connection.
	Driver     driver.Driver
	Connection driver.Connection
	// Change, when set, edits the proxy's options last.
	Change func(*proxy.Options)
}

// Rig is a running proxy.
type Rig struct {
	T        testing.TB
	Broker   *memory.Broker
	Registry *registry.Registry
	Proxy    *proxy.Proxy
	Metrics  *metrics.Metrics
	Gatherer *prometheus.Registry
	Log      *Log
	// Conn is a connection without credentials; Token adds them to a context.
	Conn       *grpc.ClientConn
	HTTP       string
	driver     string
	connection driver.Connection
	client     *http.Client
	stop       func()
	objects    atomic.Int64
	stopOnce   sync.Once
}

// New starts a proxy. The test's end stops it and looks for goroutines.
func New(t testing.TB, o Options) *Rig {
	t.Helper()
	if before := goleak.IgnoreCurrent(); !o.LeavesGoroutines {
		t.Cleanup(func() { goleak.VerifyNone(t, before) })
	}
	r := &Rig{
		T: t, Broker: memory.NewBroker(o.Broker), Gatherer: prometheus.NewRegistry(), Log: &Log{}, driver: memory.Name, connection: Connection(),
	}
	if o.Driver != nil {
		r.driver, r.connection, o.Drivers = o.Driver.Name(), o.Connection, append(o.Drivers, o.Driver)
	}
	log := funcr.New(r.Log.add, funcr.Options{})
	var err error
	if r.Metrics, err = metrics.New(r.Gatherer, metrics.Build{Version: "test", Commit: "none"}); err != nil {
		t.Fatal(err)
	}
	clients, err := proxy.NewClients(proxy.ClientsOptions{
		Drivers: append([]driver.Driver{memory.New(r.Broker)}, o.Drivers...), HostID: "host-a", Incarnation: "1", Metrics: r.Metrics, Log: log, Broadcast: o.Broadcast,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Registry = registry.New(registry.Options{Opener: clients, HostID: "host-a", Observer: r.Metrics, Log: log})
	r.Metrics.SetSource(metrics.Source{Entries: r.Registry.List, Leftovers: clients.Leftovers})
	r.start(o, log)
	return r
}

func (r *Rig) start(o Options, log logr.Logger) {
	t := r.T
	t.Helper()
	options := proxy.Options{
		GRPCAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0", Registry: r.Registry, InsecurePlaintext: true, InsecureSkipAuth: o.Auth == nil,
		Limits: o.Limits, DrainTimeout: o.DrainTimeout, Metrics: r.Metrics, Log: log, OpenAPI: []byte(`{"swagger":"2.0"}`),
	}
	if options.DrainTimeout == 0 {
		options.DrainTimeout = time.Second
	}
	if o.Auth != nil {
		options.Authorizer = o.Auth
	}
	if o.Change != nil {
		o.Change(&options)
	}
	var err error
	if r.Proxy, err = proxy.New(options); err != nil {
		t.Fatal(err)
	}
	if err := r.Proxy.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Proxy.Start(ctx) }()
	r.HTTP = "http://" + r.Proxy.HTTPAddr().String()
	r.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	r.Conn = r.Dial()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the proxy ended with %v", err)
		}
	}
	t.Cleanup(r.Stop)
	r.Eventually("the proxy is ready", func() bool { return r.Proxy.Ready(nil) == nil })
}

// Stop stops the proxy in order and waits; the test's end does it otherwise.
func (r *Rig) Stop() {
	r.stopOnce.Do(func() {
		r.stop()
		r.client.CloseIdleConnections()
	})
}

// Dial makes another connection; the test's end closes it.
func (r *Rig) Dial(options ...grpc.DialOption) *grpc.ClientConn {
	r.T.Helper()
	options = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(32<<20), grpc.MaxCallSendMsgSize(32<<20)),
	}, options...)
	conn, err := grpc.NewClient("passthrough:///"+r.Proxy.GRPCAddr().String(), options...)
	if err != nil {
		r.T.Fatal(err)
	}
	r.T.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Producers and Consumers are clients of the API on Conn.
func (r *Rig) Producers() pb.ProducerServiceClient { return pb.NewProducerServiceClient(r.Conn) }

// Consumers is the client of the ConsumerService.
func (r *Rig) Consumers() pb.ConsumerServiceClient { return pb.NewConsumerServiceClient(r.Conn) }

// Connection leads to the memory broker.
func Connection() driver.Connection {
	return driver.Connection{NameServers: []string{"127.0.0.1:9876"}, AllowAddress: func(string) error { return nil }}
}

// ProducerSpec is the spec of a Producer without its key; change it and give it to Acquire.
func ProducerSpec(topics ...string) *registry.ProducerSpec {
	return &registry.ProducerSpec{
		Config: driver.ProducerConfig{
			Connection: Connection(), Topics: topics, SendTimeout: 3 * time.Second, Retries: 2, MaxMessageBytes: 4 << 20,
		},
		Batching: true, MaxMessageBytes: 4 << 20,
	}
}

// ConsumerSpec is the spec of a Consumer without its key.
func ConsumerSpec(topics ...string) *registry.ConsumerSpec {
	s := &registry.ConsumerSpec{
		Config:      driver.ConsumerConfig{Connection: Connection(), StartFrom: driver.Earliest},
		AckDeadline: time.Minute, MaxInFlight: 256, MaxInFlightBytes: 64 << 20, MaxDeliveryAttempts: 16,
	}
	for _, topic := range topics {
		s.Config.Subscriptions = append(s.Config.Subscriptions, driver.Subscription{Topic: topic})
	}
	return s
}

// Acquire makes an object run and answers its key. The spec's Producer or Consumer is set by the caller.
func (r *Rig) Acquire(name string, change func(*registry.Spec)) registry.Key {
	r.T.Helper()
	spec := registry.Spec{
		Namespace: Namespace, Name: name, Generation: 1, Created: time.Now(), Driver: r.driver, Group: Namespace + "_" + name,
		DrainTimeout: 5 * time.Second, Confirm: func(context.Context) error { return nil },
	}
	change(&spec)
	if spec.Kind = registry.Producer; spec.Consumer != nil {
		spec.Kind = registry.Consumer
	}
	if spec.UID == "" {
		spec.UID = fmt.Sprintf("uid-%d", r.objects.Add(1))
	}
	if spec.Producer != nil {
		spec.Producer.Config.Group = spec.Group
	} else {
		spec.Consumer.Config.Group = spec.Group
	}
	r.Registry.Acquire(spec)
	return spec.Key
}

// Running waits until the object's client runs.
func (r *Rig) Running(key registry.Key) registry.Key {
	r.T.Helper()
	r.Eventually(key.String()+" runs", func() bool {
		status, found := r.Registry.Status(key)
		return found && status.State == registry.Running
	})
	return key
}

// AddProducer makes a Producer of these topics run.
func (r *Rig) AddProducer(name string, topics ...string) registry.Key {
	r.T.Helper()
	return r.Running(r.Acquire(name, func(s *registry.Spec) {
		s.Producer = ProducerSpec(topics...)
		s.Producer.Config.Connection = r.connection
	}))
}

// AddConsumer makes a Consumer of these topics run.
func (r *Rig) AddConsumer(name string, topics ...string) registry.Key {
	r.T.Helper()
	return r.Running(r.Acquire(name, func(s *registry.Spec) {
		s.Consumer = ConsumerSpec(topics...)
		s.Consumer.Config.Connection = r.connection
	}))
}

// Send stores texts through a Producer with one topic.
func (r *Rig) Send(producer string, texts ...string) []string {
	r.T.Helper()
	req := &pb.SendRequest{Namespace: Namespace, Producer: producer}
	for _, text := range texts {
		req.Messages = append(req.Messages, &pb.Message{Content: &pb.Message_Text{Text: text}})
	}
	res, err := r.Producers().Send(context.Background(), req)
	if err != nil {
		r.T.Fatalf("send %d messages: %v", len(texts), err)
	}
	ids := make([]string, len(texts))
	for i, result := range res.Results {
		if result.Error != nil {
			r.T.Fatalf("send message %d: %v", i, result.Error)
		}
		ids[i] = result.MessageId
	}
	return ids
}

// Uses is the number of calls and streams that hold the object.
func (r *Rig) Uses(key registry.Key) int {
	for _, e := range r.Registry.List() {
		if e.Key == key {
			return e.Uses
		}
	}
	return 0
}

// Connections is the number of open gRPC connections, as the metrics have it.
func (r *Rig) Connections() int {
	return int(r.Metric("rocketmq_proxy_connections", "protocol", "grpc"))
}

// StalledStreams is the number of streams that were ended because nobody read.
func (r *Rig) StalledStreams() int {
	return int(r.Metric("rocketmq_proxy_receivers_not_reading_total"))
}

// Metric is the sum of the series of a counter or gauge that have these labels (names and values in turn).
func (r *Rig) Metric(name string, labels ...string) (sum float64) {
	r.T.Helper()
	families, err := r.Gatherer.Gather()
	if err != nil {
		r.T.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if hasLabels(m, labels) {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func hasLabels(m *dto.Metric, labels []string) bool {
	have := make(map[string]string)
	for _, l := range m.GetLabel() {
		have[l.GetName()] = l.GetValue()
	}
	for i := 0; i+1 < len(labels); i += 2 {
		if have[labels[i]] != labels[i+1] {
			return false
		}
	}
	return true
}

// Post calls the HTTP API and answers status and body.
func (r *Rig) Post(path, body string, headers ...string) (int, string) {
	r.T.Helper()
	return r.Request(http.MethodPost, path, body, headers...)
}

// Request makes one HTTP call; headers are names and values in turn.
func (r *Rig) Request(method, path, body string, headers ...string) (int, string) {
	r.T.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, r.HTTP+path, bytes.NewReader([]byte(body)))
	if err != nil {
		r.T.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := r.client.Do(req)
	if err != nil {
		r.T.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		r.T.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// Eventually waits for a fact.
func (r *Rig) Eventually(fact string, holds func() bool) {
	r.T.Helper()
	deadline := time.Now().Add(Patience)
	for !holds() {
		if time.Now().After(deadline) {
			r.T.Fatalf("not seen within %s: %s", Patience, fact)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// Certificate writes a certificate for localhost and 127.0.0.1 and answers its files and what trusts it.
func Certificate(t testing.TB) (certFile, keyFile string, trust *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "proxy"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for file, content := range map[string][]byte{certFile: certPEM, keyFile: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trust = x509.NewCertPool()
	trust.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, trust
}

// Token adds a bearer token to ctx.
func Token(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// Auth is a small working authorizer.
type Auth struct {
	mu     sync.Mutex
	tokens map[string]string          // token to name
	rights map[string]map[string]bool // name to "verb namespace/name"
	broken error
}

// Allow gives the token's account a right. The account is called like its token with "account-" before it.
func (a *Auth) Allow(token, verb, namespace, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.knowLocked(token)
	a.rights["account-"+token][verb+" "+namespace+"/"+name] = true
}

// Know makes a token valid without any right.
func (a *Auth) Know(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.knowLocked(token)
}

func (a *Auth) knowLocked(token string) {
	if a.tokens == nil {
		a.tokens, a.rights = make(map[string]string), make(map[string]map[string]bool)
	}
	a.tokens[token] = "account-" + token
	if a.rights["account-"+token] == nil {
		a.rights["account-"+token] = make(map[string]bool)
	}
}

// Expire makes a token invalid; Revoke takes all rights of its account away.
func (a *Auth) Expire(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.tokens, token)
}

// Revoke takes all rights of the token's account away.
func (a *Auth) Revoke(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rights["account-"+token] = make(map[string]bool)
}

// Break makes every question fail with err, as if the API server were away; nil repairs.
func (a *Auth) Break(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.broken = err
}

// Authenticate implements server.Authorizer.
func (a *Auth) Authenticate(_ context.Context, token string) (server.Caller, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.broken != nil {
		return server.Caller{}, a.broken
	}
	name, known := a.tokens[token]
	if !known {
		return server.Caller{}, fmt.Errorf("review the token: %w", server.ErrUnauthenticated)
	}
	return server.Caller{Name: name}, nil
}

// Authorize implements server.Authorizer.
func (a *Auth) Authorize(_ context.Context, c server.Caller, verb, _, namespace, name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.broken != nil {
		return a.broken
	}
	if !a.rights[c.Name][verb+" "+namespace+"/"+name] {
		return fmt.Errorf("review the access: %w", server.ErrForbidden)
	}
	return nil
}

// Log keeps what was logged.
type Log struct {
	mu    sync.Mutex
	lines []string
}

func (l *Log) add(prefix, args string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, prefix+" "+args)
}

// Clear forgets what was logged, for tests that measure memory.
func (l *Log) Clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = nil
}

// Contains reports whether a line has text in it.
func (l *Log) Contains(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(strings.Join(l.lines, "\n"), text)
}

// String is everything.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}
