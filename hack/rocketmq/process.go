// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// process is one JVM in a process group of its own, so that a Ctrl-C in a terminal reaches us first.
type process struct {
	name string
	log  string // file with everything it printed
	pid  int
	done chan struct{} // closed when it has ended and has been waited for
}

// startProcess returns once the JVM exists; it says nothing about its health.
func startProcess(name, dir, log string, argv []string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the log of the %s: %w", name, err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.SysProcAttr = childAttributes()
	p := &process{name: name, log: log, done: make(chan struct{})}
	started := make(chan error, 1)
	go p.wait(cmd, started)
	err = errors.Join(<-started, out.Close())
	if err != nil {
		return nil, fmt.Errorf("start the %s: %w", name, err)
	}
	return p, nil
}

// wait starts the command and reaps it. Both happen on one locked thread: the kernel's "parent died" signal means the
// death of the *thread* that started the child, and Go ends idle threads at will (golang/go#27505).
func (p *process) wait(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	p.pid = cmd.Process.Pid
	started <- nil
	// How it ended is of no interest: a kill is what callers ask for, and an early end is reported with the log's tail.
	_ = cmd.Wait()
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal sends to the whole group; a process that has ended already is no error.
func (p *process) signal(s syscall.Signal) error {
	if !p.running() {
		return nil
	}
	if err := syscall.Kill(-p.pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %s to the %s (pid %d): %w", s, p.name, p.pid, err)
	}
	return nil
}

// kill ends it with SIGKILL, which works on a stopped (SIGSTOP) process too, and returns when it is gone.
func (p *process) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	if p != nil {
		<-p.done
	}
	return nil
}

// terminate asks it to end by itself and kills it when ctx ends first, which it reports.
func (p *process) terminate(ctx context.Context) error {
	if err := errors.Join(p.signal(syscall.SIGCONT), p.signal(syscall.SIGTERM)); err != nil {
		return err
	}
	if p == nil {
		return nil
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("the %s did not end after SIGTERM and was killed: %w", p.name, ctx.Err()), p.kill())
	}
}

// lastWords is the end of what it printed, for error messages.
func (p *process) lastWords() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return "its log cannot be read: " + err.Error()
	}
	return tail(text, 15)
}
