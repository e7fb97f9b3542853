// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// Caller is who calls, as the authentication found it. The fields are those that a SubjectAccessReview wants.
type Caller struct {
	// Name is unique, for example "system:serviceaccount:shop:orders". Limits per caller count by it.
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
	// Digest may be set by an Authorizer for its own use: equal for equal callers only. The server does not look at it.
	Digest string
}

// Authorizer decides who may do what. It is safe for concurrent use, answers within ctx, and caches, bounded in time (at most 30 s, so that a
// right that was taken away ends a stream within 60 s) and in count. It never logs a token.
type Authorizer interface {
	// Authenticate finds the caller of a bearer token. An error that wraps ErrUnauthenticated says that the token is not valid here; any
	// other error says that it cannot be checked now.
	Authenticate(ctx context.Context, bearerToken string) (Caller, error)

	// Authorize asks for the verb ("send", "receive" or "manage") on the resource ("producers" or "consumers") of that name. nil is yes; an error
	// that wraps ErrForbidden is no; any other error says that it cannot be checked now. It must not look at the object itself: a missing
	// object and a forbidden one have to look the same.
	Authorize(ctx context.Context, caller Caller, verb, resource, namespace, name string) error
}

// What an Authorizer's error can say.
var (
	ErrUnauthenticated = errors.New("the token is not valid")
	ErrForbidden       = errors.New("not allowed")
)

// right is one verb on one kind of object.
type right struct{ verb, resource, kind string }

var (
	maySend    = right{verb: "send", resource: "producers", kind: "Producer"}
	mayReceive = right{verb: "receive", resource: "consumers", kind: "Consumer"}
	// mayManage is for what changes the messages that others get.
	mayManage = right{verb: "manage", resource: "consumers", kind: "Consumer"}
)

// action is the right in a sentence.
func (r right) action() string {
	if r == mayManage {
		return r.verb
	}
	return r.verb + " through"
}

// anonymous is everybody in a developer's mode without authentication.
var anonymous = Caller{Name: "anonymous"}

// authenticate finds the caller from the call's metadata.
func (s *Server) authenticate(ctx context.Context) (Caller, error) {
	if s.auth == nil {
		return anonymous, nil
	}
	token, err := bearerToken(ctx)
	if err != nil {
		return Caller{}, err
	}
	return s.checkToken(ctx, token)
}

func (s *Server) checkToken(ctx context.Context, token string) (Caller, error) {
	caller, err := s.auth.Authenticate(ctx, token)
	switch {
	case err == nil:
		return caller, nil
	case errors.Is(err, ErrUnauthenticated):
		return Caller{}, failure(codes.Unauthenticated, "TokenInvalid", "authorization",
			"the bearer token is not valid here: it must be a token of a Kubernetes ServiceAccount, not expired, made for this proxy's audience")
	default:
		return Caller{}, s.cannotCheck(ctx, "authenticate", err)
	}
}

// authorize asks for r on the object and comes before any look at it: the answer is the same whether the object exists or not.
func (s *Server) authorize(ctx context.Context, caller Caller, r right, namespace, name string) error {
	if s.auth == nil {
		return nil
	}
	err := s.auth.Authorize(ctx, caller, r.verb, r.resource, namespace, name)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrForbidden):
		return failure(codes.PermissionDenied, "Forbidden", "", fmt.Sprintf(
			"%q may not %s %s %q in namespace %q: it needs the verb %q on the resource %q of the group proxy.rocketmq.io",
			caller.Name, r.action(), r.kind, name, namespace, r.verb, r.resource))
	default:
		return s.cannotCheck(ctx, "authorize", err)
	}
}

// cannotCheck answers when the Kubernetes API does not: the cause stays in the log, callers are told to come again.
func (s *Server) cannotCheck(ctx context.Context, action string, err error) error {
	if ctx.Err() != nil {
		return contextFailure(ctx)
	}
	s.failures.log("cannot check a caller's rights", "action", action, "error", err.Error())
	return failure(codes.Unavailable, "AuthorizationUnavailable", "", "the caller's rights cannot be checked at present; try again with back-off")
}

// bearerToken takes the token from the metadata; exactly one is accepted.
func bearerToken(ctx context.Context) (string, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) == 0 {
		return "", failure(codes.Unauthenticated, "TokenMissing", "authorization",
			`the call has no token: send "authorization: Bearer <token of a Kubernetes ServiceAccount>"`)
	}
	scheme, token, found := strings.Cut(values[0], " ")
	token = strings.TrimSpace(token)
	if len(values) > 1 || !found || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", failure(codes.Unauthenticated, "TokenMissing", "authorization", `the authorization must be one value of the form "Bearer <token>"`)
	}
	return token, nil
}
