// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// pod is the image's binary as the Deployment runs it: its arguments, its environment, its certificate, its ServiceAccount's token. Only the
// addresses differ (loopback, free ports), and the memory driver is switched on, because there is no RocketMQ.
type pod struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended; err and log are complete then
	err    error
	log    bytes.Buffer
	ports  map[string]string // flag to host:port
	roots  *x509.CertPool
}

const (
	podName = "rocketmq-proxy-operator-0"
	podUID  = "11111111-2222-3333-4444-555555555555"
)

// startPod starts the binary; it is killed at the end of the test if it still runs.
func startPod(t *testing.T, binary string) *pod { return startPodAs(t, binary, podName, podUID) }

func startPodAs(t *testing.T, binary, name, uid string) *pod {
	t.Helper()
	dir := t.TempDir()
	p := &pod{ports: map[string]string{}, exited: make(chan struct{}), roots: x509.NewCertPool()}
	certificate := makeCertificate(t, dir)
	p.roots.AppendCertsFromPEM(certificate)
	container := deployment(t).Spec.Template.Spec.Containers[0]
	args := []string{}
	for _, arg := range container.Args {
		arg = strings.ReplaceAll(arg, "$(POD_NAMESPACE)", operatorNamespace)
		name, _, _ := strings.Cut(arg, "=")
		switch {
		case strings.HasSuffix(name, "-bind-address"):
			p.ports[name] = freeAddress(t)
			arg = name + "=" + p.ports[name]
		case name == "--tls-cert-dir":
			arg = name + "=" + dir
		}
		args = append(args, arg)
	}
	p.cmd = exec.Command(binary, append(args, "--enable-memory-driver")...)
	p.cmd.Env = append(os.Environ(), "KUBECONFIG="+operatorKubeconfig(t, dir), "POD_NAME="+name, "POD_UID="+uid, "POD_NAMESPACE="+operatorNamespace)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() { p.stopped() })
	return p
}

// stopped kills the process if it still runs and returns its whole log, which nobody writes any more.
func (p *pod) stopped() string {
	_ = p.cmd.Process.Kill() // it may have ended before
	<-p.exited
	return p.log.String()
}

// makeCertificate makes one with the documented command's tool for loopback, and returns what clients trust.
func makeCertificate(t *testing.T, dir string) []byte {
	t.Helper()
	out, err := shell(t, dir, `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj "/CN=test" -addext "subjectAltName=IP:127.0.0.1" -keyout tls.key -out tls.crt`)
	if err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	certificate, err := os.ReadFile(filepath.Join(dir, "tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// operatorKubeconfig has a token of the shipped ServiceAccount, as a pod would.
func operatorKubeconfig(t *testing.T, dir string) string {
	t.Helper()
	token := strings.TrimSpace(mustKubectl(t, "create", "token", "-n", operatorNamespace, operatorName))
	config := clientcmdapi.NewConfig()
	config.Clusters["test"] = &clientcmdapi.Cluster{Server: admin.Host, CertificateAuthorityData: admin.CAData}
	if !strings.Contains(admin.Host, "://") {
		config.Clusters["test"].Server = "https://" + admin.Host
	}
	config.AuthInfos["operator"] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "operator"}
	config.CurrentContext = "test"
	path := filepath.Join(dir, "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// get answers the status code of a GET, 0 when there is no answer.
func (p *pod) get(url, token string) int {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: p.roots}}}
	response, err := client.Do(request)
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

// await polls until ok, the process's end, or 60 s.
func (p *pod) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline, tick := time.After(time.Minute), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-p.exited:
			t.Fatalf("the process ended before %s: %v\n%s", what, p.err, p.stopped())
		case <-deadline:
			t.Fatalf("not after 60 s: %s\n%s", what, p.stopped())
		case <-tick.C:
		}
	}
}

