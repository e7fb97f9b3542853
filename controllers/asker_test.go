// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// TestCallersThatWereValidAreServedWhileTheAPIServerIsAway: answers expired after 20 s, and with them, every send and stream, while the API server
// was away for 30 s.
func TestCallersThatWereValidAreServedWhileTheAPIServerIsAway(t *testing.T) {
	away := errors.New("connection refused")
	forbidden := fmt.Errorf("%w: no", server.ErrForbidden)
	for _, c := range []struct {
		name   string
		first  error         // the API server's answer at the start
		then   error         // and from then on
		hangs  bool          // it does not answer at all
		after  time.Duration // when the caller comes again
		wanted error
	}{
		{name: "a yes goes on while the API server refuses connections", then: away, after: 5 * time.Minute},
		{name: "a yes goes on while the API server hangs", hangs: true, after: 5 * time.Minute},
		{name: "a yes ends after its time, however long the API server is away", then: away, after: trustedFor + time.Second, wanted: away},
		{name: "a right that was taken away is refused after the TTL", then: forbidden, after: 21 * time.Second, wanted: server.ErrForbidden},
		{name: "a caller that was refused stays refused", first: forbidden, then: away, after: 5 * time.Minute, wanted: away},
		{name: "a caller that nobody knows is not let in", first: away, then: away, after: time.Second, wanted: away},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAsker[string](AuthOptions{TTL: 20 * time.Second, CacheSize: 8, Reviews: 1, Queue: 1})
				if _, err := a.ask(t.Context(), "key", func(context.Context) (string, error) { return "caller", c.first }); !errors.Is(err, c.first) {
					t.Fatalf("first answer: %v, expected %v", err, c.first)
				}
				time.Sleep(c.after)
				began := time.Now()
				got, err := a.ask(t.Context(), "key", func(ctx context.Context) (string, error) {
					if c.hangs {
						<-ctx.Done()
						return "", ctx.Err()
					}
					return "caller", c.then
				})
				if !errors.Is(err, c.wanted) || err == nil && got != "caller" {
					t.Errorf("%q, %v; expected error %v", got, err, c.wanted)
				}
				if took := time.Since(began); took > patience {
					t.Errorf("the answer took %s", took)
				}
			})
		})
	}
}

// apiServer answers TokenReviews while it is up.
type apiServer struct {
	client.Client
	away error
}

func (s *apiServer) Create(_ context.Context, obj client.Object, _ ...client.CreateOption) error {
	if s.away != nil {
		return s.away
	}
	review := obj.(*authenticationv1.TokenReview)
	review.Status = authenticationv1.TokenReviewStatus{
		Authenticated: true, Audiences: review.Spec.Audiences, User: authenticationv1.UserInfo{Username: "system:serviceaccount:shop:orders"},
	}
	return nil
}

// TestATokenIsBelievedWhileTheAPIServerIsAwayButNotBeyondItsEnd: a token that was reviewed once had no answer in the lane of known callers, so that
// a stream ended when its right was looked at again; and one that expired meanwhile must not profit.
func TestATokenIsBelievedWhileTheAPIServerIsAwayButNotBeyondItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &apiServer{}
		a := NewAuthorizer(AuthOptions{Client: api, Audience: "ours"})
		claims := fmt.Sprintf(`{"aud":"ours","exp":%d}`, time.Now().Add(2*time.Minute).Unix())
		token := "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
		if _, err := a.Authenticate(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		api.away = errors.New("connection refused")
		time.Sleep(time.Minute)
		if caller, err := a.Authenticate(t.Context(), token); err != nil || caller.Name != "system:serviceaccount:shop:orders" {
			t.Errorf("a minute later: %q, %v", caller.Name, err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := a.Authenticate(t.Context(), token); !errors.Is(err, server.ErrUnauthenticated) {
			t.Errorf("after the token's end: %v", err)
		}
	})
}
