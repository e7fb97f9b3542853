// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

const ourAudience = "rocketmq-proxy.test"

// tokenOf makes a ServiceAccount, if there is none, and a real token of it.
func tokenOf(t *testing.T, namespace, name string, audience ...string) string {
	t.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := direct.Create(t.Context(), sa); client.IgnoreAlreadyExists(err) != nil {
		t.Fatal(err)
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audience}}
	must(t, direct.SubResource("token").Create(t.Context(), sa, request))
	return request.Status.Token
}

func TestWhoHasATokenForUsIsKnown(t *testing.T) {
	namespace := newNamespace(t)
	a := NewAuthorizer(AuthOptions{Client: direct, Audience: ourAudience})
	caller, err := a.Authenticate(t.Context(), tokenOf(t, namespace, "app", ourAudience))
	must(t, err)
	if want := "system:serviceaccount:" + namespace + ":app"; caller.Name != want || caller.UID == "" || len(caller.Groups) == 0 {
		t.Errorf("the caller is %+v, want %s", caller, want)
	}
	good := tokenOf(t, namespace, "app", ourAudience)
	parts := strings.Split(good, ".")
	for name, token := range map[string]string{
		"a token for the API server":           tokenOf(t, namespace, "app"),
		"a token for somebody else":            tokenOf(t, namespace, "app", "vault"),
		"no token at all":                      "",
		"a word":                               "secret",
		"a token that is far too long":         strings.Repeat("a.", 20000),
		"a token with another signature":       parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString([]byte("not the signature")),
		"a forged token for our audience":      forged(0),
		"a token that says that it is expired": forgedUntil(time.Now().Add(-time.Minute)),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := a.Authenticate(t.Context(), token)
			if !errors.Is(err, server.ErrUnauthenticated) {
				t.Errorf("%v, want ErrUnauthenticated", err)
			}
			if len(token) > 20 && err != nil && strings.Contains(err.Error(), token) {
				t.Error("the error has the token in it")
			}
		})
	}
}

func forged(n int) string { return forgedToken(fmt.Sprintf(`{"aud":[%q],"jti":"%d"}`, ourAudience, n)) }
func forgedUntil(t time.Time) string {
	return forgedToken(fmt.Sprintf(`{"aud":%q,"exp":%d}`, ourAudience, t.Unix()))
}

func forgedToken(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(claims)) + "." + encode([]byte("signature"))
}

// TestRightsAreAskedByNameAndEndInTime: the verb on the named object counts, and a right that is taken away is honoured no longer than the TTL.
func TestRightsAreAskedByNameAndEndInTime(t *testing.T) {
	namespace := newNamespace(t)
	const ttl = 500 * time.Millisecond
	a := NewAuthorizer(AuthOptions{Client: direct, Audience: ourAudience, TTL: ttl})
	caller, err := a.Authenticate(t.Context(), tokenOf(t, namespace, "app", ourAudience))
	must(t, err)
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "send"}, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{"proxy.rocketmq.io"}, Resources: []string{"producers"}, ResourceNames: []string{"orders"}, Verbs: []string{"send"},
	}}}
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "send"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "send"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: "app"}}}
	must(t, direct.Create(t.Context(), role))
	must(t, direct.Create(t.Context(), binding))
	eventually(t, 10*time.Second, "the right is known", func() bool {
		return a.Authorize(t.Context(), caller, "send", "producers", namespace, "orders") == nil
	})
	for what, err := range map[string]error{
		"another object":    a.Authorize(t.Context(), caller, "send", "producers", namespace, "payments"),
		"another verb":      a.Authorize(t.Context(), caller, "receive", "producers", namespace, "orders"),
		"another kind":      a.Authorize(t.Context(), caller, "send", "consumers", namespace, "orders"),
		"another namespace": a.Authorize(t.Context(), caller, "send", "producers", "default", "orders"),
		"another caller":    a.Authorize(t.Context(), server.Caller{Name: caller.Name + "x"}, "send", "producers", namespace, "orders"),
	} {
		if !errors.Is(err, server.ErrForbidden) {
			t.Errorf("%s: %v, want ErrForbidden", what, err)
		}
	}
	must(t, direct.Delete(t.Context(), binding))
	eventually(t, 10*time.Second, "the right is gone", func() bool {
		return errors.Is(a.Authorize(t.Context(), caller, "send", "producers", namespace, "orders"), server.ErrForbidden)
	})
}

// TestTheAudienceMustBeInTheAnswer: an API server that does not look at audiences says "authenticated" to tokens for anybody.
func TestTheAudienceMustBeInTheAnswer(t *testing.T) {
	for _, c := range []struct {
		name   string
		status authenticationv1.TokenReviewStatus
		good   bool
	}{
		{"our audience is confirmed", authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{ourAudience}, User: authenticationv1.UserInfo{Username: "system:serviceaccount:a:b"}}, true},
		{"no audience is confirmed", authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: "system:serviceaccount:a:b"}}, false},
		{"another audience is confirmed", authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"x"}, User: authenticationv1.UserInfo{Username: "system:serviceaccount:a:b"}}, false},
		{"it is a person's", authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{ourAudience}, User: authenticationv1.UserInfo{Username: "jane"}}, false},
		{"it is not authenticated", authenticationv1.TokenReviewStatus{Audiences: []string{ourAudience}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := NewAuthorizer(AuthOptions{Client: &reviewer{answer: func(string) authenticationv1.TokenReviewStatus { return c.status }}, Audience: ourAudience})
			if _, err := a.Authenticate(t.Context(), forged(1)); (err == nil) != c.good {
				t.Errorf("%v, want good %v", err, c.good)
			}
		})
	}
}

