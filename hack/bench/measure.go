// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

const profilePort = 16060

// measure warms everything, runs every contender once without counting it, runs the rounds, then the figures that are taken once, and renders the tables.
func (b *bench) measure(ctx context.Context) (string, error) {
	if err := b.warmUp(ctx); err != nil {
		return "", err
	}
	results := results{}
	if err := b.rehearse(ctx, b.contenders()); err != nil {
		return "", err
	}
	if err := b.runRounds(ctx, results, b.contenders()); err != nil {
		return "", err
	}
	if b.profile != "" {
		if err := b.takeProfiles(ctx); err != nil {
			return "", err
		}
	}
	if err := b.runTransactions(ctx, results); err != nil {
		return "", err
	}
	if !b.wanted(figuresOnce) {
		return figuresTable(results), nil
	}
	once, err := b.measureOnce(ctx)
	if err != nil {
		return "", err
	}
	if b.only != "" {
		return figuresTable(results) + b.memoryTable(once), nil
	}
	return b.render(results, once), nil
}

// warmUp: a broker is at a third of its rates for its first 100,000 messages, and a JVM's JIT takes some seconds of each kind of load.
func (b *bench) warmUp(ctx context.Context) error {
	enough := 200_000
	if b.wanted(rowReceive) && !b.wanted(rowBatch) {
		enough = int(200_000 * b.window.Seconds()) // nobody else makes the backlog that is received
	}
	say("warming the broker with %d messages", enough)
	for total := 0; total < enough; {
		f, err := b.contend(ctx, "raw-send", "--topic", "bench", "--callers", "16", "--batch", "32")
		if err != nil {
			return err
		}
		total += int(f.Rate * b.window.Seconds())
	}
	if b.java == nil {
		return nil
	}
	say("warming the Java proxy and its SDK")
	for _, command := range []struct {
		name    string
		threads int
	}{{"send", 64}, {"receive", javaReceivers}} {
		if _, err := b.java.measure(ctx, command.name, command.threads, 8*time.Second); err != nil {
			return err
		}
	}
	return nil
}

// results are the figures of the rounds by row and contender.
type results map[string]map[string][]figure

func (r results) add(c contender, f figure) {
	if r[c.row] == nil {
		r[c.row] = map[string][]figure{}
	}
	r[c.row][c.who] = append(r[c.row][c.who], f)
}

// pacedRehearsal is how long a contender of the paced row runs before it counts. What waits at the broker for messages that come one by one runs there once a
// message, and at 1,000/s its JIT needs 10 to 15 s of them: until then the proxy's median was three times what it was afterwards (measured: 3.7, 2.0,
// 1.7, 1.4 ms in rounds of 4 s), the raw client's the same all the time.
const pacedRehearsal = 15 * time.Second

// rehearse runs every contender once without counting it, so that no first round pays for code that the broker has not compiled yet.
func (b *bench) rehearse(ctx context.Context, contenders []contender) error {
	window := b.window
	defer func() { b.window = window }()
	for _, c := range contenders {
		b.window = window
		if c.row == rowPaced {
			b.window = max(window, pacedRehearsal)
		}
		say("rehearsal, not counted      %s, %s", c.row, names[c.who])
		if err := b.settle(ctx); err != nil {
			return err
		}
		if _, err := c.run(ctx); err != nil {
			return fmt.Errorf("%s, %s: %w", c.row, names[c.who], err)
		}
	}
	return nil
}

// runTransactions ends with a restart of the broker, which would keep a core busy.
func (b *bench) runTransactions(ctx context.Context, all results) error {
	transacting := b.transacting()
	if len(transacting) == 0 {
		return nil
	}
	if err := b.rehearse(ctx, transacting); err != nil {
		return err
	}
	if err := b.runRounds(ctx, all, transacting); err != nil {
		return err
	}
	if err := b.broker.StopBroker(ctx); err != nil {
		return err
	}
	return b.broker.StartBroker(ctx)
}

func (b *bench) runRounds(ctx context.Context, all results, contenders []contender) error {
	for round := range b.rounds {
		for _, c := range contenders {
			if err := b.settle(ctx); err != nil {
				return err
			}
			f, err := c.run(ctx)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", c.row, names[c.who], err)
			}
			say("round %d/%d  %-31s %-15s %9.0f msgs/s  p50 %6.2f ms  p99 %6.2f ms  %6.1f us CPU, broker %6.1f, load %6.1f", round+1, b.rounds, c.row, names[c.who], f.Rate, f.P50, f.P99, f.CPU, f.Broker, f.Load)
			all.add(c, f)
		}
	}
	return nil
}

const (
	// settleMost is how long a contender waits at most for what the one before has left behind, settledCores what counts as nothing.
	settleMost   = 2 * time.Second
	settledCores = 0.25
)

// settle waits until the JVMs have come to rest: after a load they compile, collect garbage and write to the disk, at the cost of whoever comes next.
func (b *bench) settle(ctx context.Context) error {
	pids := []int{b.broker.BrokerPID()}
	if b.java != nil {
		pids = append(pids, b.java.proxy(), b.java.cmd.Process.Pid)
	}
	const look = 250 * time.Millisecond
	var before time.Duration
	for i := range int(settleMost / look) {
		var now time.Duration
		for _, pid := range pids {
			used, err := cpuTime(pid)
			if err != nil {
				return err
			}
			now += used
		}
		if i > 0 && (now-before).Seconds() < settledCores*look.Seconds() {
			return nil
		}
		before = now
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// takeProfiles runs the first driver of each row once more and writes a CPU profile of its window.
func (b *bench) takeProfiles(ctx context.Context) error {
	for i, c := range b.contenders() {
		if c.who != b.drivers[0] {
			continue
		}
		file := fmt.Sprintf("%s-%d.prof", strings.TrimSuffix(b.profile, ".prof"), i)
		say("profiling %s, %s: %s", c.row, names[c.who], file)
		if err := b.takeProfile(ctx, c, file); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) takeProfile(ctx context.Context, c contender, file string) error {
	done := make(chan error, 1)
	b.atWindow = sync.OnceFunc(func() {
		go func() { done <- b.writeProfile(ctx, file) }() // joined below
	})
	if _, err := c.run(ctx); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.Join(ctx.Err(), <-done)
	}
}

func (b *bench) writeProfile(ctx context.Context, name string) error {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", localenv.Loopback(profilePort), max(1, int(b.window.Seconds())))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, response.Body)
	return errors.Join(err, file.Close())
}
