// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"strings"
	"testing"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// BenchmarkCachedAnswers is what authentication and authorization cost each call of a caller that is known.
func BenchmarkCachedAnswers(b *testing.B) {
	a := NewAuthorizer(AuthOptions{Audience: ourAudience})
	token := strings.Repeat("t", 1000)
	caller := server.Caller{Name: "system:serviceaccount:shop:orders", Digest: strings.Repeat("d", 32)}
	a.seen.add(hashOf(token))
	a.known.keep(hashOf(token), answer[server.Caller]{value: caller})
	a.rights.keep(caller.Digest+"send/producers/4/shoporders", answer[struct{}]{})
	b.ReportAllocs()
	for b.Loop() {
		got, err := a.Authenticate(b.Context(), token)
		if err != nil {
			b.Fatal(err)
		}
		if err := a.Authorize(b.Context(), got, "send", "producers", "shop", "orders"); err != nil {
			b.Fatal(err)
		}
	}
}
