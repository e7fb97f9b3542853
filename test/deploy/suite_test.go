// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

const (
	operatorNamespace = "rocketmq-proxy-system"
	operatorName      = "rocketmq-proxy-operator"
	tlsSecret         = "rocketmq-proxy-tls"
	keysSecret        = "rocketmq-proxy-ack-keys"
)

var (
	root       string // of the repository
	assets     string // folder of etcd, kube-apiserver and kubectl
	work       string // a folder for this run
	kubeconfig string // of an administrator
	admin      *rest.Config
	clientset  *kubernetes.Clientset
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "test/deploy:", err)
		code = 1
	}
	os.Exit(code)
}

// run starts one API server for the package, applies config/default to it with kubectl, as a user would, and runs the tests.
func run(m *testing.M) (code int, err error) {
	if root, err = filepath.Abs("../.."); err != nil {
		return 1, err
	}
	if assets = os.Getenv("KUBEBUILDER_ASSETS"); assets == "" {
		assets = filepath.Join(root, "bin", "envtest")
	}
	if _, err := os.Stat(filepath.Join(assets, "kube-apiserver")); err != nil {
		return 1, fmt.Errorf("no test control plane: run hack/envtest/ensure.sh, or set KUBEBUILDER_ASSETS: %w", err)
	}
	env := &envtest.Environment{BinaryAssetsDirectory: assets}
	if admin, err = env.Start(); err != nil {
		return 1, fmt.Errorf("start the API server: %w", err)
	}
	defer func() {
		if stopErr := env.Stop(); stopErr != nil && err == nil {
			err = fmt.Errorf("stop the API server: %w", stopErr)
		}
	}()
	if work, err = os.MkdirTemp("", "deploy-test"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(work)
	if err := connect(env); err != nil {
		return 1, err
	}
	if out, err := kubectl("", "apply", "--server-side", "-k", filepath.Join(root, "config", "default")); err != nil {
		return 1, fmt.Errorf("kubectl apply -k config/default: %w\n%s", err, out)
	}
	if out, err := kubectl("", "wait", "--for=condition=Established", "--timeout=60s", "crd/producers.proxy.rocketmq.io", "crd/consumers.proxy.rocketmq.io"); err != nil {
		return 1, fmt.Errorf("the resource definitions do not come up: %w\n%s", err, out)
	}
	return m.Run(), nil
}

func connect(env *envtest.Environment) error {
	user, err := env.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return err
	}
	content, err := user.KubeConfig()
	if err != nil {
		return err
	}
	kubeconfig = filepath.Join(work, "kubeconfig")
	if err := os.WriteFile(kubeconfig, content, 0o600); err != nil {
		return err
	}
	clientset, err = kubernetes.NewForConfig(admin)
	return err
}

// kubectl runs the control plane's own kubectl as administrator and returns what it printed, both streams.
func kubectl(stdin string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(assets, "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// mustKubectl is kubectl for calls that have to work.
func mustKubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := kubectl("", args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// render is `kubectl kustomize` of a folder under config/.
func render(t *testing.T, folder string) string {
	t.Helper()
	return mustKubectl(t, "kustomize", filepath.Join(root, "config", folder))
}
