// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/controllers"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// options are the flags of the manager, after they were checked.
type options struct {
	grpcAddress, httpAddress, probeAddress, metricsAddress, pprofAddress string
	tlsCertDir                                                           string
	insecureSkipAuth, insecurePlaintext                                  bool
	tokenAudience                                                        string
	allowedNameServers, defaultNameServers, watchNamespaces              []string
	enableMemoryDriver                                                   bool
	namespace, hostID, hostLockDir, endpoint, peerAddress                string
	drainTimeout, shutdownGrace, auditInterval, keyRotation, lagInterval time.Duration
	limits                                                               server.Limits
}

// list is a flag of values separated by commas.
type list struct{ values *[]string }

func (l list) String() string {
	if l.values == nil {
		return ""
	}
	return strings.Join(*l.values, ",")
}

func (l list) Set(text string) error {
	*l.values = nil
	for _, v := range strings.Split(text, ",") {
		if v = strings.TrimSpace(v); v != "" {
			*l.values = append(*l.values, v)
		}
	}
	return nil
}

// parse reads the manager's flags and makes its logger.
func parse(args []string) (options, logr.Logger, error) {
	o := options{limits: server.DefaultLimits()}
	flags := flag.NewFlagSet("manager", flag.ContinueOnError)
	logger := logFlags(flags)
	o.bindAddresses(flags)
	o.bindOperator(flags)
	o.bindLimits(flags)
	if err := flags.Parse(args); err != nil {
		return o, logr.Logger{}, err
	}
	if flags.NArg() > 0 {
		return o, logr.Logger{}, fmt.Errorf("unexpected argument %q: every option is a flag; see --help", flags.Arg(0))
	}
	return o, logger(), o.check()
}

func (o *options) bindAddresses(flags *flag.FlagSet) {
	flags.StringVar(&o.grpcAddress, "grpc-bind-address", ":8081", "where the gRPC data plane listens")
	flags.StringVar(&o.httpAddress, "http-bind-address", ":8080", "where the HTTP/JSON data plane listens")
	flags.StringVar(&o.probeAddress, "health-probe-bind-address", ":8082", "where /healthz and /readyz listen")
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", ":8443", "where /metrics listens (HTTPS; callers need the right to get /metrics); 0 = off")
	flags.StringVar(&o.pprofAddress, "pprof-bind-address", "", "where Go's profiles listen, a loopback address; empty = off")
	flags.StringVar(&o.tlsCertDir, "tls-cert-dir", "", "folder with tls.crt and tls.key for both data-plane ports and the metrics, reloaded when they change")
	flags.BoolVar(&o.insecurePlaintext, "insecure-plaintext", false, "serve the data plane without TLS; loopback addresses only")
	flags.BoolVar(&o.insecureSkipAuth, "insecure-skip-auth", false, "let every caller send and receive; loopback addresses only")
	flags.StringVar(&o.tokenAudience, "token-audience", "rocketmq-proxy", "audience that bearer tokens of callers must have")
}

func (o *options) bindOperator(flags *flag.FlagSet) {
	flags.Var(list{&o.allowedNameServers}, "allowed-name-servers", "comma-separated host names, *.suffixes, addresses and CIDRs that objects may name; empty = all but loopback, link-local and metadata addresses")
	flags.Var(list{&o.defaultNameServers}, "default-name-servers", "comma-separated host:port for objects that name none")
	flags.Var(list{&o.watchNamespaces}, "watch-namespaces", "comma-separated namespaces whose objects are served; empty = all")
	flags.BoolVar(&o.enableMemoryDriver, "enable-memory-driver", false, "use the embedded broker for driver Auto: messages live in this process only; for demos and tests")
	flags.StringVar(&o.namespace, "namespace", os.Getenv("POD_NAMESPACE"), "the operator's own namespace (its Leases and the keys of ack tokens)")
	flags.StringVar(&o.hostID, "host-id", "", "name of this host when it does not run in a pod (POD_NAME and POD_UID unset)")
	flags.StringVar(&o.hostLockDir, "host-lock-dir", os.TempDir(), "folder of the file lock that keeps --host-id exclusive on a machine")
	flags.StringVar(&o.endpoint, "endpoint", "", "host:port that status.endpoint shows to applications")
	flags.StringVar(&o.peerAddress, "peer-address", "", "host:port at which other hosts of this operator reach the gRPC port, to ask about deliveries of this host; "+
		"empty = POD_IP, or the address of --grpc-bind-address if it names one, with the gRPC port; none = they do not")
	flags.DurationVar(&o.drainTimeout, "drain-timeout", 30*time.Second, "longest time for receivers to acknowledge when this host stops")
	flags.DurationVar(&o.shutdownGrace, "shutdown-grace", 45*time.Second, "longest time for the whole stop; shorter than the pod's grace period")
	flags.DurationVar(&o.auditInterval, "audit-interval", time.Minute, "time between two comparisons of running clients with the objects")
	flags.DurationVar(&o.lagInterval, "lag-interval", time.Minute, "time between two questions to RocketMQ of what waits for a Consumer, for metrics and status; 0 = it is not asked")
	flags.DurationVar(&o.keyRotation, "ack-key-rotation", controllers.DefaultKeyRotation,
		"age at which the key of ack tokens is replaced, at least an hour; 0 = never. The keys are in the Secret "+controllers.KeysSecret+" of the operator's namespace")
}

