// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package connect has what both Go examples need: the connection with its token, and the back-off.
package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// Env is an environment variable, or its default.
func Env(name, absent string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return absent
}

// Dial makes the connection; it connects at the first call and again by itself. The caller closes it.
func Dial() (*grpc.ClientConn, error) {
	address := Env("PROXY_ADDR", "rocketmq-proxy.rocketmq-proxy-system.svc:8081")
	options := []grpc.DialOption{
		// A stream that waits for messages is silent; the ping finds out when the other side is gone. The proxy allows one every 10 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	}
	if os.Getenv("PROXY_PLAINTEXT") == "1" { // a developer's proxy on this machine, started with --insecure-plaintext --insecure-skip-auth
		return grpc.NewClient(address, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	}
	pem, err := os.ReadFile(Env("PROXY_CA", "/var/run/secrets/rocketmq-proxy/ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("PROXY_CA holds no certificate")
	}
	return grpc.NewClient(address, append(options,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})),
		grpc.WithPerRPCCredentials(tokenFile(Env("PROXY_TOKEN", "/var/run/secrets/rocketmq-proxy/token"))))...)
}

// tokenFile reads the token for every call: the kubelet replaces the file while the program runs.
type tokenFile string

func (f tokenFile) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := os.ReadFile(string(f))
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(token))}, nil
}

func (tokenFile) RequireTransportSecurity() bool { return true }

// Worthwhile reports whether the same call may work later. FAILED_PRECONDITION is an object that is not ready until somebody puts it right: also later.
func Worthwhile(err error) bool {
	return slices.Contains(worthwhile, status.Code(err))
}

var worthwhile = []codes.Code{codes.Unavailable, codes.ResourceExhausted, codes.Aborted, codes.DeadlineExceeded, codes.FailedPrecondition}

// Pause waits before try number n (from 0): a random part of 0.1 s, 0.2 s, 0.4 s ... 10 s, so that many clients never come back all at once.
func Pause(ctx context.Context, n int) error {
	limit := min(10*time.Second, 100*time.Millisecond<<min(n, 10))
	select {
	case <-time.After(rand.N(limit)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
