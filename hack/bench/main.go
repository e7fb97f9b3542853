// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command bench measures the proxy against what bounds it, in one run on one machine: raw rocketmq-client-go (what an application would
// have without us) and a bare grpc-go echo server (what any gRPC service costs). It starts RocketMQ 5.5.0, an API server and the operator, warms
// everything, runs the rows interleaved - each round runs every contender once - and prints the median of the rounds as a table with ratios.
//
//	go run ./hack/bench [--rounds 3] [--seconds 5] [--write docs/benchmarks.md]
//
// Absolute figures belong to the machine; only the ratios may be compared. The contenders run as processes of their own, so that CPU can be
// told apart: microseconds of CPU per message, user and system.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

type options struct {
	rounds  int
	window  time.Duration
	write   string
	profile string
	only    string
	tls     bool
	worker  string
	args    workerArgs
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 3, "how often each contender runs; the table has the median")
	flag.DurationVar(&o.window, "window", 5*time.Second, "how long each contender runs in a round")
	flag.StringVar(&o.write, "write", "", "also write the table to this file")
	flag.StringVar(&o.profile, "profile", "", "write a CPU profile of the proxy during unary Send to this file")
	flag.StringVar(&o.only, "only", "", "run only the rows whose name contains this, without the figures that are taken once; nothing is written")
	flag.BoolVar(&o.tls, "tls", false, "TLS on both gRPC servers; without it on neither, as on the raw client's connection to the broker")
	flag.StringVar(&o.worker, "worker", "", "internal: be a contender (echo, raw-send, raw-receive)")
	flag.StringVar(&o.args.nameServer, "name-server", "", "internal: for workers")
	flag.StringVar(&o.args.topic, "topic", "", "internal: for workers")
	flag.StringVar(&o.args.dir, "dir", "", "internal: for workers")
	flag.IntVar(&o.args.callers, "callers", 1, "internal: for workers")
	flag.IntVar(&o.args.batch, "batch", 1, "internal: for workers")
	flag.Parse()

	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	o.args.window, o.args.tls = o.window, o.tls
	run := func() error { return benchmark(ctx, o) }
	if o.worker != "" {
		run = func() error { return work(ctx, o.worker, o.args) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// benchmark is the whole run.
func benchmark(ctx context.Context, o options) (err error) {
	root, err := localenv.Root(".")
	if err != nil {
		return err
	}
	work := filepath.Join(root, "bin", "bench")
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	if err := os.MkdirAll(work, 0o700); err != nil {
		return err
	}
	b := &bench{options: o, root: root, work: work}
	defer func() {
		if stopErr := b.stop(); err == nil {
			err = stopErr
		}
	}()
	if err := b.start(ctx); err != nil {
		return err
	}
	table, err := b.measure(ctx)
	if err != nil {
		return err
	}
	fmt.Print("\n" + table)
	if o.write == "" || o.only != "" {
		return nil
	}
	return os.WriteFile(o.write, []byte(table), 0o644)
}
