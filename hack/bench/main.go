// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command bench measures the proxy against what bounds it, in one run on one machine: raw rocketmq-client-go (what an application would have
// without us), a bare grpc-go echo server (what any gRPC service costs), RocketMQ's protocol without anything around it, the least that joins
// these two, and RocketMQ's own proxy, in Java, with its own SDK. It starts RocketMQ 5.5.0, its proxy, an API server and the operator, warms everything, runs the rows
// interleaved - each round runs every contender once - and prints the median of the rounds as tables: the figures, and each driver's aims.
//
//	go run ./hack/bench [--driver Remoting,ClientGo] [--rounds 3] [--window 3s] [--write docs/benchmarks.md]
//	go run ./hack/bench --only "64 callers" --driver Remoting --profile cpu.prof
//
// Absolute figures belong to the machine; only the ratios may be compared. The contenders run as processes of their own, so that CPU can be
// told apart: microseconds of CPU per message, user and system. It needs a JDK and Maven.
//
// Where to look: rows.go what is compared; measure.go the rounds; load.go, paced.go, java.go the loads; worker.go, echo.go, least.go, raw.go, direct.go the
// contenders that are processes of this program; memory.go what is taken once; aims.go, report.go the tables.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
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
	drivers []string
	tls     bool
	worker  string
	args    workerArgs
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	switch {
	case err != nil:
	case o.worker != "":
		err = work(ctx, o.worker, o.args)
	default:
		err = benchmark(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	var drivers string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&drivers, "driver", strings.Join(allDrivers, ","), "comma-separated drivers to measure; each has its own aims")
	flags.IntVar(&o.rounds, "rounds", 3, "how often each contender runs; the table has the median")
	flags.DurationVar(&o.window, "window", 3*time.Second, "how long each contender runs in a round")
	flags.StringVar(&o.write, "write", "", "also write the tables to this file")
	flags.StringVar(&o.profile, "profile", "", "write CPU profiles of the proxy: the first driver in each row that runs, to this name less .prof with a number")
	flags.StringVar(&o.only, "only", "", "run only the rows whose name contains this, or one of several with | between them; Memory = the figures that are taken once; nothing is written")
	flags.BoolVar(&o.tls, "tls", false, "TLS on both gRPC servers; without it on neither, as on the raw client's connection to the broker")
	flags.StringVar(&o.worker, "worker", "", "internal: be a contender")
	flags.StringVar(&o.args.nameServer, "name-server", "", "internal: for workers")
	flags.StringVar(&o.args.topic, "topic", "", "internal: for workers")
	flags.StringVar(&o.args.dir, "dir", "", "internal: for workers")
	flags.IntVar(&o.args.callers, "callers", 1, "internal: for workers")
	flags.IntVar(&o.args.broker, "broker-pid", 0, "internal: for workers")
	flags.IntVar(&o.args.batch, "batch", 1, "internal: for workers")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.args.window, o.args.tls = o.window, o.tls
	for _, name := range strings.Split(drivers, ",") {
		if !slices.Contains(allDrivers, name) {
			return o, fmt.Errorf("--driver: %q is none of %s", name, strings.Join(allDrivers, ", "))
		}
		o.drivers = append(o.drivers, name)
	}
	if all := append(slices.Clone(allRows), figuresOnce); o.only != "" && !slices.ContainsFunc(all, o.wanted) {
		return o, fmt.Errorf("--only: no row's name contains %q; they are %q", o.only, all)
	}
	return o, nil
}

// wanted reports whether a row is to be run.
func (o options) wanted(row string) bool {
	return slices.ContainsFunc(strings.Split(o.only, "|"), func(part string) bool { return strings.Contains(row, part) })
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
