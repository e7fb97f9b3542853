// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"time"
)

// Limits bounds what callers may make the proxy hold or do. A zero field takes the default that its comment names. An error for a reached limit
// names the field as it is written here.
type Limits struct {
	// MaxRequestBytes bounds one request: a gRPC message or an HTTP body. 16 MiB.
	MaxRequestBytes int
	// MaxMessagesPerCall bounds the messages of one Send and one Pull. 1000.
	MaxMessagesPerCall int
	// MaxTokensPerCall bounds the tokens of one Ack, Nack or ModifyAckDeadline, and the resolutions of one frame of TransactionChecks. 1000.
	MaxTokensPerCall int
	// MaxPendingAckBytes bounds what one stream has sent in acks, or in resolutions of transactions, and not yet read as results; the stream is not read beyond.
	// 8 MiB.
	MaxPendingAckBytes int

	// MaxConnections bounds open connections, per port. 4096.
	MaxConnections int
	// MaxConcurrentStreams bounds calls and streams at once on one gRPC connection. 1024.
	MaxConcurrentStreams int
	// MaxConcurrentCalls bounds calls and streams at once on this host. 16384.
	MaxConcurrentCalls int
	// MaxCallsPerObject bounds calls and streams at once of one Producer or Consumer on this host, so that one whose broker hangs, or that is flooded, leaves
	// room for the others. 4096.
	MaxCallsPerObject int
	// MaxCallsPerCaller bounds calls at once of one caller. 4096.
	MaxCallsPerCaller int
	// MaxStreamsPerCaller bounds Receive and TransactionChecks streams at once of one caller. 1024.
	MaxStreamsPerCaller int
	// MaxHeaderBytes bounds the headers of one call. 32 KiB.
	MaxHeaderBytes int

	// DefaultDeadline is the deadline of a unary call that brings none; a Pull's wait is added. 30 s.
	DefaultDeadline time.Duration
	// DefaultWait and MaxWait are those of Pull. 20 s and 60 s.
	DefaultWait time.Duration
	MaxWait     time.Duration
	// OpenTimeout is how long a stream may take to send its first frame, and an HTTP caller to send its headers. 10 s.
	OpenTimeout time.Duration
	// BodyTimeout is how long an HTTP caller may take to send its body. 30 s.
	BodyTimeout time.Duration
	// WriteTimeout ends a stream whose receiver does not read. 30 s.
	WriteTimeout time.Duration
	// ReauthorizeEvery is how often a stream's token and right are checked again. With the Authorizer's cache it must stay below 60 s. 25 s.
	ReauthorizeEvery time.Duration

	// MaxConnectionAge ends connections (new calls go elsewhere), so that callers spread over hosts; streams of that age get the draining
	// notice and StreamGrace to finish. 30 min and 30 s.
	MaxConnectionAge time.Duration
	StreamGrace      time.Duration
	// MaxConnectionIdle closes a connection without calls. 10 min.
	MaxConnectionIdle time.Duration
	// KeepaliveTime without traffic sends a ping, KeepaliveTimeout without an answer closes the connection. 1 min and 20 s.
	KeepaliveTime    time.Duration
	KeepaliveTimeout time.Duration
	// MinClientPing is the shortest time between pings of a client. 10 s.
	MinClientPing time.Duration
}

// DefaultLimits are the values that a zero Limits means.
func DefaultLimits() Limits {
	return Limits{
		MaxRequestBytes: 16 << 20, MaxMessagesPerCall: 1000, MaxTokensPerCall: 1000, MaxPendingAckBytes: 8 << 20,
		MaxConnections: 4096, MaxConcurrentStreams: 1024, MaxConcurrentCalls: 16384, MaxCallsPerObject: 4096, MaxCallsPerCaller: 4096, MaxStreamsPerCaller: 1024,
		MaxHeaderBytes:  32 << 10,
		DefaultDeadline: 30 * time.Second, DefaultWait: 20 * time.Second, MaxWait: time.Minute,
		OpenTimeout: 10 * time.Second, BodyTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, ReauthorizeEvery: 25 * time.Second,
		MaxConnectionAge: 30 * time.Minute, StreamGrace: 30 * time.Second, MaxConnectionIdle: 10 * time.Minute,
		KeepaliveTime: time.Minute, KeepaliveTimeout: 20 * time.Second, MinClientPing: 10 * time.Second,
	}
}

