// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create

// AuthOptions configure an Authorizer. Absent values have the defaults named.
type AuthOptions struct {
	// Client creates the reviews, uncached.
	Client client.Client
	// Audience is what a token must have been made for. It must be ours alone: a token for the API server itself, stolen from any pod,
	// must be of no use here.
	Audience string
	// TTL is how long an answer is believed (20 s): a right that was taken away, or a token that was revoked, is honoured no longer.
	TTL time.Duration
	// CacheSize bounds each cache (4096 answers).
	CacheSize int
	// Reviews is how many questions may be under way at a time, of callers that were known to be valid before and of others each (16).
	Reviews int
	// Queue is how many callers of each of the two may wait for their turn (256); more are sent away.
	Queue int
}

// Authorizer asks the API server who a caller is and what it may do. Answers, negative ones too, are cached with bounds in time and number,
// equal questions are asked once, and the questions under way are bounded. Random tokens therefore cost the API server little:
// what is no token for our audience is refused without asking, and the rest shares a few questions at a time, apart from those that
// renew the answers for callers which were valid before. It is safe for concurrent use and has no goroutine.
type Authorizer struct {
	o             AuthOptions
	known, others *asker[server.Caller]
	rights        *asker[struct{}]
	seen          *boundedSet // hashes of tokens that were valid once
}

var _ server.Authorizer = (*Authorizer)(nil)

// NewAuthorizer makes one; it asks nothing yet.
func NewAuthorizer(o AuthOptions) *Authorizer {
	o.TTL = nonZero(o.TTL, 20*time.Second)
	o.CacheSize = nonZero(o.CacheSize, 4096)
	o.Reviews = nonZero(o.Reviews, 16)
	o.Queue = nonZero(o.Queue, 256)
	return &Authorizer{
		o: o, known: newAsker[server.Caller](o), others: newAsker[server.Caller](o), rights: newAsker[struct{}](o), seen: newBoundedSet(o.CacheSize),
	}
}

func nonZero[T comparable](v, absent T) T {
	var zero T
	if v == zero {
		return absent
	}
	return v
}

// Authenticate implements server.Authorizer.
func (a *Authorizer) Authenticate(ctx context.Context, token string) (server.Caller, error) {
	if len(token) > maxTokenBytes {
		return server.Caller{}, fmt.Errorf("%w: it has %d bytes, at most %d are taken", server.ErrUnauthenticated, len(token), maxTokenBytes)
	}
	key := hashOf(token)
	if caller, err, ok := a.known.fresh(key); ok {
		return caller, err // nearly every call
	}
	if a.seen.has(key) {
		// Not parsed each time: that costs more than all the rest of a cached answer. It is when the answer is renewed, because a token that
		// has expired since must not live on while the API server is away.
		return a.known.ask(ctx, key, func(ctx context.Context) (server.Caller, error) {
			if err := a.looksRight(token); err != nil {
				return server.Caller{}, fmt.Errorf("%w: %w", server.ErrUnauthenticated, err)
			}
			return a.review(ctx, token)
		})
	}
	if err := a.looksRight(token); err != nil {
		return server.Caller{}, fmt.Errorf("%w: %w", server.ErrUnauthenticated, err)
	}
	caller, err := a.others.ask(ctx, key, func(ctx context.Context) (server.Caller, error) { return a.review(ctx, token) })
	if err == nil {
		a.known.keep(key, answer[server.Caller]{value: caller}) // the next look may find the API server away
		a.seen.add(key)
	}
	return caller, err
}

// hashOf is what is kept of a token: a memory dump has no tokens. The copy is there because a string has to become bytes; on the stack it costs
// nothing to the garbage collector, which a kilobyte for each call does.
func hashOf(token string) string {
	var stack [2 << 10]byte
	hash := sha256.Sum256(append(stack[:0], token...))
	return string(hash[:])
}

// maxTokenBytes is far above what Kubernetes makes.
const maxTokenBytes = 16 << 10

