// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/controllers"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/choice"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/lag"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/metrics"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/peers"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

//go:embed docs/api/proxy.swagger.json
var openAPI []byte

// host is everything that one process runs.
type host struct {
	options     options
	log         logr.Logger
	metrics     *metrics.Metrics
	keys        *controllers.Keys
	sealer      *delivery.Sealer
	identity    *controllers.Host
	registry    *registry.Registry
	proxy       *proxy.Proxy
	controllers *controllers.Controllers
	manager     ctrl.Manager
	chooser     *choice.Chooser[registry.Key]
	peers       *peers.Peers
}

// run starts the host, waits for the end of ctx or a failure, and stops in order.
//
// Start: the keys of ack tokens, without which nothing is served -> identity -> registry, controllers and proxy are made, the ports are open -> the Lease
// (before any client, host protocol rule 1; it names the port for other hosts) -> controllers and proxy run. Stop, when ctx ends:
//
//  1. the proxy: readiness false, gate closed, drain, streams ended, clients shut down (proxy/proxy.go has the steps);
//     the controllers still run, because objects that are dying wait for this host's word; then the connections to other hosts;
//  2. Controllers.Leave: a last report for dying objects, then the own Lease goes;
//  3. the manager: controllers, caches, probes and metrics; after it the chooser of drivers, which nobody asks any more.
func run(ctx context.Context, o options, log logr.Logger) error {
	h := &host{options: o, log: log}
	if err := h.build(ctx); err != nil {
		return err
	}
	managerCtx, stopManager := context.WithCancel(context.WithoutCancel(ctx))
	defer stopManager()
	proxyCtx, stopProxy := context.WithCancel(ctx)
	defer stopProxy()

	managed := make(chan error, 1)
	go func() { // ends with managerCtx or a failure, and takes the proxy with it
		defer stopProxy()
		managed <- h.manager.Start(managerCtx)
	}()
	proxyErr := h.proxy.Start(proxyCtx) // returns when everything of the proxy has stopped
	h.peers.Close()

	leaveCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(time.Second, o.shutdownGrace-o.drainTimeout-5*time.Second))
	defer cancel()
	leaveErr := h.controllers.Leave(leaveCtx)
	stopManager()
	managerErr := <-managed
	h.chooser.Close()
	if errors.Is(managerErr, controllers.ErrHostLost) {
		leaveErr = nil // there is no Lease to leave
	}
	return errors.Join(proxyErr, leaveErr, managerErr)
}

// build makes all parts; of what it does only the keys' Secret and the Lease are seen from outside. The Lease comes last: a host that cannot get the keys
// or its ports leaves none behind that others would wait for.
func (h *host) build(ctx context.Context) error {
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("no access to a Kubernetes API server (in a pod the ServiceAccount gives it, elsewhere KUBECONFIG): %w", err)
	}
	scheme := newScheme()
	if h.manager, err = ctrl.NewManager(config, h.managerOptions(scheme)); err != nil {
		return err
	}
	if err := h.manager.Add(newHeapKeeper()); err != nil {
		return err
	}
	uncached, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	if err := h.loadKeys(ctx, uncached); err != nil {
		return err
	}
	h.identity, err = controllers.NewHost(controllers.HostOptions{
		Client: uncached, Namespace: h.options.namespace, PodName: os.Getenv("POD_NAME"), PodUID: types.UID(os.Getenv("POD_UID")),
		HostID: h.options.hostID, LockDir: h.options.hostLockDir, Log: h.log.WithName("host"),
	})
	if err != nil {
		return err
	}
	if err := h.buildProxy(uncached); err != nil {
		return err
	}
	h.identity.SetAddress(h.options.addressForPeers(h.proxy.GRPCAddr()))
	return h.identity.Acquire(ctx)
}

// loadKeys gets the keys that all hosts share, and lets the manager keep them fresh.
func (h *host) loadKeys(ctx context.Context, uncached client.Client) (err error) {
	if h.metrics, err = metrics.New(ctrlmetrics.Registry, metrics.Build{Version: version, Commit: commit}); err != nil {
		return err
	}
	h.keys, err = controllers.NewKeys(controllers.KeyOptions{
		Client: uncached, Namespace: h.options.namespace, RotateEvery: h.options.keyRotation,
		Events: h.manager.GetEventRecorder("rocketmq-proxy"), Observer: keyObserver{h.metrics}, Log: h.log.WithName("keys"),
	})
	if err != nil {
		return err
	}
	if h.sealer, err = h.keys.Load(ctx); err != nil {
		return err
	}
	return h.manager.Add(h.keys)
}

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err) // two types of one name: no input can cause it
		}
	}
	return scheme
}

