// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
)

// javaGroup is the consumer group of the Java load. It goes on where it was in each round: far behind the backlog's end.
const javaGroup = "g_java"

// javaLoad is the process of hack/bench/java: load on RocketMQ's own proxy through RocketMQ's own SDK.
type javaLoad struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers *bufio.Reader
	// proxy and broker are the processes whose CPU counts.
	proxy, broker func() int
}

// startJava starts RocketMQ's proxy and the load. The group exists before, and stands at the oldest message.
func (b *bench) startJava(ctx context.Context) error {
	say("starting RocketMQ's own proxy, and building its load")
	if err := b.broker.StartJavaProxy(ctx); err != nil {
		return err
	}
	if err := b.broker.CreateGroup(ctx, rocketmq.Group{Name: javaGroup}); err != nil {
		return err
	}
	out := filepath.Join(b.work, "java")
	build := exec.CommandContext(ctx, "mvn", "-q", "-B", "-ntp", "-f", filepath.Join(b.root, "hack", "bench", "java", "pom.xml"),
		"-Dout="+out, "compile", "dependency:copy-dependencies")
	var said bytes.Buffer
	build.Stdout, build.Stderr = &said, &said
	if err := build.Run(); err != nil {
		return fmt.Errorf("build hack/bench/java with Maven (it needs a JDK 17): %w\n%s", err, said.Bytes())
	}
	var err error
	if b.java, err = startJavaLoad(ctx, out, b.broker.JavaProxyAddr()); err != nil {
		return err
	}
	b.java.proxy, b.java.broker = b.broker.JavaProxyPID, b.broker.BrokerPID
	b.stops = append(b.stops, b.java.stop)
	return nil
}

func startJavaLoad(ctx context.Context, dir, address string) (*javaLoad, error) {
	cmd := exec.CommandContext(ctx, "java", "-Xms256m", "-Xmx512m", "-Duser.home="+dir, // the SDK logs there
		"-cp", filepath.Join(dir, "classes")+string(os.PathListSeparator)+filepath.Join(dir, "lib", "*"),
		"io.rocketmq.proxy.bench.Load", address, "bench", javaGroup, strconv.Itoa(bodyBytes))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &javaLoad{cmd: cmd, in: in, answers: bufio.NewReader(out)}, nil
}

// stop ends the process by the end of its input.
func (j *javaLoad) stop() error {
	return errors.Join(j.in.Close(), j.cmd.Wait())
}

// measure warms for a second and measures for the window.
func (j *javaLoad) measure(ctx context.Context, command string, threads int, window time.Duration) (figure, error) {
	who := parties{tested: j.proxy(), broker: j.broker(), load: j.cmd.Process.Pid}
	if _, err := j.ask(ctx, command, threads, time.Second); err != nil {
		return figure{}, err
	}
	before, err := who.costs()
	if err != nil {
		return figure{}, err
	}
	answer, err := j.ask(ctx, command, threads, window)
	if err != nil {
		return figure{}, err
	}
	after, err := who.costs()
	if err != nil {
		return figure{}, err
	}
	if answer.Messages == 0 {
		return figure{}, fmt.Errorf("%s: no message came to an end", command)
	}
	f := figure{Rate: answer.Messages / answer.Seconds}
	f.charge(before, after, answer.Messages)
	if command == "send" { // a receive's time is that of 32 acknowledgements too, and compares with nothing here
		f.P50, f.P99 = answer.P50, answer.P99
	}
	return f, nil
}

// javaAnswer is a line of Load.java.
type javaAnswer struct {
	Messages, Seconds, P50, P99 float64
}

func (j *javaLoad) ask(ctx context.Context, command string, threads int, window time.Duration) (javaAnswer, error) {
	var answer javaAnswer
	if _, err := fmt.Fprintf(j.in, "%s %d %d\n", command, threads, window.Milliseconds()); err != nil {
		return answer, fmt.Errorf("ask the Java load: %w", err)
	}
	line, err := j.answers.ReadBytes('\n') // ends with the process, which ends with ctx
	if err != nil {
		return answer, errors.Join(fmt.Errorf("the Java load gave no answer to %q: %w", command, err), ctx.Err())
	}
	return answer, json.Unmarshal(line, &answer)
}
