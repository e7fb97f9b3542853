// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// Use is a hold on a running client; see registry.Use.
type Use interface {
	Client() registry.Client
	Spec() registry.Spec
	// Holders is how many calls and streams held the client when this one took it, itself included.
	Holders() int
	// Closing is closed when the drain is over and the client is about to be closed.
	Closing() <-chan struct{}
	Release()
}

// Registry finds running clients. Its errors are those of registry.Registry.Use.
type Registry interface {
	Use(ctx context.Context, kind registry.Kind, namespace, name string) (Use, error)
	// UseDraining finds a client that is draining, for acknowledgements: they are answered until the end.
	UseDraining(kind registry.Kind, namespace, name string) (Use, error)
}

// Sender is what the server wants of a Producer's client; see batching.Queue.
type Sender interface {
	Send(ctx context.Context, topic string, msgs []*driver.Message) []driver.SendResult
	// SendOnce is Send for messages of which those with named[i] have an id that the caller chose: within the Producer's deduplication window such a one is
	// sent once, and answered with the first result again.
	SendOnce(ctx context.Context, topic string, msgs []*driver.Message, named []bool) []driver.SendResult
	// Admit asks the Producer's rate limit: 0 = so many messages and bytes may be sent, and are counted; else nothing may for so long.
	Admit(messages int, bytes int64) (wait time.Duration)
}

// Window is what the server wants of a Consumer's client; see delivery.Window.
type Window interface {
	Acknowledger
	Attach(delivery.ReceiverOptions) (*delivery.Receiver, error)
}

// Acknowledger is the part of a Window that answers until the client is closed.
type Acknowledger interface {
	Ack(ctx context.Context, tokens []string) []delivery.Result
	Nack(ctx context.Context, nacks []delivery.Nack) []delivery.Result
	Modify(ctx context.Context, modifications []delivery.Modify) []delivery.Result
}

// Observer is told what happens, for metrics. It must not block; calls come from many goroutines. Namespace and name are those of an
// object that exists; nothing else that a caller chose reaches it.
type Observer interface {
	// CallEnded: one call or stream of the method has been answered. protocol is "grpc" or "http".
	CallEnded(method, protocol string, code codes.Code, took time.Duration)
	// Sent: n messages of one Send ended with the result: "OK" or the error's reason.
	Sent(namespace, producer, result string, n int)
	// Transactions: one was begun, committed or rolled back by an application (steps "begun", "committed" and "rolled_back").
	Transactions(namespace, producer, step string)
	// Connections and Streams changed by +1 or -1.
	Connections(protocol string, change int)
	Streams(change int)
	// ConnectionRefused: Limits.MaxConnections is reached.
	ConnectionRefused(protocol string)
	// ReceiverNotReading: a stream was ended because its receiver did not read.
	ReceiverNotReading()
	// Panicked: a call panicked and was answered INTERNAL.
	Panicked(method string)
}

// Options are what a server is made of.
type Options struct {
	// Registry finds the clients. Required.
	Registry Registry
	// Authorizer decides who may do what; nil = everybody may do everything. Whoever makes the server must then listen on loopback only.
	Authorizer Authorizer
	// TLS of both ports; nil = plain text, on loopback only.
	TLS *tls.Config
	// Limits; zero fields are defaults.
	Limits Limits
	// Seeks moves Consumers for callers of Seek, and records it; nil = the client alone does, and nobody is told.
	Seeks Seeker
	// Peers answers what other hosts of the operator ask; nil = there are none, and the service is not offered.
	Peers PeerAnswerer
	// OpenAPI is served as /openapi.json; empty = not served.
	OpenAPI []byte
	// Observer may be nil.
	Observer Observer
	Log      logr.Logger
}

// Server answers the data-plane protocol. It is safe for concurrent use. New makes it, ServeGRPC and ServeHTTP run it, Drain and Close end it.
type Server struct {
	registry Registry
	auth     Authorizer
	limits   Limits
	peers    PeerAnswerer
	seeks    Seeker
	openAPI  []byte
	observer Observer
	log      logr.Logger
	failures *failureLog
	ids      *idMaker

	draining   atomic.Bool
	admission  admission
	goroutines sync.WaitGroup // readers and acknowledgers of streams; each is started by a handler, which Close waits for first

	grpc      *grpc.Server
	health    *health.Server
	http      *http.Server
	grpcConns *connections
	httpConns *connections
}

