// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

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
