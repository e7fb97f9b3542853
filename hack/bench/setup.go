// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
)

const (
	namespace   = "bench"
	connections = 4 // of the load generator, to each server alike; sends use one of them
)

// bench holds what runs.
type bench struct {
	options
	root, work string
	stops      []func() error

	broker   *rocketmq.Cluster
	control  *localenv.ControlPlane
	operator *localenv.Operator
	token    string
	java     *javaLoad // nil when no row needs it
	proxies  []*grpc.ClientConn
	echo     target
	least    target
	// serial makes names that were not used before.
	serial int
	// atWindow, when set, is called as a measurement of the proxy begins.
	atWindow func()
}

func (b *bench) windowBegins() {
	if b.atWindow != nil {
		b.atWindow()
	}
}

func (b *bench) stop() error {
	var errs []error
	for i := len(b.stops) - 1; i >= 0; i-- {
		errs = append(errs, b.stops[i]())
	}
	return errors.Join(errs...)
}

// start brings up broker, API server, operator and the servers it is compared with, and the objects.
func (b *bench) start(ctx context.Context) error {
	say("building, and starting RocketMQ 5.5.0 sized for measuring")
	if err := localenv.EnsureBinaries(ctx, b.root, os.Stderr); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "make", "--no-print-directory", "build")
	build.Dir, build.Stdout, build.Stderr = b.root, os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return err
	}
	var err error
	if b.broker, err = rocketmq.Start(ctx, rocketmq.Options{
		Measure: true, Log: os.Stderr,
		// On two shared cores the default of 200 ms makes "broker busy" of a slow moment, and the raw client gives up on that.
		ExtraBrokerConf: map[string]string{"waitTimeMillsInSendQueue": "2000", "osPageCacheBusyTimeOutMills": "5000"},
	}); err != nil {
		return err
	}
	b.stops = append(b.stops, b.broker.Stop)
	if err := b.createTopic(ctx); err != nil {
		return err
	}
	if b.wanted(rowUnary) || b.wanted(rowReceive) {
		if err := b.startJava(ctx); err != nil {
			return err
		}
	}
	if err := b.startOperator(ctx); err != nil {
		return err
	}
	return b.startServers(ctx)
}

// createTopic makes the topic of most rows. RocketMQ's own proxy looks at its type.
func (b *bench) createTopic(ctx context.Context) error {
	return b.broker.CreateTopic(ctx, "bench", 8, map[string]string{"message.type": "NORMAL"})
}

// startOperator starts the operator on an API server of its own, with a Producer for each driver.
func (b *bench) startOperator(ctx context.Context) (err error) {
	say("starting an API server and the operator")
	if b.control, err = localenv.StartControlPlane(b.root, b.work); err != nil {
		return err
	}
	b.stops = append(b.stops, b.control.Stop)
	if err := b.control.Install(ctx, io.Discard); err != nil {
		return err
	}
	if err := b.application(ctx); err != nil {
		return err
	}
	if b.operator, err = b.control.StartOperator(ctx, b.operatorOptions()); err != nil {
		return err
	}
	b.stops = append(b.stops, b.operator.Stop)
	for _, driver := range b.drivers {
		if err := b.object(ctx, "Producer", producerOf(driver), "driver: "+driver, "topics: [bench]"); err != nil {
			return err
		}
	}
	if len(b.transacting()) == 0 {
		return nil
	}
	return b.object(ctx, "Producer", transactional, "driver: Remoting", "topics: [bench]", "transactions: {}")
}

func (b *bench) operatorOptions() localenv.OperatorOptions {
	o := localenv.OperatorOptions{HostID: "bench", NameServers: b.broker.NameServers(), Plaintext: !b.tls}
	if b.profile != "" {
		o.ExtraArgs = []string{"--pprof-bind-address=127.0.0.1:" + strconv.Itoa(profilePort)}
	}
	return o
}