func (h *host) managerOptions(scheme *runtime.Scheme) ctrl.Options {
	o := h.options
	byNamespace := map[string]cache.Config{}
	for _, namespace := range o.watchNamespaces {
		byNamespace[namespace] = cache.Config{}
	}
	serving := metricsserver.Options{
		BindAddress: o.metricsAddress, SecureServing: true, FilterProvider: filters.WithAuthenticationAndAuthorization,
		TLSOpts: []func(*tls.Config){func(c *tls.Config) { c.MinVersion = tls.VersionTLS12 }},
	}
	if o.tlsCertDir != "" {
		serving.CertDir = o.tlsCertDir // tls.crt and tls.key; without, the server makes a certificate of its own
	}
	return ctrl.Options{
		Scheme: scheme, Logger: h.log, LeaderElection: false,
		Cache:   cache.Options{DefaultNamespaces: byNamespace, DefaultTransform: controllers.Slim},
		Metrics: serving, HealthProbeBindAddress: o.probeAddress, PprofBindAddress: o.pprofAddress,
	}
}

// buildProxy wires drivers, registry, controllers and data plane.
func (h *host) buildProxy(uncached client.Client) error {
	o := h.options
	observed, waker := h.metrics, &controllers.Waker{}
	drivers, chooser, err := newDrivers(o.enableMemoryDriver, waker.Notify, h.log)
	if err != nil {
		return err
	}
	h.chooser = chooser
	h.peers = peers.New(peers.Options{
		Host: h.identity.Name(), Incarnation: h.identity.Incarnation(), Sealer: h.sealer, Directory: directory{h.identity}, Window: h.window,
		Plaintext: o.insecurePlaintext, Asked: func(how peers.Outcome) { observed.PeerAsked(string(how)) }, Log: h.log.WithName("peers"),
	})
	clients, err := proxy.NewClients(proxy.ClientsOptions{
		Drivers: drivers.All(), HostID: h.identity.Name(), Incarnation: h.identity.Incarnation(), Peers: h.peers, Sealer: h.sealer,
		Undecided: controllers.UndecidedTransactions(h.manager.GetEventRecorder("rocketmq-proxy"), h.log.WithName("events")),
		Metrics:   observed, Log: h.log.WithName("clients"),
	})
	if err != nil {
		return err
	}
	h.registry = registry.New(registry.Options{
		Opener: clients, HostID: h.identity.Name(), Incarnation: h.identity.Incarnation(), Notify: waker.Notify,
		Observer: observed, Log: h.log.WithName("registry"),
	})
	observed.SetSource(metrics.Source{Entries: h.registry.List, Leftovers: clients.Leftovers})
	policy, err := controllers.ParseAddressPolicy(o.allowedNameServers)
	if err != nil {
		return err
	}
	h.controllers, err = controllers.Setup(h.manager, controllers.Options{
		Host: h.identity, Registry: h.registry, Waker: waker, Drivers: drivers, DefaultNameServers: o.defaultNameServers, Addresses: policy,
		Namespaces: o.watchNamespaces, Endpoint: o.endpoint, AuditInterval: o.auditInterval, Observer: controllerObserver{observed},
		HostsChanged: h.peers.HostsChanged, Move: h.move,
	})
	if err != nil {
		return err
	}
	if err := h.buildLag(drivers.All(), clients, observed); err != nil {
		return err
	}
	return h.buildDataPlane(uncached, observed)
}

// buildLag asks what waits for Consumers, for metrics and status.
func (h *host) buildLag(drivers []driver.Driver, clients *proxy.Clients, observed *metrics.Metrics) error {
	every := h.options.lagInterval
	if every <= 0 {
		return nil
	}
	alone := map[string]bool{}
	for _, d := range drivers {
		alone[d.Name()] = d.Capabilities().SingleHost
	}
	collector := lag.New(lag.Options{
		Entries: h.registry.List, Every: every, Log: h.log.WithName("lag"),
		Owns: func(e registry.EntryInfo) bool { return h.controllers.AsksFor(e, alone[e.Status.Driver]) },
		Ask:  func(ctx context.Context, key registry.Key) ([]driver.Lag, error) { return h.lagOf(ctx, clients, key) },
		Tell: func(ctx context.Context, e registry.EntryInfo, lags []driver.Lag, again time.Duration) {
			observed.SetLag(e.Namespace, e.Name, lags, time.Now().Add(lagShown*again))
			h.controllers.NoteLag(ctx, e, lags)
		},
	})
	return h.manager.Add(onEveryHost(collector.Run))
}

// lagShown is for how many times the time to the next answer one is shown when that does not come.
const lagShown = 3

// lagOf asks beside the Consumer's client where the driver can: a question must neither start one that its idle time-out has stopped nor count as its use.
func (h *host) lagOf(ctx context.Context, clients *proxy.Clients, key registry.Key) ([]driver.Lag, error) {
	spec, found := h.registry.SpecOf(key)
	if !found {
		return nil, &registry.NotFoundError{Kind: key.Kind}
	}
	lags, err := clients.ReadLag(ctx, spec)
	if driver.ReasonOf(err) != driver.Unsupported || err == nil {
		return lags, err
	}
	use, found := h.registry.UseOpen(key)
	if !found {
		return nil, err
	}
	defer use.Release()
	client, one := use.Client().(*proxy.ConsumerClient)
	if !one {
		return nil, err
	}
	return client.Lag(ctx)
}