// reviewer is an API server that only answers TokenReviews.
type reviewer struct {
	client.Client
	answer          func(token string) authenticationv1.TokenReviewStatus
	wait            time.Duration
	asked, now, top atomic.Int64
}

func (r *reviewer) Create(ctx context.Context, o client.Object, _ ...client.CreateOption) error {
	r.asked.Add(1)
	now := r.now.Add(1)
	defer r.now.Add(-1)
	for top := r.top.Load(); now > top && !r.top.CompareAndSwap(top, now); top = r.top.Load() {
	}
	if r.wait > 0 {
		select {
		case <-time.After(r.wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	review := o.(*authenticationv1.TokenReview)
	review.Status = r.answer(review.Spec.Token)
	return nil
}

// TestS2RandomTokensCostLittleAndValidCallersAreServed is tests.md S2: a flood of tokens that nobody has made. The questions under way stay bounded, the
// caches too, and a caller that is known is served all the time, also when its answer must be renewed.
func TestS2RandomTokensCostLittleAndValidCallersAreServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		valid := forged(-1)
		api := &reviewer{wait: 5 * time.Millisecond, answer: func(token string) authenticationv1.TokenReviewStatus {
			if token != valid {
				return authenticationv1.TokenReviewStatus{}
			}
			return authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{ourAudience}, User: authenticationv1.UserInfo{Username: "system:serviceaccount:a:b"}}
		}}
		a := NewAuthorizer(AuthOptions{Client: api, Audience: ourAudience, TTL: 50 * time.Millisecond, CacheSize: 64, Reviews: 4, Queue: 16})
		if _, err := a.Authenticate(t.Context(), valid); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
		defer stop()
		sent, sentAway, wait := floodWithRandomTokens(ctx, t, a)
		for ctx.Err() == nil {
			began := time.Now()
			if _, err := a.Authenticate(t.Context(), valid); err != nil {
				t.Fatalf("a valid caller was refused: %v", err)
			}
			if took := time.Since(began); took > 10*time.Millisecond {
				t.Errorf("a valid caller waited %s, one question takes 5 ms", took)
			}
			time.Sleep(time.Millisecond) // a caller's pace, in the bubble's time
		}
		wait()
		t.Logf("%d random tokens, %d sent away; %d questions, at most %d at a time", sent.Load(), sentAway.Load(), api.asked.Load(), api.top.Load())
		if top := api.top.Load(); top > 2*4 {
			t.Errorf("%d questions were under way at a time, want at most 4 of known and 4 of unknown callers", top)
		}
		if sent.Load() < 15_000 || sentAway.Load() == 0 {
			t.Errorf("%d tokens in 2 s, %d sent away: the flood was no flood, and this test shows nothing", sent.Load(), sentAway.Load())
		}
		if n := len(a.others.answers.Keys()); n > 64 {
			t.Errorf("%d answers are kept, want at most 64", n)
		}
	})
}

// floodWithRandomTokens sends about 10,000 tokens a second until ctx ends.
func floodWithRandomTokens(ctx context.Context, t *testing.T, a *Authorizer) (sent, sentAway *atomic.Int64, wait func()) {
	var group sync.WaitGroup
	sent, sentAway = &atomic.Int64{}, &atomic.Int64{}
	for i := range 100 {
		group.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				sent.Add(1)
				_, err := a.Authenticate(ctx, forged(i*1_000_000+n))
				if err == nil {
					t.Error("a random token was taken")
				}
				if errors.Is(err, errTooManyQuestions) {
					sentAway.Add(1)
				}
				time.Sleep(10 * time.Millisecond) // the bubble's time
			}
		})
	}
	return sent, sentAway, group.Wait
}

func TestTokensThatCannotBeForUsAreNotAskedAbout(t *testing.T) {
	api := &reviewer{answer: func(string) authenticationv1.TokenReviewStatus { return authenticationv1.TokenReviewStatus{} }}
	a := NewAuthorizer(AuthOptions{Client: api, Audience: ourAudience})
	for _, token := range []string{"", "x", "a.b", "a.b.c", forgedToken("no json"), forgedToken(`{"aud":"other"}`), forgedToken(`{"aud":7}`), forgedUntil(time.Unix(1, 0))} {
		if _, err := a.Authenticate(t.Context(), token); !errors.Is(err, server.ErrUnauthenticated) {
			t.Errorf("%q: %v", token, err)
		}
	}
	if n := api.asked.Load(); n != 0 {
		t.Errorf("the API server was asked %d times", n)
	}
	for range 3 {
		_, _ = a.Authenticate(t.Context(), forged(1))
	}
	if n := api.asked.Load(); n != 1 {
		t.Errorf("the API server was asked %d times about one token, want once: a no is kept too", n)
	}
}

// TestAnAPIServerThatIsAwayIsNotANo: the caller may come again; the answer is not "your token is wrong".
func TestAnAPIServerThatIsAwayIsNotANo(t *testing.T) {
	config, wire := onWire(t, nil)
	c, err := client.New(config, client.Options{Scheme: testScheme})
	must(t, err)
	wire.setRefuse(func(r *http.Request) *http.Response {
		return status(r, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable)
	})
	a := NewAuthorizer(AuthOptions{Client: c, Audience: ourAudience})
	if _, err := a.Authenticate(t.Context(), forged(1)); err == nil || errors.Is(err, server.ErrUnauthenticated) {
		t.Errorf("authenticate: %v", err)
	}
	if err := a.Authorize(t.Context(), server.Caller{Name: "x"}, "send", "producers", "a", "b"); err == nil || errors.Is(err, server.ErrForbidden) {
		t.Errorf("authorize: %v", err)
	}
}
