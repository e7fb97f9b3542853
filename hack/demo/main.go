// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command demo shows the main job from end to end on this machine: a real Kubernetes API server, the operator under its own ServiceAccount
// and shipped role, real tokens, TLS; apply, send, receive, acknowledge, delete, and the proof that nothing is left.
//
//	go run ./hack/demo                  memory driver
//	BROKER=rocketmq go run ./hack/demo  a real Apache RocketMQ 5.5.0, started and stopped here (Java 17 and Maven)
//	go run ./hack/demo --stay           stays up and prints what to try (make run)
//
// It exits 0 when every step was seen to work and 1 otherwise, and leaves no process behind, also after Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

func main() {
	stay := flag.Bool("stay", false, "stay up until Ctrl-C and print what to try next")
	root := flag.String("root", ".", "a folder inside the project")
	flag.Parse()

	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	if err := run(ctx, *root, os.Getenv("BROKER"), *stay); err != nil {
		if ctx.Err() != nil {
			fmt.Fprintln(os.Stderr, "\ninterrupted: everything that was started has been stopped")
		} else {
			fmt.Fprintf(os.Stderr, "\nFAILED: %v\n", err)
		}
		os.Exit(1)
	}
}

// run is the whole story. Everything that it starts is stopped by the deferred calls, in reverse order, whatever happens.
func run(ctx context.Context, root, broker string, stay bool) (err error) {
	if broker != "" && broker != "memory" && broker != "rocketmq" {
		return fmt.Errorf("BROKER=%s: use memory (the default) or rocketmq", broker)
	}
	d, err := newDemo(root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stopAll()) }()

	prepare := []step{
		{"build the operator and its test control plane", d.build},
		{"start RocketMQ 5.5.0", d.startBroker},
		{"start etcd and kube-apiserver", d.startControlPlane},
		{"kubectl apply -k config/default (CRDs, roles, Deployment)", d.install},
		{"start the operator as ServiceAccount " + localenv.OperatorNamespace + "/" + localenv.OperatorServiceAccount, d.startOperator},
		{"create an application's ServiceAccount, its right to send and receive, and its token", d.createApplication},
		{"kubectl apply -k config/samples", d.applySamples},
	}
	if broker != "rocketmq" {
		prepare = append(prepare[:1], prepare[2:]...)
	}
	if err := d.play(ctx, prepare); err != nil {
		return err
	}
	if stay {
		d.printTour()
		<-ctx.Done()
		fmt.Println("\nstopping")
		return nil
	}
	err = d.play(ctx, []step{
		{"send over HTTP/JSON, receive and acknowledge over a gRPC stream", d.sendHTTPReceiveGRPC},
		{"send over gRPC, pull and acknowledge over HTTP/JSON", d.sendGRPCPullHTTP},
		{"order: equal sharding keys come in order, and what fails is not overtaken", d.showOrder},
		{"send for later: one message comes after its delay, another is recalled", d.showLater},
		{"transactions: what is committed comes, what is rolled back does not", d.showTransactions},
		{"what is refused, and how it is said", d.showRefusals},
		{"kubectl delete: the finalizer waits for the proof of shutdown", d.deleteSamples},
		{"nothing is left: clients and goroutines are back at the baseline", d.showNothingLeft},
		{"stop the operator: its Lease goes, it exits 0", d.stopOperator},
	})
	if err == nil {
		fmt.Println("\nDone: every step worked, and nothing was left behind.\nNext: `make run` stays up for you to try; README.md shows kubectl, curl and grpcurl.")
	}
	return err
}

type step struct {
	title string
	do    func(context.Context) error
}

// play runs steps in order with a headline each, and stops at the first that fails.
func (d *demo) play(ctx context.Context, steps []step) error {
	for _, s := range steps {
		d.stepNumber++
		fmt.Printf("\n=== %d. %s\n", d.stepNumber, s.title)
		began := time.Now()
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("step %d (%s): %w", d.stepNumber, s.title, err)
		}
		fmt.Printf("    ok, %.1f s\n", time.Since(began).Seconds())
	}
	return nil
}

// demo holds what runs. Its methods are called from one goroutine.
type demo struct {
	root, work string
	stepNumber int
	stops      []namedStop

	nameServers            []string
	control                *localenv.ControlPlane
	operator               *localenv.Operator
	appToken, monitorToken string
	baseline               facts
}

type namedStop struct {
	what string
	stop func() error
}

func newDemo(from string) (*demo, error) {
	root, err := localenv.Root(from)
	if err != nil {
		return nil, err
	}
	work := filepath.Join(root, "bin", "demo")
	if err := os.RemoveAll(work); err != nil {
		return nil, err
	}
	return &demo{root: root, work: work}, os.MkdirAll(work, 0o700)
}

// onStop registers what has to be stopped when run returns; the last registered is stopped first.
func (d *demo) onStop(what string, stop func() error) {
	d.stops = append(d.stops, namedStop{what, stop})
}

func (d *demo) stopAll() error {
	var errs []error
	for i := len(d.stops) - 1; i >= 0; i-- {
		if err := d.stops[i].stop(); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", d.stops[i].what, err))
		}
	}
	d.stops = nil
	return errors.Join(errs...)
}