// New makes a server that does not listen yet. Nothing runs before ServeGRPC and ServeHTTP.
func New(o Options) (*Server, error) {
	if o.Registry == nil {
		return nil, errors.New("server: Options.Registry is missing")
	}
	limits := o.Limits.withDefaults()
	if err := limits.validate(); err != nil {
		return nil, err
	}
	s := &Server{
		registry: o.Registry, auth: o.Authorizer, limits: limits, peers: o.Peers, seeks: o.Seeks, openAPI: o.OpenAPI, observer: o.Observer, log: o.Log,
		failures: newFailureLog(o.Log), ids: newIDMaker(time.Now),
	}
	if s.observer == nil {
		s.observer = nobody{}
	}
	s.admission.limits = limits
	s.grpcConns = newConnections("grpc", limits.MaxConnections, s.observer)
	s.httpConns = newConnections("http", limits.MaxConnections, s.observer)
	s.newGRPC(o.TLS)
	return s, s.newHTTP(o.TLS)
}

// ServeGRPC answers gRPC on l until Close, and closes l.
func (s *Server) ServeGRPC(l net.Listener) error {
	if err := s.grpc.Serve(s.grpcConns.listener(l)); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve gRPC on %s: %w", l.Addr(), err)
	}
	return nil
}

// ServeHTTP answers HTTP/JSON on l until Close, and closes l.
func (s *Server) ServeHTTP(l net.Listener) error {
	tracked := s.httpConns.listener(l)
	var err error
	if s.http.TLSConfig != nil {
		err = s.http.ServeTLS(tracked, "", "")
	} else {
		err = s.http.Serve(tracked)
	}
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP on %s: %w", l.Addr(), err)
	}
	return nil
}

// Drain says to health checks and in errors that this host stops. Calls are still answered: sends and new streams by what the registry says,
// acknowledgements until Close.
func (s *Server) Drain() {
	s.draining.Store(true)
	s.health.Shutdown()
	s.http.SetKeepAlivesEnabled(false)
}

// Close stops listening, lets calls finish until ctx ends, ends the rest, and returns when every goroutine of the server has ended. It works twice.
func (s *Server) Close(ctx context.Context) {
	s.Drain()
	// 1. No new connections and calls; those under way finish. Both at once: one slow caller must not use up the other's time.
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		s.grpc.GracefulStop()
	}()
	if err := s.http.Shutdown(ctx); err != nil {
		// 2. The time is over: connections are cut, their calls' contexts end.
		_ = s.http.Close()
	}
	select {
	case <-finished:
	case <-ctx.Done():
		s.grpc.Stop() // It waits for the handlers.
		<-finished
	}
	// 3. No handler is left, so nobody starts a goroutine any more; those of ended streams end by themselves.
	s.admission.close()
	s.goroutines.Wait()
}

// call is one call or stream on its way through the server.
type call struct {
	method   string
	protocol string
	caller   Caller
	// target is "namespace/name" once it is known to be well formed, for logs.
	namespace, name string
}

// serve is the frame of every call, gRPC and HTTP: it counts and refuses above the limits, gives a deadline to a call that has none,
// turns panics and Go errors into statuses, measures, and logs failures. body does the rest; the answer is always a status error or nil.
func (s *Server) serve(ctx context.Context, c *call, deadline time.Duration, body func(ctx context.Context) error) (err error) {
	start := time.Now()
	if err = s.admission.enter(); err == nil {
		defer s.admission.leave()
		if _, has := ctx.Deadline(); !has && deadline > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, deadline)
			defer cancel()
		}
		err = s.protect(ctx, c, body)
	}
	s.finished(ctx, c, err, time.Since(start))
	return err
}

