// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// operatorProcess is bin/manager as a child of its own process group, so that Ctrl-C reaches it through us and it can drain.
type operatorProcess struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // valid after exited is closed
}

// startOperator runs the operator with the rights of its ServiceAccount: what the shipped roles do not allow fails here as in a cluster.
func (d *demo) startOperator(ctx context.Context) error {
	config, err := d.operatorKubeconfig(ctx)
	if err != nil {
		return err
	}
	if err := writeCertificate(d.work); err != nil {
		return err
	}
	logPath := filepath.Join(d.work, "operator.log")
	logFile, err := os.Create(logPath)
	if err != nil {
		return err
	}
	d.onStop("the operator's log", logFile.Close)

	args := []string{"manager",
		"--grpc-bind-address=" + loopback(d.ports.grpc), "--http-bind-address=" + loopback(d.ports.http),
		"--health-probe-bind-address=" + loopback(d.ports.probe), "--metrics-bind-address=" + loopback(d.ports.metrics),
		"--tls-cert-dir=" + d.work, "--host-id=demo", "--host-lock-dir=" + d.work, "--namespace=" + operatorNamespace,
		"--allowed-name-servers=127.0.0.0/8", "--endpoint=" + loopback(d.ports.grpc),
	}
	if d.nameServers == "" {
		args = append(args, "--enable-memory-driver", "--default-name-servers=127.0.0.1:9876")
	} else {
		args = append(args, "--default-name-servers="+d.nameServers)
	}
	cmd := exec.Command(filepath.Join(d.root, "bin", "manager"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+config)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	d.operator = &operatorProcess{cmd: cmd, exited: make(chan struct{})}
	go func() { // joined by stop: it ends with the process
		d.operator.err = cmd.Wait()
		close(d.operator.exited)
	}()
	d.onStop("the operator", d.operator.stop)
	fmt.Printf("    log: %s\n", strings.TrimPrefix(logPath, d.root+"/"))
	if err := d.waitReady(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, lastLines(logPath, 20))
	}
	return nil
}

// operatorKubeconfig is a kubeconfig with a token of the operator's ServiceAccount, as a Pod would have it.
func (d *demo) operatorKubeconfig(ctx context.Context) (string, error) {
	token, err := d.kubectlOutput(ctx, "create", "token", operatorServiceAccount, "-n", operatorNamespace, "--duration=4h")
	if err != nil {
		return "", err
	}
	c := d.control.env.Config
	config := clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"demo": {Server: hostURL(c.Host), CertificateAuthorityData: c.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"operator": {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{"demo": {Cluster: "demo", AuthInfo: "operator"}},
		CurrentContext: "demo",
	}
	path := filepath.Join(d.work, "operator.kubeconfig")
	return path, clientcmd.WriteToFile(config, path)
}

func hostURL(host string) string {
	if strings.Contains(host, "://") {
		return host
	}
	return "https://" + host
}

func (d *demo) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(d.ports.probe)+"/readyz", nil)
		if err != nil {
			return err
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-d.operator.exited:
			return fmt.Errorf("the operator ended: %v", d.operator.err)
		case <-ctx.Done():
			return errors.New("the operator was not ready within 30 s")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// stop sends SIGTERM and waits for the drain; after the pod's grace period it kills, which is an error.
func (o *operatorProcess) stop() error {
	select {
	case <-o.exited:
		return nil
	default:
	}
	if err := o.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-o.exited:
		return o.err
	case <-time.After(70 * time.Second):
		_ = o.cmd.Process.Kill()
		<-o.exited
		return errors.New("did not end within 70 s of SIGTERM and was killed")
	}
}

func (d *demo) stopOperator(ctx context.Context) error {
	if err := d.operator.stop(); err != nil {
		return fmt.Errorf("the operator's exit: %w", err)
	}
	leases, err := d.kubectlOutput(ctx, "get", "leases", "-n", operatorNamespace, "-o", "name")
	if err != nil {
		return err
	}
	if leases != "" {
		return fmt.Errorf("leases left in %s: %s", operatorNamespace, leases)
	}
	fmt.Println("    exit code 0, no Lease left")
	return nil
}

// facts are what "nothing is left" is measured by, read from the operator's metrics.
type facts struct{ clients, goroutines, leftovers int }

func (f facts) String() string {
	return fmt.Sprintf("%d clients, %d goroutines (%d of them named leftovers of the RocketMQ library)", f.clients, f.goroutines, f.leftovers)
}

func (d *demo) readFacts(ctx context.Context) (facts, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+loopback(d.ports.metrics)+"/metrics", nil)
	if err != nil {
		return facts{}, err
	}
	request.Header.Set("Authorization", "Bearer "+d.monitorToken)
	// The metrics endpoint serves with its own certificate; the demo talks to a process that it started itself on loopback.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // loopback
	response, err := client.Do(request)
	if err != nil {
		return facts{}, fmt.Errorf("read metrics: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return facts{}, fmt.Errorf("read metrics: %s", response.Status)
	}
	return parseFacts(response.Body)
}

func parseFacts(r io.Reader) (facts, error) {
	var f facts
	seen := false
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, ok := cutSample(lines.Text())
		switch {
		case !ok:
		case name == "go_goroutines":
			f.goroutines, seen = value, true
		case strings.HasPrefix(name, "rocketmq_proxy_clients{"):
			f.clients += value
		case strings.HasPrefix(name, "rocketmq_proxy_library_leftovers{"):
			f.leftovers += value
		}
	}
	if !seen {
		return f, errors.New("the metrics have no go_goroutines")
	}
	return f, lines.Err()
}

func cutSample(line string) (string, int, bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 || strings.HasPrefix(line, "#") {
		return "", 0, false
	}
	v, err := strconv.ParseFloat(line[i+1:], 64)
	return line[:i], int(v), err == nil
}

// showNothingLeft waits until the operator runs no client and its goroutines, less what the library leaves, are at the baseline.
func (d *demo) showNothingLeft(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	// The baseline was taken before controllers had worked; keep-alive connections to the API server account for a few goroutines.
	const slack = 12
	for {
		now, err := d.readFacts(ctx)
		if err != nil {
			return err
		}
		if now.clients == 0 && now.goroutines-now.leftovers <= d.baseline.goroutines+slack {
			fmt.Printf("    before: %s\n    after:  %s\n", d.baseline, now)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("left after delete: %s; before: %s", now, d.baseline)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

func lastLines(path string, n int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
