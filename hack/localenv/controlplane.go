// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package localenv

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
)

// Names that the shipped manifests use.
const (
	OperatorNamespace      = "rocketmq-proxy-system"
	OperatorServiceAccount = "rocketmq-proxy-operator"
	MetricsReaderRole      = "rocketmq-proxy-metrics-reader"
	TokenAudience          = "rocketmq-proxy"
)

// ControlPlane is etcd and kube-apiserver with our manifests in it.
type ControlPlane struct {
	root, work string
	env        *envtest.Environment
	kubeconfig string
}

// Root finds the project's root from a folder inside it.
func Root(from string) (string, error) {
	dir, err := filepath.Abs(from)
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "PROJECT")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no PROJECT file in %s or above it: run this inside the project", from)
		}
		dir = filepath.Dir(dir)
	}
}

// EnsureBinaries downloads or builds etcd, kube-apiserver and kubectl into bin/envtest; progress goes to log.
func EnsureBinaries(ctx context.Context, root string, log io.Writer) error {
	return command(ctx, root, nil, log, filepath.Join(root, "hack", "envtest", "ensure.sh"))
}

// StartControlPlane starts an API server. work is a folder for kubeconfigs. The binaries must be there (EnsureBinaries).
func StartControlPlane(root, work string) (*ControlPlane, error) {
	c := &ControlPlane{root: root, work: work, kubeconfig: filepath.Join(work, "admin.kubeconfig")}
	ctrllog.SetLogger(logr.Discard()) // envtest's own; what fails comes back as an error
	c.env = &envtest.Environment{BinaryAssetsDirectory: filepath.Join(root, "bin", "envtest")}
	if _, err := c.env.Start(); err != nil {
		return nil, fmt.Errorf("start etcd and kube-apiserver: %w", err)
	}
	if err := c.writeAdminConfig(); err != nil {
		_ = c.env.Stop() // the first error is the one to tell
		return nil, err
	}
	return c, nil
}

func (c *ControlPlane) writeAdminConfig() error {
	user, err := c.env.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return fmt.Errorf("create the admin user: %w", err)
	}
	config, err := user.KubeConfig()
	if err != nil {
		return fmt.Errorf("make the admin's kubeconfig: %w", err)
	}
	return os.WriteFile(c.kubeconfig, config, 0o600)
}

// Stop ends both processes.
func (c *ControlPlane) Stop() error { return c.env.Stop() }

// Config is an administrator's client configuration.
func (c *ControlPlane) Config() *rest.Config { return rest.CopyConfig(c.env.Config) }

// AdminKubeconfig is the path of an administrator's kubeconfig.
func (c *ControlPlane) AdminKubeconfig() string { return c.kubeconfig }

// KubectlPath is the kubectl that fits the API server.
func (c *ControlPlane) KubectlPath() string {
	return filepath.Join(c.root, "bin", "envtest", "kubectl")
}

// Install applies the shipped manifests and waits until the resources are served.
func (c *ControlPlane) Install(ctx context.Context, out io.Writer) error {
	if err := c.Kubectl(ctx, out, "apply", "--server-side", "-k", filepath.Join(c.root, "config", "default")); err != nil {
		return err
	}
	return c.Kubectl(ctx, out, "wait", "--for=condition=Established", "--timeout=30s",
		"crd/producers.proxy.rocketmq.io", "crd/consumers.proxy.rocketmq.io")
}

// Kubectl runs kubectl as the administrator; its standard output goes to out, its standard error into the error.
func (c *ControlPlane) Kubectl(ctx context.Context, out io.Writer, args ...string) error {
	return command(ctx, c.root, []string{"KUBECONFIG=" + c.kubeconfig}, out, c.KubectlPath(), args...)
}

// Output is Kubectl that returns what was printed, without the last line break.
func (c *ControlPlane) Output(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	err := c.Kubectl(ctx, &out, args...)
	return strings.TrimSpace(out.String()), err
}

// Apply applies a manifest given as text.
func (c *ControlPlane) Apply(ctx context.Context, manifest string) error {
	return c.withManifest(ctx, manifest, "apply")
}

// Delete deletes what a manifest given as text names and waits until it is gone. What is not there is no error.
func (c *ControlPlane) Delete(ctx context.Context, manifest string) error {
	return c.withManifest(ctx, manifest, "delete", "--ignore-not-found")
}

func (c *ControlPlane) withManifest(ctx context.Context, manifest string, args ...string) error {
	file, err := os.CreateTemp(c.work, "apply-*.yaml")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }()
	if _, err := file.WriteString(manifest); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return c.Kubectl(ctx, io.Discard, append(args, "-f", file.Name())...)
}

// ServiceAccountToken makes a token; audience empty = the API server's own.
func (c *ControlPlane) ServiceAccountToken(ctx context.Context, namespace, name, audience string) (string, error) {
	args := []string{"create", "token", name, "-n", namespace, "--duration=4h"}
	if audience != "" {
		args = append(args, "--audience", audience)
	}
	return c.Output(ctx, args...)
}

// operatorKubeconfig writes a kubeconfig with a token of the operator's ServiceAccount, as its Pod would have. server empty = the API
// server itself; else an address in front of it (a proxy that tests cut).
func (c *ControlPlane) operatorKubeconfig(ctx context.Context, path, server string) error {
	token, err := c.ServiceAccountToken(ctx, OperatorNamespace, OperatorServiceAccount, "")
	if err != nil {
		return err
	}
	if server == "" {
		server = c.env.Config.Host
	}
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	return clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"local": {Server: server, CertificateAuthorityData: c.env.Config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"operator": {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{"local": {Cluster: "local", AuthInfo: "operator"}},
		CurrentContext: "local",
	}, path)
}

// APIServerAddress is the API server's host:port.
func (c *ControlPlane) APIServerAddress() string {
	return strings.TrimSuffix(strings.TrimPrefix(c.env.Config.Host, "https://"), "/")
}

// command runs a program to its end. Interrupted, it gets SIGINT and five seconds.
func command(ctx context.Context, dir string, env []string, out io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &stderr
	if filepath.Ext(name) == ".sh" {
		cmd.Stderr = io.MultiWriter(out, &stderr) // our scripts tell their progress there
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return nil
}