// protect runs body and turns a panic into an error.
func (s *Server) protect(ctx context.Context, c *call, body func(ctx context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(ctx, c, p)
		}
	}()
	err = body(ctx)
	if err != nil && !isStatus(err) {
		translated := s.statusError(ctx, err)
		if status.Code(translated) == codes.Internal {
			s.log.Error(err, "a call failed in a way that nobody expected", "method", c.method, "object", c.namespace+"/"+c.name,
				"requestID", requestID(ctx))
		}
		return translated
	}
	return err
}

// panicked counts and logs a panic and answers what the caller is told.
func (s *Server) panicked(ctx context.Context, c *call, p any) error {
	s.observer.Panicked(c.method)
	s.log.Error(fmt.Errorf("panic: %v", p), "a call panicked", "method", c.method, "object", c.namespace+"/"+c.name,
		"requestID", requestID(ctx), "stack", string(debug.Stack()))
	return failure(codes.Internal, reasonInternal, "", "the proxy failed on this call; its log has the cause")
}

// spawn runs f beside the stream of c; Close joins it. A panic ends the stream, not the process.
func (s *Server) spawn(ctx context.Context, c *call, f func()) {
	s.goroutines.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				endOfStream(ctx, s.panicked(ctx, c, p))
			}
		}()
		f()
	})
}

// finished measures and logs.
func (s *Server) finished(ctx context.Context, c *call, err error, took time.Duration) {
	code := status.Code(err)
	s.observer.CallEnded(c.method, c.protocol, code, took)
	if err == nil || code == codes.Canceled {
		return
	}
	s.failures.log("call failed", "method", c.method, "protocol", c.protocol, "caller", c.caller.Name, "namespace", c.namespace, "name", c.name,
		"code", code.String(), "reason", reasonOf(err), "took", took.Round(time.Microsecond).String(), "requestID", requestID(ctx))
}

// requestID is the caller's x-request-id when it is fit to be logged.
func requestID(ctx context.Context) string {
	for _, id := range metadata.ValueFromIncomingContext(ctx, "x-request-id") {
		if len(id) <= 64 && isPrintable(id) {
			return id
		}
	}
	return ""
}

func isPrintable(text string) bool {
	for _, c := range []byte(text) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

// open is the order of every call: caller's limits, form of the name, right, look-up. The caller of open releases the Use and leaves.
func (s *Server) open(ctx context.Context, c *call, r right, kind registry.Kind) (Use, error) {
	if err := s.allow(ctx, c, r); err != nil {
		return nil, err
	}
	use, err := s.registry.Use(ctx, kind, c.namespace, c.name)
	if err != nil {
		return nil, err
	}
	if n := use.Holders(); n > s.limits.MaxCallsPerObject {
		use.Release()
		return nil, limitReached("MaxCallsPerObject", "%s %s/%s has %d calls and streams under way on this host, which is all that one object may have; "+
			"try again with back-off", kind, c.namespace, c.name, n-1)
	}
	return use, nil
}

func (s *Server) allow(ctx context.Context, c *call, r right) error {
	if err := validName("namespace", c.namespace, 63); err != nil {
		return err
	}
	if err := validName(fieldOfKind(r), c.name, 253); err != nil {
		return err
	}
	return s.authorize(ctx, c.caller, r, c.namespace, c.name)
}

func fieldOfKind(r right) string {
	if r == maySend {
		return "producer"
	}
	return "consumer"
}

// validName keeps what cannot be the name of an object away from the Kubernetes API and from logs.
func validName(field, name string, limit int) error {
	if name == "" {
		return invalid(field, "it is missing")
	}
	if len(name) > limit {
		return invalid(field, "it has %d bytes, a name has at most %d", len(name), limit)
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return invalid(field, "%q is not the name of an object: use a-z, 0-9, - and .", name)
		}
	}
	return nil
}

// nobody is the Observer of a server that has none.
type nobody struct{}

func (nobody) CallEnded(string, string, codes.Code, time.Duration) {}
func (nobody) Sent(string, string, string, int)                    {}
func (nobody) Transactions(string, string, string)                 {}
func (nobody) Connections(string, int)                             {}
func (nobody) Streams(int)                                         {}
func (nobody) ConnectionRefused(string)                            {}
func (nobody) ReceiverNotReading()                                 {}
func (nobody) Panicked(string)                                     {}
