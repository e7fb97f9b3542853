// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

const (
	// connectTimeout is how long a question waits for a connection; hosts are near each other.
	connectTimeout = time.Second
	// idleTimeout closes a connection that nobody asks over.
	idleTimeout = 5 * time.Minute
	// maxAnswerBytes bounds an answer: a thousand tokens of the longest kind.
	maxAnswerBytes = 16 << 20
)

var errClosed = errors.New("this host is stopping")

// links are the connections to other hosts, by address. Its zero value is ready.
type links struct {
	plaintext bool

	mu     sync.Mutex
	open   map[string]*grpc.ClientConn
	closed bool
}

// ready answers a connection that is up. On an error nothing was sent to anybody.
func (l *links) ready(ctx context.Context, address string) (*grpc.ClientConn, error) {
	if address == "" {
		return nil, errors.New("it names no address for other hosts")
	}
	c, err := l.of(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	for {
		state := c.GetState()
		switch state {
		case connectivity.Ready:
			return c, nil
		case connectivity.Idle:
			c.Connect()
		case connectivity.TransientFailure, connectivity.Shutdown:
			return nil, fmt.Errorf("no connection to %s", address)
		case connectivity.Connecting:
		}
		if !c.WaitForStateChange(ctx, state) {
			return nil, fmt.Errorf("no connection to %s in time: %w", address, ctx.Err())
		}
	}
}

func (l *links) of(address string) (*grpc.ClientConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errClosed
	}
	if c := l.open[address]; c != nil {
		return c, nil
	}
	c, err := grpc.NewClient("passthrough:///"+address, l.options()...) // connects nothing yet
	if err != nil {
		return nil, err
	}
	if l.open == nil {
		l.open = map[string]*grpc.ClientConn{}
	}
	l.open[address] = c
	return c, nil
}

func (l *links) options() []grpc.DialOption {
	secure := insecure.NewCredentials()
	if !l.plaintext {
		// Whether it is one of us says the envelope, which is opened with a key that only hosts have; a certificate's name would say less, and differs
		// between hosts while certificates are renewed.
		secure = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}) //nolint:gosec // see above
	}
	return []grpc.DialOption{
		grpc.WithTransportCredentials(secure),
		grpc.WithNoProxy(), // hosts are in one cluster; a proxy for the way out is not for them
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(idleTimeout),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswerBytes)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: connectTimeout,
		}),
		// A host that hangs is noticed while it is asked; the server allows a ping in 10 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 5 * time.Second}),
	}
}

// keep closes the connections to all but these.
func (l *links) keep(members []Member) {
	l.mu.Lock()
	var gone []*grpc.ClientConn
	for address, c := range l.open {
		if !slices.ContainsFunc(members, func(m Member) bool { return m.Address == address }) {
			gone = append(gone, c)
			delete(l.open, address)
		}
	}
	l.mu.Unlock()
	closeAll(gone)
}

func (l *links) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.keep(nil)
}

func closeAll(connections []*grpc.ClientConn) {
	for _, c := range connections {
		_ = c.Close() // its only error is that it is closed already
	}
}
