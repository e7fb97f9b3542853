// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/apache/rocketmq-client-go/v2/rlog"
)

// workerArgs are what a contender's process is told on its command line.
type workerArgs struct {
	nameServer, topic, dir string
	callers, batch         int
	broker                 int // the broker's process
	window                 time.Duration
	tls                    bool
}

// parties of a contender that makes its load itself.
func (a workerArgs) parties() parties { return parties{tested: os.Getpid(), broker: a.broker} }

// work is the main function of a contender's process. Its last line on standard output is a JSON figure (servers: their address, first).
func work(ctx context.Context, worker string, a workerArgs) error {
	rlog.SetLogLevel("error")
	switch worker {
	case "echo":
		return echo(ctx, a)
	case "least":
		return least(ctx, a)
	}
	measured, ok := map[string]func(context.Context, workerArgs) (figure, error){
		"raw-send": rawSend, "raw-ordered": rawOrdered, "raw-transaction": rawTransaction, "raw-receive": rawReceive, "raw-paced": rawPaced, "direct-send": directSend,
	}[worker]
	if !ok {
		return fmt.Errorf("no worker is named %q", worker)
	}
	f, err := measured(ctx, a)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

// untilItWorks calls until the first success: a fresh topic's route reaches the name server a moment after the topic was created.
func untilItWorks(ctx context.Context, do call) error {
	for began := time.Now(); ; {
		_, err := do(ctx)
		if err == nil || ctx.Err() != nil || time.Since(began) > 15*time.Second {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}
