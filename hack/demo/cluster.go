// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
)

const appNamespace = "default"

// build makes bin/manager and the control plane's binaries; both are kept for the next time.
func (d *demo) build(ctx context.Context) error {
	if err := localenv.EnsureBinaries(ctx, d.root, os.Stdout); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "make", "--no-print-directory", "build")
	cmd.Dir, cmd.Stdout, cmd.Stderr = d.root, os.Stdout, os.Stderr
	return cmd.Run()
}

func (d *demo) startBroker(ctx context.Context) error {
	cluster, err := rocketmq.Start(ctx, rocketmq.Options{Version: rocketmq.Version5, Log: indented{os.Stdout}})
	if err != nil {
		return err
	}
	d.onStop("RocketMQ", cluster.Stop)
	d.nameServers = cluster.NameServers()
	fmt.Printf("    name server %s\n", strings.Join(d.nameServers, ","))
	for _, topic := range []string{"orders", "payments", "events", "prices"} { // what config/samples names
		if err := cluster.CreateTopic(ctx, topic, 4, nil); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) startControlPlane(ctx context.Context) error {
	var err error
	if d.control, err = localenv.StartControlPlane(d.root, d.work); err != nil {
		return err
	}
	d.onStop("the control plane", d.control.Stop)
	return d.kubectl(ctx, "version")
}

// install applies what a user applies. The Deployment is stored, but no kubelet runs its Pod: the operator runs as a process instead.
func (d *demo) install(ctx context.Context) error {
	return d.control.Install(ctx, indented{os.Stdout})
}

func (d *demo) startOperator(ctx context.Context) error {
	var err error
	d.operator, err = d.control.StartOperator(ctx, localenv.OperatorOptions{HostID: "demo", NameServers: d.nameServers})
	if err != nil {
		return err
	}
	d.onStop("the operator", d.operator.Stop)
	fmt.Printf("    gRPC on %s, HTTP on %s, log in %s\n", localenv.Loopback(d.operator.Ports.GRPC), localenv.Loopback(d.operator.Ports.HTTP), d.relative(d.operator.LogPath))
	return nil
}

// createApplication gives an application what it needs: a ServiceAccount, the two verbs on two named objects, a token with our audience.
func (d *demo) createApplication(ctx context.Context) error {
	account := "--serviceaccount=" + appNamespace + ":shop"
	for _, args := range [][]string{
		{"create", "serviceaccount", "shop", "-n", appNamespace},
		{"create", "role", "shop-sends", "-n", appNamespace, "--verb=send", "--resource=producers.proxy.rocketmq.io", "--resource-name=orders", "--resource-name=payments"},
		{"create", "rolebinding", "shop-sends", "-n", appNamespace, "--role=shop-sends", account},
		{"create", "role", "shop-receives", "-n", appNamespace, "--verb=receive", "--resource=consumers.proxy.rocketmq.io", "--resource-name=orders-mailer", "--resource-name=orders-in-order"},
		{"create", "rolebinding", "shop-receives", "-n", appNamespace, "--role=shop-receives", account},
		{"create", "serviceaccount", "monitor", "-n", appNamespace},
		{"create", "clusterrolebinding", "monitor", "--clusterrole=" + localenv.MetricsReaderRole, "--serviceaccount=" + appNamespace + ":monitor"},
	} {
		if err := d.kubectl(ctx, args...); err != nil {
			return err
		}
	}
	var err error
	if d.appToken, err = d.control.ServiceAccountToken(ctx, appNamespace, "shop", localenv.TokenAudience); err != nil {
		return err
	}
	if d.monitorToken, err = d.control.ServiceAccountToken(ctx, appNamespace, "monitor", ""); err != nil {
		return err
	}
	if d.baseline, err = d.settledFacts(ctx); err != nil {
		return err
	}
	fmt.Printf("    baseline before any object: %s\n", d.baseline)
	return os.WriteFile(filepath.Join(d.work, "token"), []byte(d.appToken), 0o600)
}

func (d *demo) applySamples(ctx context.Context) error {
	if err := d.kubectl(ctx, "apply", "-n", appNamespace, "-k", filepath.Join("config", "samples")); err != nil {
		return err
	}
	if err := d.kubectl(ctx, "wait", "--for=condition=Ready", "-n", appNamespace, "--all", "rmqp,rmqc", "--timeout=60s"); err != nil {
		if described, describeErr := d.control.Output(ctx, "describe", "-n", appNamespace, "rmqp,rmqc"); describeErr == nil {
			fmt.Println(described)
		}
		return err
	}
	return d.kubectl(ctx, "get", "-n", appNamespace, "rmqp,rmqc", "-o", "wide")
}

// deleteSamples deletes and waits until the API server has no object any more: kubectl delete itself waits for the finalizer.
func (d *demo) deleteSamples(ctx context.Context) error {
	if err := d.kubectl(ctx, "delete", "-n", appNamespace, "-k", filepath.Join("config", "samples"), "--timeout=90s"); err != nil {
		return err
	}
	left, err := d.control.Output(ctx, "get", "-A", "rmqp,rmqc", "--ignore-not-found", "-o", "name")
	if err != nil {
		return err
	}
	if left != "" {
		return fmt.Errorf("still there after delete: %s", left)
	}
	return d.kubectl(ctx, "get", "events", "-n", appNamespace, "-o", "custom-columns=OBJECT:.involvedObject.kind,TYPE:.type,REASON:.reason,MESSAGE:.message")
}

// showNothingLeft waits until the operator runs no client and its goroutines, less what the library leaves, are at the baseline.
func (d *demo) showNothingLeft(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	// The recorder of Kubernetes events starts with the first one, 9 goroutines, and lives as long as the operator.
	const slack = 10
	for {
		now, err := d.readFacts(ctx)
		if err != nil {
			return err
		}
		if now.clients == 0 && now.goroutines-now.leftovers <= d.baseline.goroutines+slack {
			fmt.Printf("    before: %s\n    after:  %s\n", d.baseline, now)
			fmt.Println("    Up to 9 more are the recorder of Kubernetes events, which starts with the first one and stays, and nothing of an object's.")
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("left after delete: %s; before: %s", now, d.baseline)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (d *demo) stopOperator(ctx context.Context) error {
	if err := d.operator.Stop(); err != nil {
		return fmt.Errorf("the operator's exit: %w", err)
	}
	leases, err := d.control.Output(ctx, "get", "leases", "-n", localenv.OperatorNamespace, "-o", "name")
	if err != nil {
		return err
	}
	if leases != "" {
		return fmt.Errorf("leases left in %s: %s", localenv.OperatorNamespace, leases)
	}
	fmt.Println("    exit code 0, no Lease left")
	return nil
}

// facts are what "nothing is left" is measured by, read from the operator's metrics.
type facts struct{ clients, goroutines, leftovers int }

func (f facts) String() string {
	return fmt.Sprintf("%d clients, %d goroutines (%d of them named leftovers of the RocketMQ library)", f.clients, f.goroutines, f.leftovers)
}

// settledFacts reads until the number of goroutines has stopped changing for a second: the controllers have started.
func (d *demo) settledFacts(ctx context.Context) (facts, error) {
	last, err := d.readFacts(ctx)
	for same := 0; err == nil && same < 5; {
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
		var now facts
		if now, err = d.readFacts(ctx); now == last {
			same++
		} else {
			last, same = now, 0
		}
	}
	return last, err
}

func (d *demo) readFacts(ctx context.Context) (facts, error) {
	samples, err := d.operator.Metrics(ctx, d.monitorToken)
	if err != nil {
		return facts{}, err
	}
	if _, ok := samples["go_goroutines"]; !ok {
		return facts{}, fmt.Errorf("the metrics have no go_goroutines")
	}
	return facts{
		clients:    int(localenv.Sum(samples, "rocketmq_proxy_clients")),
		goroutines: int(samples["go_goroutines"]),
		leftovers:  int(localenv.Sum(samples, "rocketmq_proxy_library_leftovers")),
	}, nil
}

// kubectl shows a command as a user would type it, runs it and shows what it prints.
func (d *demo) kubectl(ctx context.Context, args ...string) error {
	fmt.Printf("    $ kubectl %s\n", strings.Join(args, " "))
	out, err := d.control.Output(ctx, args...) // as a whole: kubectl writes tables in small pieces
	if out != "" {
		fmt.Fprintln(indented{os.Stdout}, out)
	}
	return err
}

// relative shows a path from the project's root.
func (d *demo) relative(path string) string {
	return strings.TrimPrefix(path, d.root+string(filepath.Separator))
}

// indented puts four blanks before each line, so that the steps stay readable.
type indented struct{ io.Writer }

func (w indented) Write(p []byte) (int, error) {
	text := strings.TrimRight(string(p), "\n")
	if text == "" {
		return len(p), nil
	}
	_, err := io.WriteString(w.Writer, "    "+strings.ReplaceAll(text, "\n", "\n    ")+"\n")
	return len(p), err
}