func TestTheDeploymentsProcessServesAndLeavesNothing(t *testing.T) {
	p := startPod(t, imagesBinary(t))
	probes := "http://" + p.ports["--health-probe-bind-address"]
	p.await(t, "ready", func() bool { return p.get(probes+"/readyz", "") == http.StatusOK })
	if code := p.get(probes+"/healthz", ""); code != http.StatusOK {
		t.Errorf("the liveness probe answers %d", code)
	}
	checkMetricsAccess(t, p)
	keys, err := clientset.CoreV1().Secrets(operatorNamespace).Get(t.Context(), keysSecret, metav1.GetOptions{})
	if err != nil || len(keys.Data) != 1 {
		t.Errorf("the first host made no Secret with the keys of ack tokens: %v", err)
	}

	out, err := kubectl("apiVersion: proxy.rocketmq.io/v1alpha1\nkind: Producer\nmetadata: {name: deployed, namespace: default}\nspec: {topics: [orders], connection: {nameServers: ['namesrv.example:9876']}}\n", "apply", "-f", "-")
	if err != nil {
		t.Fatalf("apply a Producer: %v\n%s", err, out)
	}
	mustKubectl(t, "wait", "--for=condition=Ready", "-n", "default", "rmqp/deployed", "--timeout=60s")
	if endpoint := mustKubectl(t, "get", "-n", "default", "rmqp/deployed", "-o", "jsonpath={.status.endpoint}"); endpoint != "rocketmq-proxy."+operatorNamespace+".svc:8081" {
		t.Errorf("status.endpoint is %q", endpoint)
	}
	mustKubectl(t, "delete", "-n", "default", "rmqp/deployed", "--timeout=60s")
	if leases := hostLeases(t); len(leases) != 1 || !strings.HasPrefix(leases[0], podName) {
		t.Errorf("the running host's Leases: %v, want one that begins with %s", leases, podName)
	}

	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.exited:
		if p.err != nil {
			t.Errorf("after SIGTERM: %v\n%s", p.err, p.stopped())
		}
	case <-time.After(time.Minute):
		t.Fatalf("still running a minute after SIGTERM\n%s", p.stopped())
	}
	if leases := hostLeases(t); len(leases) != 0 {
		t.Errorf("Leases left by a host that stopped: %v", leases)
	}
	if log := p.stopped(); strings.Contains(log, "forbidden") {
		t.Errorf("the shipped role lacks a right:\n%s", log)
	}
}

// TestHostsShareOneSecret: the second host works with the keys of the first, with the shipped rights.
func TestHostsShareOneSecret(t *testing.T) {
	binary := imagesBinary(t)
	// The hosts are killed, and there is no garbage collector that would take their Leases.
	t.Cleanup(func() { mustKubectl(t, "delete", "leases", "-n", operatorNamespace, "--all") })
	var secrets []string
	for i := range 2 {
		p := startPodAs(t, binary, fmt.Sprint("rocketmq-proxy-operator-", i), fmt.Sprintf("11111111-2222-3333-4444-55555555555%d", i))
		p.await(t, "ready", func() bool {
			return p.get("http://"+p.ports["--health-probe-bind-address"]+"/readyz", "") == http.StatusOK
		})
		keys, err := clientset.CoreV1().Secrets(operatorNamespace).Get(t.Context(), keysSecret, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, string(keys.UID)+" "+keys.ResourceVersion)
	}
	if secrets[0] != secrets[1] {
		t.Errorf("the second host wrote the Secret of the first: %v", secrets)
	}
}

// TestAHostThatMayNotKeepTheKeysSaysSo: the right is taken away and the Secret is not there.
func TestAHostThatMayNotKeepTheKeysSaysSo(t *testing.T) {
	mustKubectl(t, "delete", "rolebinding", "-n", operatorNamespace, operatorName)
	t.Cleanup(func() { mustKubectl(t, "apply", "--server-side", "-k", filepath.Join(root, "config", "default")) })
	mustKubectl(t, "delete", "secret", "-n", operatorNamespace, keysSecret, "--ignore-not-found")
	p := startPod(t, imagesBinary(t))
	select {
	case <-p.exited:
	case <-time.After(time.Minute):
		t.Fatalf("a host without the right runs\n%s", p.stopped())
	}
	log := p.stopped()
	for _, part := range []string{"may not create the Secret " + operatorNamespace + "/" + keysSecret, "config/rbac", "does not serve"} {
		if !strings.Contains(log, part) {
			t.Errorf("its log lacks %q:\n%s", part, log)
		}
	}
	if p.err == nil {
		t.Error("it ended with code 0")
	}
	if leases := hostLeases(t); len(leases) != 0 {
		t.Errorf("it left a Lease that others wait for: %v", leases)
	}
}

// checkMetricsAccess: nobody reads metrics without the right to.
func checkMetricsAccess(t *testing.T, p *pod) {
	t.Helper()
	mustKubectl(t, "create", "serviceaccount", "-n", "default", "scraper")
	mustKubectl(t, "create", "clusterrolebinding", "scraper", "--clusterrole=rocketmq-proxy-metrics-reader", "--serviceaccount=default:scraper")
	mustKubectl(t, "create", "serviceaccount", "-n", "default", "stranger")
	url := "https://" + p.ports["--metrics-bind-address"] + "/metrics"
	token := func(account string) string {
		return strings.TrimSpace(mustKubectl(t, "create", "token", "-n", "default", account))
	}
	scraper := token("scraper")
	p.await(t, "the scraper may read the metrics", func() bool { return p.get(url, scraper) == http.StatusOK })
	if code := p.get(url, token("stranger")); code != http.StatusForbidden {
		t.Errorf("somebody without the right gets %d for the metrics", code)
	}
	if code := p.get(url, ""); code != http.StatusUnauthorized {
		t.Errorf("somebody without a token gets %d for the metrics", code)
	}
}

func hostLeases(t *testing.T) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	list, err := clientset.CoordinationV1().Leases(operatorNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(errors.Join(errors.New("list Leases"), err))
	}
	var names []string
	for _, lease := range list.Items {
		names = append(names, lease.Name)
	}
	return names
}