func (b *bench) application(ctx context.Context) error {
	account := "--serviceaccount=" + namespace + ":app"
	for _, args := range [][]string{
		{"create", "namespace", namespace},
		{"create", "serviceaccount", "app", "-n", namespace},
		{"create", "role", "sends", "-n", namespace, "--verb=send", "--resource=producers.proxy.rocketmq.io"},
		{"create", "rolebinding", "sends", "-n", namespace, "--role=sends", account},
		{"create", "role", "receives", "-n", namespace, "--verb=receive", "--resource=consumers.proxy.rocketmq.io"},
		{"create", "rolebinding", "receives", "-n", namespace, "--role=receives", account},
	} {
		if err := b.control.Kubectl(ctx, io.Discard, args...); err != nil {
			return err
		}
	}
	var err error
	b.token, err = b.control.ServiceAccountToken(ctx, namespace, "app", localenv.TokenAudience)
	return err
}

// object applies an object and waits until it is Ready.
func (b *bench) object(ctx context.Context, kind, name string, lines ...string) error {
	if err := b.control.Apply(ctx, manifest(kind, name, lines...)); err != nil {
		return err
	}
	return b.control.Kubectl(ctx, io.Discard, "wait", "-n", namespace, "--for=condition=Ready", "--timeout=60s", kind+"/"+name)
}

func manifest(kind, name string, lines ...string) string {
	return fmt.Sprintf("apiVersion: proxy.rocketmq.io/v1alpha1\nkind: %s\nmetadata: {name: %s, namespace: %s}\nspec:\n  %s\n---\n", kind, name, namespace, strings.Join(lines, "\n  "))
}

// startServers starts the servers that the proxy is compared with, and dials all with equal settings.
func (b *bench) startServers(ctx context.Context) (err error) {
	if b.echo, err = b.startServer(ctx, "echo"); err != nil {
		return err
	}
	if b.least, err = b.startServer(ctx, "least", "--topic", "bench"); err != nil {
		return err
	}
	for range connections {
		toProxy, err := b.operator.Dial(b.token)
		if err != nil {
			return err
		}
		b.stops = append(b.stops, toProxy.Close)
		b.proxies = append(b.proxies, toProxy)
	}
	return nil
}

// startServer starts a worker that serves gRPC with the operator's certificate.
func (b *bench) startServer(ctx context.Context, worker string, args ...string) (target, error) {
	cmd, out, err := b.worker(ctx, worker, append(args, "--dir", b.operator.Dir)...)
	if err != nil {
		return target{}, err
	}
	b.stops = append(b.stops, func() error {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		_ = cmd.Wait() // it was told to end
		return nil
	})
	address, err := out.ReadString('\n')
	if err != nil {
		return target{}, fmt.Errorf("the %s server told no address: %w", worker, err)
	}
	to := target{pid: cmd.Process.Pid}
	for range connections {
		connection, err := b.operator.DialAt(strings.TrimSpace(address), b.token)
		if err != nil {
			return target{}, err
		}
		b.stops = append(b.stops, connection.Close)
		to.connections = append(to.connections, connection)
	}
	return to, nil
}

// worker starts this program again as a contender.
func (b *bench) worker(ctx context.Context, name string, args ...string) (*exec.Cmd, *bufio.Reader, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	args = append([]string{"--worker", name, "--name-server", b.broker.NameServers()[0], "--window", b.window.String(), "--broker-pid", strconv.Itoa(b.broker.BrokerPID()), "--tls=" + strconv.FormatBool(b.tls)}, args...)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	return cmd, bufio.NewReader(out), cmd.Start()
}

// contend runs a contender to its end and reads its figure.
func (b *bench) contend(ctx context.Context, name string, args ...string) (figure, error) {
	cmd, out, err := b.worker(ctx, name, args...)
	if err != nil {
		return figure{}, err
	}
	var f figure
	decodeErr := json.NewDecoder(out).Decode(&f)
	if err := cmd.Wait(); err != nil {
		return figure{}, fmt.Errorf("%s: %w", name, err)
	}
	return f, decodeErr
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }
