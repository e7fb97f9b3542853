// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

func guarded(t *testing.T, l server.Limits) (*proxytest.Rig, *proxytest.Auth) {
	t.Helper()
	auth := &proxytest.Auth{}
	auth.Allow("sender", "send", "shop", "orders")
	auth.Allow("receiver", "receive", "shop", "billing")
	auth.Allow("dreamer", "send", "shop", "missing")
	auth.Know("nobody")
	return shop(t, proxytest.Options{Auth: auth, Limits: l}), auth
}

func TestWhoMayDoWhat(t *testing.T) {
	r, _ := guarded(t, server.Limits{})
	header := func(values ...string) context.Context {
		return metadata.NewOutgoingContext(context.Background(), metadata.MD{"authorization": values})
	}
	for name, c := range map[string]struct {
		ctx      context.Context
		producer string
		code     codes.Code
		reason   string
	}{
		"no token":                       {header(), "orders", codes.Unauthenticated, "TokenMissing"},
		"another scheme":                 {header("Basic abc"), "orders", codes.Unauthenticated, "TokenMissing"},
		"an empty token":                 {header("Bearer "), "orders", codes.Unauthenticated, "TokenMissing"},
		"two tokens":                     {header("Bearer sender", "Bearer nobody"), "orders", codes.Unauthenticated, "TokenMissing"},
		"a token that is not valid here": {header("Bearer forged-secret"), "orders", codes.Unauthenticated, "TokenInvalid"},
		"an account without the right":   {header("Bearer nobody"), "orders", codes.PermissionDenied, "Forbidden"},
		"an account with another right":  {header("Bearer receiver"), "orders", codes.PermissionDenied, "Forbidden"},
		"no right and no object":         {header("Bearer nobody"), "missing", codes.PermissionDenied, "Forbidden"},
		"a right but no object":          {header("Bearer dreamer"), "missing", codes.NotFound, "NotFound"},
		"the right one":                  {header("Bearer sender"), "orders", codes.OK, ""},
		"the scheme in another case":     {header("bearer sender"), "orders", codes.OK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Producers().Send(c.ctx, &pb.SendRequest{Namespace: "shop", Producer: c.producer, Messages: []*pb.Message{text("x")}})
			if reason, _, _ := info(err); status.Code(err) != c.code || reason != c.reason {
				t.Errorf("got %v %q, want %v %q", err, reason, c.code, c.reason)
			}
		})
	}
	if r.Log.Contains("forged-secret") || r.Log.Contains("Bearer") {
		t.Error("a token is in the log")
	}
}

func TestAMissingObjectLooksLikeAForbiddenOne(t *testing.T) {
	r, _ := guarded(t, server.Limits{})
	ctx := proxytest.Token(context.Background(), "nobody")
	var texts []string
	for _, consumer := range []string{"billing", "missing"} {
		for _, call := range []func() error{
			func() error {
				_, err := r.Consumers().Pull(ctx, &pb.PullRequest{Namespace: "shop", Consumer: consumer})
				return err
			},
			func() error {
				_, err := r.Consumers().Ack(ctx, &pb.AckRequest{Namespace: "shop", Consumer: consumer, AckTokens: []string{"x"}})
				return err
			},
			func() error {
				stream, err := r.Consumers().Receive(ctx)
				if err != nil {
					return err
				}
				if err := stream.Send(&pb.ReceiveRequest{Namespace: "shop", Consumer: consumer}); err != nil {
					return err
				}
				_, err = stream.Recv()
				return err
			},
		} {
			err := call()
			if status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s: got %v", consumer, err)
			}
			texts = append(texts, strings.ReplaceAll(err.Error(), consumer, "NAME"))
		}
	}
	for _, other := range texts[1:] {
		if other != texts[0] {
			t.Errorf("two texts: %q and %q", texts[0], other)
		}
	}
}

func TestHTTPAsksForTheTokenBeforeItReadsTheBody(t *testing.T) {
	r, _ := guarded(t, server.Limits{})
	for name, c := range map[string]struct {
		headers []string
		status  int
	}{
		"no token":                     {nil, 401},
		"a wrong token":                {[]string{"Authorization", "Bearer forged"}, 401},
		"an account without the right": {[]string{"Authorization", "Bearer nobody"}, 403},
		"the right one":                {[]string{"Authorization", "Bearer sender"}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			if got, body := r.Post(sendPath, `{"messages":[{"text":"x"}]}`, c.headers...); got != c.status {
				t.Errorf("got %d %s, want %d", got, body, c.status)
			}
		})
	}
	if got, body := r.Post(sendPath, `this is no JSON`); got != 401 {
		t.Errorf("without a token a broken body got %d %s", got, body)
	}
}

func TestAnAPIServerThatIsAwayIsNotADenial(t *testing.T) {
	r, auth := guarded(t, server.Limits{ReauthorizeEvery: 20 * time.Millisecond})
	stream, first := openStream(t, r, "receiver")
	auth.Break(errors.New("connection refused"))
	_, err := r.Producers().Send(proxytest.Token(context.Background(), "sender"),
		&pb.SendRequest{Namespace: "shop", Producer: "orders", Messages: []*pb.Message{text("x")}})
	if status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "connection refused") {
		t.Errorf("a new call got %v, want UNAVAILABLE without the cause", err)
	}
	auth.Break(nil)
	if _, err := r.Producers().Send(proxytest.Token(context.Background(), "sender"),
		&pb.SendRequest{Namespace: "shop", Producer: "orders", Messages: []*pb.Message{text("after")}}); err != nil {
		t.Fatal(err)
	}
	if got := receiveOne(t, stream); string(got.Message.Body) != "after" {
		t.Errorf("the stream got %v", got)
	}
	_ = first
}

// TestARightThatIsTakenAwayEndsTheStream is S1.
func TestARightThatIsTakenAwayEndsTheStream(t *testing.T) {
	for name, c := range map[string]struct {
		take func(*proxytest.Auth)
		code codes.Code
	}{
		"the right is revoked":  {func(a *proxytest.Auth) { a.Revoke("receiver") }, codes.PermissionDenied},
		"the token has expired": {func(a *proxytest.Auth) { a.Expire("receiver") }, codes.Unauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			r, auth := guarded(t, server.Limits{ReauthorizeEvery: 20 * time.Millisecond})
			stream, _ := openStream(t, r, "receiver")
			c.take(auth)
			if _, err := stream.Recv(); status.Code(err) != c.code {
				t.Errorf("the stream ended with %v, want %v", err, c.code)
			}
		})
	}
}

func TestLimitsPerCallerAndPerHostAreNamed(t *testing.T) {
	r, auth := guarded(t, server.Limits{MaxStreamsPerCaller: 1, MaxConcurrentCalls: 3})
	auth.Allow("other", "receive", "shop", "billing")
	openStream(t, r, "receiver")
	if err := streamError(t, r, "receiver"); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "MaxStreamsPerCaller") {
		t.Errorf("a second stream of one caller got %v", err)
	}
	openStream(t, r, "other")
	auth.Allow("third", "receive", "shop", "billing")
	openStream(t, r, "third")
	auth.Allow("fourth", "receive", "shop", "billing")
	if err := streamError(t, r, "fourth"); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "MaxConcurrentCalls") {
		t.Errorf("a fourth call got %v", err)
	}
}
