// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command manager is the RocketMQ proxy operator: controllers for Producer and Consumer objects, and the proxy that runs their clients.
//
//	manager [manager] [flags]   run the operator
//	manager cleanup [flags]     take our finalizer off all objects; for when the operator is being removed
//	manager version             print version, commit and Go version
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"

	"github.com/go-logr/logr"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
)

// Set by the linker; see the Makefile and the Dockerfile.
var (
	version = "dev"
	commit  = "unknown"
)

func main() {
	ctx := ctrl.SetupSignalHandler()
	err := dispatch(ctx, os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// dispatch runs the subcommand that args name; flags alone mean manager.
func dispatch(ctx context.Context, args []string) error {
	command := "manager"
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		command, args = args[0], args[1:]
	}
	switch command {
	case "manager":
		o, log, err := parse(args)
		if err != nil {
			return err
		}
		return run(ctx, o, log)
	case "cleanup":
		return cleanup(ctx, args)
	case "version":
		fmt.Printf("rocketmq-proxy-operator %s, commit %s, %s %s/%s\n", version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	default:
		return fmt.Errorf("unknown subcommand %q: use manager, cleanup or version", command)
	}
}

// logFlags adds --zap-* flags; the returned function makes the logger after they were parsed. JSON and ISO 8601 times unless told otherwise.
func logFlags(flags *flag.FlagSet) func() logr.Logger {
	o := zap.Options{TimeEncoder: zapcore.ISO8601TimeEncoder, StacktraceLevel: zapcore.PanicLevel}
	o.BindFlags(flags)
	return func() logr.Logger {
		log := zap.New(zap.UseFlagOptions(&o))
		ctrl.SetLogger(log)
		klog.SetLogger(log.WithName("client-go"))
		return log
	}
}
