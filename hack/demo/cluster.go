// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
)

const (
	operatorNamespace      = "rocketmq-proxy-system"
	operatorServiceAccount = "rocketmq-proxy-controller-manager"
	appNamespace           = "default"
	tokenAudience          = "rocketmq-proxy"
)

// controlPlane is etcd and kube-apiserver without a kubelet.
type controlPlane struct{ env *envtest.Environment }

// build makes bin/manager and the control plane's binaries; both are kept for the next time.
func (d *demo) build(ctx context.Context) error {
	if err := d.run(ctx, os.Stdout, "hack/envtest/ensure.sh"); err != nil {
		return err
	}
	d.kubectlPath = filepath.Join(d.root, "bin", "envtest", "kubectl")
	return d.run(ctx, os.Stdout, "make", "--no-print-directory", "build")
}

func (d *demo) startBroker(ctx context.Context) error {
	cluster, err := rocketmq.Start(ctx, rocketmq.Options{Version: "5.5.0", Log: os.Stdout})
	if err != nil {
		return err
	}
	d.onStop("RocketMQ", cluster.Stop)
	d.nameServers = strings.Join(cluster.NameServers(), ",")
	fmt.Printf("    name server %s\n", d.nameServers)
	for _, topic := range []string{"orders", "payments"} {
		if err := cluster.CreateTopic(ctx, topic, 4, nil); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) startControlPlane(context.Context) error {
	env := &envtest.Environment{BinaryAssetsDirectory: filepath.Join(d.root, "bin", "envtest")}
	if _, err := env.Start(); err != nil {
		return fmt.Errorf("start the test control plane: %w", err)
	}
	d.control = &controlPlane{env: env}
	d.onStop("the control plane", env.Stop)
	user, err := env.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return err
	}
	config, err := user.KubeConfig()
	if err != nil {
		return err
	}
	d.kubeconfig = filepath.Join(d.work, "admin.kubeconfig")
	if err := os.WriteFile(d.kubeconfig, config, 0o600); err != nil {
		return err
	}
	return d.kubectl(ctx0, "version")
}

// ctx0 is for the few kubectl calls that must also run while an interrupted demo cleans up.
var ctx0 = context.Background()

// install applies what a user applies. The Deployment is stored, but no kubelet runs its Pod: the operator runs as a process instead.
func (d *demo) install(ctx context.Context) error {
	if err := d.kubectl(ctx, "apply", "--server-side", "-k", filepath.Join(d.root, "config", "default")); err != nil {
		return err
	}
	return d.kubectl(ctx, "wait", "--for=condition=Established", "crd/producers.proxy.rocketmq.io", "crd/consumers.proxy.rocketmq.io", "--timeout=30s")
}

// createApplication gives an application what it needs: a ServiceAccount, the two verbs on two named objects, a token with our audience.
func (d *demo) createApplication(ctx context.Context) error {
	calls := [][]string{
		{"create", "serviceaccount", "shop", "-n", appNamespace},
		{"create", "role", "shop-messages", "-n", appNamespace, "--verb=send", "--resource=producers.proxy.rocketmq.io", "--resource-name=orders"},
		{"create", "rolebinding", "shop-messages", "-n", appNamespace, "--role=shop-messages", "--serviceaccount=" + appNamespace + ":shop"},
		{"create", "role", "shop-receives", "-n", appNamespace, "--verb=receive", "--resource=consumers.proxy.rocketmq.io", "--resource-name=orders"},
		{"create", "rolebinding", "shop-receives", "-n", appNamespace, "--role=shop-receives", "--serviceaccount=" + appNamespace + ":shop"},
		{"create", "serviceaccount", "monitor", "-n", appNamespace},
		{"create", "clusterrolebinding", "monitor", "--clusterrole=rocketmq-proxy-metrics-reader", "--serviceaccount=" + appNamespace + ":monitor"},
	}
	for _, args := range calls {
		if err := d.kubectl(ctx, args...); err != nil {
			return err
		}
	}
	var err error
	if d.appToken, err = d.kubectlOutput(ctx, "create", "token", "shop", "-n", appNamespace, "--audience", tokenAudience, "--duration=2h"); err != nil {
		return err
	}
	if d.monitorToken, err = d.kubectlOutput(ctx, "create", "token", "monitor", "-n", appNamespace, "--duration=2h"); err != nil {
		return err
	}
	d.baseline, err = d.readFacts(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("    baseline before any object: %s\n", d.baseline)
	return os.WriteFile(filepath.Join(d.work, "token"), []byte(d.appToken), 0o600)
}

func (d *demo) applySamples(ctx context.Context) error {
	if err := d.kubectl(ctx, "apply", "-n", appNamespace, "-k", filepath.Join(d.root, "config", "samples")); err != nil {
		return err
	}
	if err := d.kubectl(ctx, "wait", "--for=condition=Ready", "-n", appNamespace, "rmqp/orders", "rmqc/orders", "--timeout=60s"); err != nil {
		_ = d.kubectl(ctx, "describe", "-n", appNamespace, "rmqp,rmqc")
		return err
	}
	return d.kubectl(ctx, "get", "-n", appNamespace, "rmqp,rmqc", "-o", "wide")
}

// deleteSamples deletes and waits until the API server has no object any more: kubectl delete itself waits for the finalizer.
func (d *demo) deleteSamples(ctx context.Context) error {
	if err := d.kubectl(ctx, "delete", "-n", appNamespace, "-k", filepath.Join(d.root, "config", "samples"), "--timeout=90s"); err != nil {
		return err
	}
	left, err := d.kubectlOutput(ctx, "get", "-A", "rmqp,rmqc", "--ignore-not-found", "-o", "name")
	if err != nil {
		return err
	}
	if left != "" {
		return fmt.Errorf("still there after delete: %s", left)
	}
	return d.kubectl(ctx, "get", "events", "-n", appNamespace, "--field-selector=type=Normal", "-o", "custom-columns=OBJECT:.involvedObject.kind,REASON:.reason,MESSAGE:.message")
}

// kubectl runs and shows a command as a user would type it.
func (d *demo) kubectl(ctx context.Context, args ...string) error {
	fmt.Printf("    $ kubectl %s\n", strings.Join(d.short(args), " "))
	return d.run(ctx, indented{os.Stdout}, d.kubectlPath, args...)
}

// kubectlOutput runs a command quietly and returns its standard output without the last line break.
func (d *demo) kubectlOutput(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	err := d.run(ctx, &out, d.kubectlPath, args...)
	return strings.TrimSpace(out.String()), err
}

// short shows paths relative to the project's root.
func (d *demo) short(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = strings.TrimPrefix(a, d.root+string(filepath.Separator))
	}
	return out
}

func (d *demo) run(ctx context.Context, out io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = d.root
	cmd.Env = append(os.Environ(), "KUBECONFIG="+d.kubeconfig)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, io.MultiWriter(&stderr, indented{os.Stderr})
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(d.short(args), " "), err, strings.TrimSpace(stderr.String()))
	}
	return nil
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

// ports of the operator on loopback.
type ports struct{ grpc, http, probe, metrics int }

// freePorts asks the kernel for four free ports and holds them all until the last is known, so that they differ.
func freePorts() (ports, error) {
	var got [4]int
	for i := range got {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return ports{}, err
		}
		defer func() { _ = l.Close() }()
		got[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports{grpc: got[0], http: got[1], probe: got[2], metrics: got[3]}, nil
}