// looksRight reads the token without believing it: what cannot be a ServiceAccount's token for our audience, or says itself that it has
// expired, is not worth a question.
func (a *Authorizer) looksRight(token string) error {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return fmt.Errorf("it is no JSON web token")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return fmt.Errorf("it is no JSON web token")
	}
	var claims struct {
		Audience audiences `json:"aud"`
		Expires  float64   `json:"exp"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return fmt.Errorf("it is no JSON web token")
	}
	switch {
	case !slices.Contains(claims.Audience, a.o.Audience):
		return fmt.Errorf("it was not made for the audience %q", a.o.Audience)
	case claims.Expires != 0 && time.Unix(int64(claims.Expires), 0).Before(time.Now()):
		return fmt.Errorf("it has expired")
	}
	return nil
}

// audiences is one audience or a list of them.
type audiences []string

// UnmarshalJSON takes both forms.
func (a *audiences) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audiences{one}
		return nil
	}
	var list []string
	err := json.Unmarshal(b, &list)
	*a = list
	return err
}

func (a *Authorizer) review(ctx context.Context, token string) (server.Caller, error) {
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{a.o.Audience}}}
	if err := a.o.Client.Create(ctx, review); err != nil {
		return server.Caller{}, fmt.Errorf("ask the API server about a token: %w", err)
	}
	status := review.Status
	switch {
	case !status.Authenticated:
		return server.Caller{}, fmt.Errorf("%w: the API server does not know it", server.ErrUnauthenticated)
	case !slices.Contains(status.Audiences, a.o.Audience):
		// An API server that does not look at audiences says "authenticated" to tokens for anybody.
		return server.Caller{}, fmt.Errorf("%w: the API server did not confirm the audience %q", server.ErrUnauthenticated, a.o.Audience)
	case !strings.HasPrefix(status.User.Username, "system:serviceaccount:"):
		return server.Caller{}, fmt.Errorf("%w: it is not of a ServiceAccount", server.ErrUnauthenticated)
	}
	caller := server.Caller{Name: status.User.Username, UID: status.User.UID, Groups: status.User.Groups, Extra: map[string][]string{}}
	for name, values := range status.User.Extra {
		caller.Extra[name] = values
	}
	caller.Digest = digestOf(caller)
	return caller, nil
}

// Authorize implements server.Authorizer.
func (a *Authorizer) Authorize(ctx context.Context, caller server.Caller, verb, resource, namespace, name string) error {
	digest := caller.Digest
	if digest == "" { // a caller that was not made by Authenticate
		digest = digestOf(caller)
	}
	// The length keeps "a", "bc" and "ab", "c" apart whatever the names hold.
	key := digest + verb + "/" + resource + "/" + strconv.Itoa(len(namespace)) + "/" + namespace + name
	_, err := a.rights.ask(ctx, key, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, a.accessReview(ctx, caller, verb, resource, namespace, name)
	})
	return err
}

// digestOf is made once per review and not per call: it costs as much as everything else of a cached answer. Of a caller that cannot be
// described the digest is random, so that it shares nobody's rights.
func digestOf(caller server.Caller) string {
	description, err := json.Marshal([]any{caller.Name, caller.UID, caller.Groups, caller.Extra})
	if err != nil {
		return rand.Text()
	}
	hash := sha256.Sum256(description)
	return string(hash[:])
}

func (a *Authorizer) accessReview(ctx context.Context, caller server.Caller, verb, resource, namespace, name string) error {
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: caller.Name, UID: caller.UID, Groups: caller.Groups, Extra: map[string]authorizationv1.ExtraValue{},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: proxyv1alpha1.GroupVersion.Group, Version: proxyv1alpha1.GroupVersion.Version,
			Verb: verb, Resource: resource, Namespace: namespace, Name: name,
		},
	}}
	for extra, values := range caller.Extra {
		review.Spec.Extra[extra] = values
	}
	if err := a.o.Client.Create(ctx, review); err != nil {
		return fmt.Errorf("ask the API server about a right: %w", err)
	}
	if !review.Status.Allowed {
		return fmt.Errorf("%w: %s on %s %s/%s", server.ErrForbidden, verb, resource, namespace, name)
	}
	return nil
}