// bindLimits offers the limits that a platform engineer may want to change; proxy/server/limits.go explains each.
func (o *options) bindLimits(flags *flag.FlagSet) {
	l := &o.limits
	flags.IntVar(&l.MaxRequestBytes, "max-request-bytes", l.MaxRequestBytes, "largest request: a gRPC message or an HTTP body")
	flags.IntVar(&l.MaxConnections, "max-connections", l.MaxConnections, "open connections per data-plane port")
	flags.IntVar(&l.MaxConcurrentStreams, "max-concurrent-streams", l.MaxConcurrentStreams, "calls and streams at once on one gRPC connection")
	flags.IntVar(&l.MaxConcurrentCalls, "max-concurrent-calls", l.MaxConcurrentCalls, "calls and streams at once on this host")
	flags.IntVar(&l.MaxCallsPerObject, "max-calls-per-object", l.MaxCallsPerObject, "calls and streams at once of one Producer or Consumer")
	flags.IntVar(&l.MaxCallsPerCaller, "max-calls-per-caller", l.MaxCallsPerCaller, "calls at once of one caller")
	flags.IntVar(&l.MaxStreamsPerCaller, "max-streams-per-caller", l.MaxStreamsPerCaller, "Receive and TransactionChecks streams at once of one caller")
	flags.IntVar(&l.MaxHeaderBytes, "max-header-bytes", l.MaxHeaderBytes, "headers of one call")
	flags.DurationVar(&l.MaxConnectionAge, "max-connection-age", l.MaxConnectionAge, "age at which connections are ended, so that callers spread over hosts")
	flags.DurationVar(&l.WriteTimeout, "receiver-write-timeout", l.WriteTimeout, "a receiver that does not read for so long loses its stream")
}

// check refuses what cannot work before anything starts. The data plane's addresses are checked by the proxy itself.
func (o *options) check() error {
	if o.drainTimeout >= o.shutdownGrace {
		return fmt.Errorf("--drain-timeout (%s) must be shorter than --shutdown-grace (%s): closing comes after draining", o.drainTimeout, o.shutdownGrace)
	}
	if o.tlsCertDir == "" && !o.insecurePlaintext {
		return fmt.Errorf("--tls-cert-dir is missing: name a folder with tls.crt and tls.key (config/README.md tells how to make one), or use --insecure-plaintext on a loopback address")
	}
	if o.keyRotation != 0 && o.keyRotation < controllers.MinKeyRotation {
		return fmt.Errorf("--ack-key-rotation (%s) must be at least %s, or 0 for never", o.keyRotation, controllers.MinKeyRotation)
	}
	if o.peerAddress != "" && o.peerAddress != "none" {
		if _, _, err := net.SplitHostPort(o.peerAddress); err != nil {
			return fmt.Errorf("--peer-address: %q is not host:port: %w", o.peerAddress, err)
		}
	}
	for _, address := range o.defaultNameServers {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("--default-name-servers: %q is not host:port: %w", address, err)
		}
	}
	if o.pprofAddress == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(o.pprofAddress)
	if err != nil {
		return fmt.Errorf("--pprof-bind-address: %q is not host:port: %w", o.pprofAddress, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("--pprof-bind-address: %q is not a loopback address; profiles show what is in memory", o.pprofAddress)
	}
	return nil
}

// addressForPeers is where other hosts reach this one, which listens for gRPC at listens; empty = they cannot.
func (o *options) addressForPeers(listens net.Addr) string {
	tcp, isTCP := listens.(*net.TCPAddr)
	host := os.Getenv("POD_IP")
	switch {
	case o.peerAddress == "none" || !isTCP:
		return ""
	case o.peerAddress != "":
		return o.peerAddress
	case !tcp.IP.IsUnspecified():
		host = tcp.IP.String()
	case host == "":
		return ""
	}
	return net.JoinHostPort(host, strconv.Itoa(tcp.Port))
}