// withDefaults fills zero fields.
func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	for _, f := range []struct{ value, fallback *int }{
		{&l.MaxRequestBytes, &d.MaxRequestBytes}, {&l.MaxMessagesPerCall, &d.MaxMessagesPerCall}, {&l.MaxTokensPerCall, &d.MaxTokensPerCall},
		{&l.MaxPendingAckBytes, &d.MaxPendingAckBytes}, {&l.MaxConnections, &d.MaxConnections},
		{&l.MaxConcurrentStreams, &d.MaxConcurrentStreams}, {&l.MaxConcurrentCalls, &d.MaxConcurrentCalls},
		{&l.MaxCallsPerObject, &d.MaxCallsPerObject},
		{&l.MaxCallsPerCaller, &d.MaxCallsPerCaller}, {&l.MaxStreamsPerCaller, &d.MaxStreamsPerCaller}, {&l.MaxHeaderBytes, &d.MaxHeaderBytes},
	} {
		if *f.value == 0 {
			*f.value = *f.fallback
		}
	}
	for _, f := range []struct{ value, fallback *time.Duration }{
		{&l.DefaultDeadline, &d.DefaultDeadline}, {&l.DefaultWait, &d.DefaultWait}, {&l.MaxWait, &d.MaxWait}, {&l.OpenTimeout, &d.OpenTimeout},
		{&l.BodyTimeout, &d.BodyTimeout}, {&l.WriteTimeout, &d.WriteTimeout}, {&l.ReauthorizeEvery, &d.ReauthorizeEvery},
		{&l.MaxConnectionAge, &d.MaxConnectionAge}, {&l.StreamGrace, &d.StreamGrace}, {&l.MaxConnectionIdle, &d.MaxConnectionIdle},
		{&l.KeepaliveTime, &d.KeepaliveTime}, {&l.KeepaliveTimeout, &d.KeepaliveTimeout}, {&l.MinClientPing, &d.MinClientPing},
	} {
		if *f.value == 0 {
			*f.value = *f.fallback
		}
	}
	return l
}

// validate refuses limits that cannot work, by name.
func (l Limits) validate() error {
	for name, value := range map[string]int64{
		"MaxRequestBytes": int64(l.MaxRequestBytes), "MaxMessagesPerCall": int64(l.MaxMessagesPerCall), "MaxTokensPerCall": int64(l.MaxTokensPerCall),
		"MaxPendingAckBytes": int64(l.MaxPendingAckBytes), "MaxConnections": int64(l.MaxConnections),
		"MaxConcurrentStreams": int64(l.MaxConcurrentStreams), "MaxConcurrentCalls": int64(l.MaxConcurrentCalls),
		"MaxCallsPerObject": int64(l.MaxCallsPerObject),
		"MaxCallsPerCaller": int64(l.MaxCallsPerCaller), "MaxStreamsPerCaller": int64(l.MaxStreamsPerCaller),
		"MaxHeaderBytes": int64(l.MaxHeaderBytes), "DefaultDeadline": int64(l.DefaultDeadline), "DefaultWait": int64(l.DefaultWait),
		"MaxWait": int64(l.MaxWait), "OpenTimeout": int64(l.OpenTimeout), "BodyTimeout": int64(l.BodyTimeout),
		"WriteTimeout": int64(l.WriteTimeout), "ReauthorizeEvery": int64(l.ReauthorizeEvery), "MaxConnectionAge": int64(l.MaxConnectionAge),
		"StreamGrace": int64(l.StreamGrace), "MaxConnectionIdle": int64(l.MaxConnectionIdle), "KeepaliveTime": int64(l.KeepaliveTime),
		"KeepaliveTimeout": int64(l.KeepaliveTimeout), "MinClientPing": int64(l.MinClientPing),
	} {
		if value < 0 {
			return fmt.Errorf("limits: %s is %d; it must be positive, or 0 for the default", name, value)
		}
	}
	if l.MaxHeaderBytes < 4<<10 {
		return fmt.Errorf("limits: MaxHeaderBytes is %d; a token alone may have 4 KiB: use 4096 or more", l.MaxHeaderBytes)
	}
	if l.ReauthorizeEvery > 30*time.Second {
		return fmt.Errorf("limits: ReauthorizeEvery is %s; with 30 s of the authorizer's cache it must be at most 30s", l.ReauthorizeEvery)
	}
	return nil
}
