// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/metrics"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// Defaults of Options.
const (
	DefaultGRPCAddress  = ":8081"
	DefaultHTTPAddress  = ":8080"
	DefaultDrainTimeout = 30 * time.Second
	// closeTimeout is what calls get to end after every client has been closed; none has anything to wait for then.
	closeTimeout = 5 * time.Second
)

// Options are what a Proxy is made of.
type Options struct {
	// GRPCAddress and HTTPAddress are where to listen; port 0 lets the kernel choose. Defaults :8081 and :8080.
	GRPCAddress, HTTPAddress string
	// Registry has the clients. The proxy closes it when it stops. Required.
	Registry *registry.Registry
	// Authorizer decides who may do what. Required, unless InsecureSkipAuth.
	Authorizer server.Authorizer
	// InsecureSkipAuth lets everybody do everything; both addresses must be loopback.
	InsecureSkipAuth bool
	// CertFile and KeyFile are the certificate of both ports, reloaded when they change. Required, unless InsecurePlaintext.
	CertFile, KeyFile string
	// InsecurePlaintext serves without TLS; both addresses must be loopback.
	InsecurePlaintext bool
	Limits            server.Limits
	// DrainTimeout bounds the drain of all clients when the host stops; each one's own DrainTimeout may be shorter. 30 s.
	DrainTimeout time.Duration
	// Primed, when set, is closed when the clients of the objects that existed at the start have been opened: until then gRPC's health is NOT_SERVING, so
	// that clients which choose among hosts by it do not come before.
	Primed <-chan struct{}
	// Peers answers what other hosts ask; nil = nobody asks.
	Peers server.PeerAnswerer
	// Seeks moves Consumers on all hosts; nil = each host for itself.
	Seeks server.Seeker
	// OpenAPI is served as /openapi.json; empty = not served.
	OpenAPI []byte
	// Metrics may be nil.
	Metrics *metrics.Metrics
	Log     logr.Logger
}

// Proxy serves applications. It has the form of a controller-runtime Runnable. New makes it, Start runs it until its context ends.
type Proxy struct {
	o      Options
	server *server.Server

	grpc, http net.Listener // set by Listen
	started    atomic.Bool
	ready      atomic.Bool
	listening  chan struct{}
	stopped    chan struct{}

	mu       sync.Mutex
	receipts []registry.Receipt
}

// New checks the options; nothing listens or runs yet.
func New(o Options) (*Proxy, error) {
	o = o.withDefaults()
	config, err := o.check()
	if err != nil {
		return nil, err
	}
	so := server.Options{
		Registry: uses{o.Registry}, Authorizer: o.Authorizer, TLS: config, Limits: o.Limits, Peers: o.Peers, Seeks: o.Seeks, OpenAPI: o.OpenAPI, Log: o.Log,
	}
	if o.InsecureSkipAuth {
		so.Authorizer = nil
	}
	if o.Metrics != nil {
		so.Observer = o.Metrics
	}
	s, err := server.New(so)
	if err != nil {
		return nil, err
	}
	if o.Metrics != nil && config != nil {
		o.Metrics.SetCertificate(func() time.Time { return certificateEnd(config) })
	}
	return &Proxy{o: o, server: s, listening: make(chan struct{}), stopped: make(chan struct{})}, nil
}

// certificateEnd is when the certificate that config serves now ends; zero when it cannot be told.
func certificateEnd(config *tls.Config) time.Time {
	certificate, err := config.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil || certificate.Leaf == nil {
		return time.Time{}
	}
	return certificate.Leaf.NotAfter
}

func (o Options) withDefaults() Options {
	if o.GRPCAddress == "" {
		o.GRPCAddress = DefaultGRPCAddress
	}
	if o.HTTPAddress == "" {
		o.HTTPAddress = DefaultHTTPAddress
	}
	if o.DrainTimeout <= 0 {
		o.DrainTimeout = DefaultDrainTimeout
	}
	return o
}

// check refuses what would be open to the world by mistake, and loads the certificate.
func (o Options) check() (*tls.Config, error) {
	if o.Registry == nil {
		return nil, errors.New("proxy: Options.Registry is missing")
	}
	if o.Authorizer == nil && !o.InsecureSkipAuth {
		return nil, errors.New("proxy: no Authorizer given; without one set InsecureSkipAuth, which binds loopback addresses only")
	}
	if o.InsecureSkipAuth || o.InsecurePlaintext {
		for _, address := range []string{o.GRPCAddress, o.HTTPAddress} {
			if err := requireLoopback(address); err != nil {
				return nil, err
			}
		}
	}
	if o.InsecurePlaintext {
		return nil, nil
	}
	if o.CertFile == "" || o.KeyFile == "" {
		return nil, errors.New("proxy: no TLS certificate given (CertFile and KeyFile); without one set InsecurePlaintext, which binds loopback addresses only")
	}
	return server.TLSFromFiles(o.CertFile, o.KeyFile, o.Log)
}

