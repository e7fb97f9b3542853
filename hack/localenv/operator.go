// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package localenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// OperatorOptions say how bin/manager is run.
type OperatorOptions struct {
	// Binary is the operator; default bin/manager.
	Binary string
	// HostID is the host's name; default "local".
	HostID string
	// NameServers are the operator's default name servers. Empty: the memory driver.
	NameServers []string
	// APIServer is an address in front of the API server; empty = the API server itself.
	APIServer string
	// Plaintext serves the data plane without TLS; Dial follows, Post does not.
	Plaintext bool
	// ExtraArgs are appended.
	ExtraArgs []string
	// Env is appended to this process's environment.
	Env []string
	// ReadyWithin is how long the operator may take to be ready, absent: a minute. With very many objects that exist it takes until their clients
	// are open.
	ReadyWithin time.Duration
	// Ports are kept over a restart; the zero value takes free ones.
	Ports Ports
}

// Operator is one running bin/manager.
type Operator struct {
	Ports Ports
	// Dir holds its certificate (tls.crt is also the CA), kubeconfig and log.
	Dir     string
	LogPath string

	plaintext bool
	cmd       *exec.Cmd
	exited    chan struct{}
	err       error // valid after exited is closed
}

// Ports of an operator, all on 127.0.0.1.
type Ports struct{ GRPC, HTTP, Probe, Metrics int }

// StartOperator runs the operator with the rights of its shipped ServiceAccount and waits until it is ready.
func (c *ControlPlane) StartOperator(ctx context.Context, o OperatorOptions) (*Operator, error) {
	if o.Binary == "" {
		o.Binary = filepath.Join(c.root, "bin", "manager")
	}
	if o.HostID == "" {
		o.HostID = "local"
	}
	if o.Ports == (Ports{}) {
		var err error
		if o.Ports, err = freePorts(); err != nil {
			return nil, err
		}
	}
	op := &Operator{Ports: o.Ports, Dir: filepath.Join(c.work, "host-"+o.HostID), exited: make(chan struct{})}
	op.LogPath = filepath.Join(op.Dir, "operator.log")
	if err := op.prepare(ctx, c, o.APIServer); err != nil {
		return nil, err
	}
	if err := op.start(o); err != nil {
		return nil, err
	}
	if err := op.waitReady(ctx, o.ReadyWithin); err != nil {
		return nil, errors.Join(fmt.Errorf("%w; its last words:\n%s", err, op.LastLogLines(20)), op.Kill())
	}
	return op, nil
}

func (op *Operator) prepare(ctx context.Context, c *ControlPlane, server string) error {
	if err := os.MkdirAll(op.Dir, 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(op.Dir, "tls.crt")); errors.Is(err, os.ErrNotExist) {
		if err := writeCertificate(op.Dir); err != nil {
			return err
		}
	}
	return c.operatorKubeconfig(ctx, filepath.Join(op.Dir, "kubeconfig"), server)
}

func (op *Operator) start(o OperatorOptions) error {
	log, err := os.OpenFile(op.LogPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	args := []string{"manager",
		"--grpc-bind-address=" + Loopback(op.Ports.GRPC), "--http-bind-address=" + Loopback(op.Ports.HTTP),
		"--health-probe-bind-address=" + Loopback(op.Ports.Probe), "--metrics-bind-address=" + Loopback(op.Ports.Metrics),
		"--tls-cert-dir=" + op.Dir, "--host-id=" + o.HostID, "--host-lock-dir=" + op.Dir, "--namespace=" + OperatorNamespace,
		"--allowed-name-servers=127.0.0.0/8", "--endpoint=" + Loopback(op.Ports.GRPC),
	}
	if len(o.NameServers) == 0 {
		args = append(args, "--enable-memory-driver", "--default-name-servers=127.0.0.1:9876")
	} else {
		args = append(args, "--default-name-servers="+strings.Join(o.NameServers, ","))
	}
	if op.plaintext = o.Plaintext; o.Plaintext {
		args = append(args, "--insecure-plaintext")
	}
	op.cmd = exec.Command(o.Binary, append(args, o.ExtraArgs...)...)
	op.cmd.Env = append(append(os.Environ(), "KUBECONFIG="+filepath.Join(op.Dir, "kubeconfig")), o.Env...)
	op.cmd.Stdout, op.cmd.Stderr = log, log
	op.cmd.SysProcAttr = childAttributes()
	started := make(chan error, 1)
	go op.run(started) // ends with the process; Stop and Kill wait for it
	if err := <-started; err != nil {
		return fmt.Errorf("start the operator: %w", err)
	}
	return nil
}

// run starts the process and reaps it. Both happen on one locked thread: the kernel's "parent died" signal means the death of the *thread*
// that started the child, and Go ends idle threads at will (golang/go#27505); a test would see its operator drain for no reason.
func (op *Operator) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := op.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	op.err = op.cmd.Wait()
	close(op.exited)
}

func (op *Operator) waitReady(ctx context.Context, within time.Duration) error {
	if within == 0 {
		within = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+Loopback(op.Ports.Probe)+"/readyz", nil)
		if err != nil {
			return err
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-op.exited:
			return fmt.Errorf("the operator ended: %w", op.err)
		case <-ctx.Done():
			return fmt.Errorf("the operator was not ready: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stop sends SIGTERM and waits for the drain. An exit code other than 0 is an error; so is having to kill it after the pod's grace period.
func (op *Operator) Stop() error {
	if !op.Running() {
		return op.err
	}
	if err := op.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-op.exited:
		return op.err
	case <-time.After(70 * time.Second):
		return errors.Join(errors.New("the operator did not end within 70 s of SIGTERM and was killed"), op.Kill())
	}
}

// Signal sends any other signal to the operator; SIGSTOP and SIGCONT freeze it and let it go on.
func (op *Operator) Signal(s syscall.Signal) error { return op.cmd.Process.Signal(s) }

// Kill ends the operator with SIGKILL and waits until it is gone.
func (op *Operator) Kill() error {
	if err := op.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-op.exited
	return nil
}

// Running reports whether the process lives.
func (op *Operator) Running() bool {
	select {
	case <-op.exited:
		return false
	default:
		return true
	}
}

// PID is the process's id.
func (op *Operator) PID() int { return op.cmd.Process.Pid }

// LastLogLines is the end of the log.
func (op *Operator) LastLogLines(n int) string {
	content, err := os.ReadFile(op.LogPath)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Loopback is 127.0.0.1:port.
func Loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// freePorts asks the kernel for four free ports and holds them all until the last is known, so that they differ.
func freePorts() (Ports, error) {
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	var got [4]int
	for i := range got {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return Ports{}, fmt.Errorf("find a free port: %w", err)
		}
		listeners = append(listeners, l)
		got[i] = l.Addr().(*net.TCPAddr).Port
	}
	return Ports{GRPC: got[0], HTTP: got[1], Probe: got[2], Metrics: got[3]}, nil
}
