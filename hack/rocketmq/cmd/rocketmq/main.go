// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command rocketmq runs a real Apache RocketMQ on loopback until Ctrl-C.
//
//	go run ./hack/rocketmq/cmd/rocketmq --topic orders --topic payments
//
// Standard output carries one line, the name server's address; everything else goes to standard error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
)

type arguments struct {
	options rocketmq.Options
	topics  []string
	queues  int
	fetch   bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "rocketmq:", err)
		os.Exit(1)
	}
}

func parse(args []string) (arguments, error) {
	a := arguments{options: rocketmq.Options{Log: os.Stderr, ExtraBrokerConf: map[string]string{}}}
	flags := flag.NewFlagSet("rocketmq", flag.ContinueOnError)
	flags.StringVar(&a.options.Version, "version", rocketmq.Version5, "version of Apache RocketMQ")
	flags.BoolVar(&a.options.ACL, "acl", false, "require credentials; the first user's are printed to standard error")
	flags.StringVar(&a.options.Dir, "dir", "", "folder for configuration, store and logs, kept at the end (default: a temporary one, removed)")
	flags.StringVar(&a.options.Heap, "heap", "", "the broker's heap (default 1g)")
	flags.BoolVar(&a.options.Measure, "measure", false, "size it for benchmarks rather than for a quick start")
	flags.BoolVar(&a.fetch, "fetch-only", false, "fetch the jars and stop")
	flags.IntVar(&a.queues, "queues", 4, "queues of each topic")
	flags.Func("topic", "create this topic; may be repeated", func(topic string) error {
		a.topics = append(a.topics, topic)
		return nil
	})
	flags.Func("conf", "a line key=value for broker.conf; may be repeated", func(line string) error {
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return fmt.Errorf("%q is not key=value", line)
		}
		a.options.ExtraBrokerConf[key] = value
		return nil
	})
	return a, flags.Parse(args)
}

func run(ctx context.Context, args []string) (err error) {
	a, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if a.fetch {
		_, err := rocketmq.Libraries(ctx, a.options.Version, a.options.Log)
		return err
	}
	cluster, err := rocketmq.Start(ctx, a.options)
	if err != nil {
		return err
	}
	defer func() {
		fmt.Fprintln(os.Stderr, "rocketmq: stopping")
		err = errors.Join(err, cluster.Stop())
	}()
	for _, topic := range a.topics {
		if err := cluster.CreateTopic(ctx, topic, a.queues, nil); err != nil {
			return err
		}
	}
	if a.options.ACL {
		admin := cluster.Administrator()
		fmt.Fprintf(os.Stderr, "rocketmq: accessKey=%s secretKey=%s\n", admin.AccessKey, admin.SecretKey)
	}
	fmt.Println(strings.Join(cluster.NameServers(), ";"))
	fmt.Fprintln(os.Stderr, "rocketmq: running; Ctrl-C stops it")
	<-ctx.Done()
	return nil
}