func requireLoopback(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("proxy: the address %q is not host:port: %w", address, err)
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("proxy: without authentication or TLS the proxy listens on loopback only, and %q is reachable from elsewhere: use 127.0.0.1:%s",
		address, port)
}

// NeedLeaderElection is false: every host serves.
func (p *Proxy) NeedLeaderElection() bool { return false }

// Listen opens both ports, so that a port that is taken is known before anything starts. Start does it when it was not called.
func (p *Proxy) Listen() error {
	if p.grpc != nil {
		return nil
	}
	var config net.ListenConfig
	g, err := config.Listen(context.Background(), "tcp", p.o.GRPCAddress)
	if err != nil {
		return fmt.Errorf("listen for gRPC: %w", err)
	}
	h, err := config.Listen(context.Background(), "tcp", p.o.HTTPAddress)
	if err != nil {
		return errors.Join(fmt.Errorf("listen for HTTP: %w", err), g.Close())
	}
	p.grpc, p.http = g, h
	close(p.listening)
	return nil
}

// Listening is closed when both ports are open; then GRPCAddr and HTTPAddr answer.
func (p *Proxy) Listening() <-chan struct{} { return p.listening }

// GRPCAddr is where gRPC is served; only after Listen.
func (p *Proxy) GRPCAddr() net.Addr { return p.grpc.Addr() }

// HTTPAddr is where HTTP is served; only after Listen.
func (p *Proxy) HTTPAddr() net.Addr { return p.http.Addr() }

// Ready is nil while new calls are welcome. It does not depend on any broker. It has the form of a controller-runtime health check.
func (p *Proxy) Ready(*http.Request) error {
	if !p.ready.Load() {
		return errors.New("the proxy is not serving, or is stopping")
	}
	return nil
}

// Stopped is closed when Start has done all of its stop order: every client is closed and no call is under way.
func (p *Proxy) Stopped() <-chan struct{} { return p.stopped }

// Receipts are the proofs of shutdown of the clients that ran when the proxy stopped; complete after Stopped.
func (p *Proxy) Receipts() []registry.Receipt {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]registry.Receipt(nil), p.receipts...)
}

// Start serves until ctx ends, then stops in order and returns when nothing of the proxy is left. It can be called once.
func (p *Proxy) Start(ctx context.Context) error {
	if p.started.Swap(true) {
		return errors.New("proxy: Start was called twice")
	}
	defer close(p.stopped)
	if err := p.Listen(); err != nil {
		p.stop()
		return err
	}
	failed := make(chan error, 2)
	var serving sync.WaitGroup
	serving.Go(func() { failed <- p.server.ServeGRPC(p.grpc) })
	serving.Go(func() { failed <- p.server.ServeHTTP(p.http) })
	p.ready.Store(true)
	p.o.Log.Info("the proxy serves", "grpc", p.grpc.Addr().String(), "http", p.http.Addr().String(), "tls", !p.o.InsecurePlaintext,
		"authentication", !p.o.InsecureSkipAuth)
	primed := p.o.Primed
	if primed == nil {
		p.server.Welcome()
	}
	var err error
	for serves := true; serves; {
		select {
		case <-primed:
			p.server.Welcome()
			primed = nil // once
		case <-ctx.Done():
			serves = false
		case err = <-failed:
			serves = false
		}
	}
	p.stop()
	serving.Wait()
	return err
}

// stop is the stop order of a host, as far as it is the proxy's. Manager and Lease end after it.
func (p *Proxy) stop() {
	began := time.Now()
	// 1. Readiness and health say no, so that load balancers send nothing new.
	p.ready.Store(false)
	p.server.Drain()
	// 2. The gate: no client starts any more.
	p.o.Registry.CloseGate()
	// 3. All clients at once: stop fetching and give back what no receiver has; draining notice on streams; wait for acknowledgements and sends;
	//    streams end UNAVAILABLE; the clients are shut down. Acknowledgements by unary calls are answered all the time.
	ctx, cancel := context.WithTimeout(context.Background(), p.o.DrainTimeout)
	defer cancel()
	receipts := p.o.Registry.Close(ctx)
	p.mu.Lock()
	p.receipts = receipts
	p.mu.Unlock()
	// 4. The ports: nobody has anything to wait for any more.
	closeCtx, cancelClose := context.WithTimeout(context.Background(), closeTimeout)
	defer cancelClose()
	p.server.Close(closeCtx)
	p.o.Log.Info("the proxy has stopped", "clients", len(receipts), "took", time.Since(began).Round(time.Millisecond).String())
}

// uses is the registry as the server wants it.
type uses struct{ r *registry.Registry }

func (u uses) Use(ctx context.Context, kind registry.Kind, namespace, name string) (server.Use, error) {
	use, err := u.r.Use(ctx, kind, namespace, name)
	if err != nil {
		return nil, err
	}
	return use, nil
}

func (u uses) UseDraining(kind registry.Kind, namespace, name string) (server.Use, error) {
	use, err := u.r.UseDraining(kind, namespace, name)
	if err != nil {
		return nil, err
	}
	return use, nil
}