// onEveryHost is a manager.Runnable that needs no election.
type onEveryHost func(ctx context.Context) error

// Start runs it.
func (f onEveryHost) Start(ctx context.Context) error { return f(ctx) }

// NeedLeaderElection is false: every host does its part.
func (f onEveryHost) NeedLeaderElection() bool { return false }

// move moves a Consumer's group through its client on this host.
func (h *host) move(ctx context.Context, namespace, name string, to driver.Target) (mark string, err error) {
	use, err := h.registry.Use(ctx, registry.Consumer, namespace, name)
	if err != nil {
		return "", err
	}
	defer use.Release()
	return use.Client().(server.Mover).Seek(ctx, to)
}

func (h *host) buildDataPlane(uncached client.Client, observed *metrics.Metrics) error {
	o := h.options
	po := proxy.Options{
		GRPCAddress: o.grpcAddress, HTTPAddress: o.httpAddress, Registry: h.registry, InsecureSkipAuth: o.insecureSkipAuth,
		InsecurePlaintext: o.insecurePlaintext, Limits: o.limits, DrainTimeout: o.drainTimeout, OpenAPI: openAPI, Metrics: observed,
		Primed: h.controllers.PrimedChannel(), Peers: h.peers, Seeks: h.controllers.Seeks(), Log: h.log.WithName("proxy"),
	}
	if o.tlsCertDir != "" {
		po.CertFile, po.KeyFile = filepath.Join(o.tlsCertDir, "tls.crt"), filepath.Join(o.tlsCertDir, "tls.key")
	}
	if !o.insecureSkipAuth {
		po.Authorizer = controllers.NewAuthorizer(controllers.AuthOptions{Client: uncached, Audience: o.tokenAudience})
	}
	var err error
	if h.proxy, err = proxy.New(po); err != nil {
		return err
	}
	// Listening before anything is started: a port that is taken ends the process now and not after the clients have started.
	if err := h.proxy.Listen(); err != nil {
		return err
	}
	return errors.Join(
		h.manager.AddReadyzCheck("proxy", h.proxy.Ready), h.manager.AddReadyzCheck("objects", h.controllers.Primed),
		h.manager.AddHealthzCheck("ping", healthz.Ping),
	)
}

// window finds the window that answers what another host asks.
func (h *host) window(uid string) (w peers.Window, release func(), found bool) {
	object, _, _ := strings.Cut(uid, "/") // behind it is the receiver of a broadcasting Consumer
	use, found := h.registry.UseOpen(registry.Key{Kind: registry.Consumer, UID: object})
	if !found {
		return nil, nil, false
	}
	switch client := use.Client().(type) {
	case *proxy.ConsumerClient:
		return client, use.Release, true
	case *proxy.BroadcastClient:
		if receiver, here := client.Window(uid); here {
			return receiver, use.Release, true
		}
	}
	use.Release()
	return nil, nil, false
}

// directory is the hosts as their Leases show them.
type directory struct{ *controllers.Host }

func (d directory) Members() []peers.Member { return members(d.Peers()) }

func (d directory) Look(ctx context.Context) ([]peers.Member, error) {
	all, err := d.List(ctx)
	return members(all), err
}

func members(hosts []controllers.Peer) []peers.Member {
	out := make([]peers.Member, len(hosts))
	for i, p := range hosts {
		out[i] = peers.Member{Host: p.Name, Incarnation: p.Incarnation, Address: p.Address, Stale: p.Stale}
	}
	return out
}

// controllerObserver counts what controllers tell.
type controllerObserver struct{ *metrics.Metrics }

func (c controllerObserver) FinalizerForced(kind registry.Kind) {
	c.Metrics.FinalizerForced(string(kind))
}

// Audited: leaks were counted by the registry as it found them; an audit that could not look has been logged. What metrics remember of objects
// that have gone is dropped at the same time.
func (c controllerObserver) Audited(registry.AuditReport, error) { c.ForgetGone() }

// keyObserver counts what the keys tell.
type keyObserver struct{ *metrics.Metrics }

func (k keyObserver) KeysTroubled(trouble controllers.KeyTrouble) {
	k.Metrics.KeysTroubled(string(trouble))
}

// cleanup takes our finalizer off all objects of the cluster.
func cleanup(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("cleanup", flag.ContinueOnError)
	logger := logFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	logger()
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("no access to a Kubernetes API server: %w", err)
	}
	c, err := client.New(config, client.Options{Scheme: newScheme()})
	if err != nil {
		return err
	}
	return controllers.Cleanup(ctx, c, os.Stdout)
}
