// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestDelaysAreRoundedUpToALevel(t *testing.T) {
	for _, c := range []struct {
		delay     time.Duration
		level     int
		effective time.Duration
	}{
		{0, 1, time.Second},
		{-time.Second, 1, time.Second},
		{time.Second, 1, time.Second},
		{time.Second + 1, 2, 5 * time.Second},
		{45 * time.Second, 5, time.Minute},
		{time.Hour, 17, time.Hour},
		{2 * time.Hour, 18, 2 * time.Hour},
		{3 * time.Hour, 18, 2 * time.Hour},
	} {
		if level, effective := levelFor(c.delay); level != c.level || effective != c.effective {
			t.Errorf("%v: level %d, %v; want %d, %v", c.delay, level, effective, c.level, c.effective)
		}
	}
}

func TestCutKeepsCharactersWhole(t *testing.T) {
	for _, text := range []string{"", "abc", strings.Repeat("ß", 10), strings.Repeat("你", 10)} {
		for n := range len(text) + 2 {
			got := cut(text, n)
			if len(got) > n || !utf8.ValidString(got) || !strings.HasPrefix(text, got) || len(text) <= n && got != text || n-len(got) > 3 && got != text {
				t.Errorf("cut(%q, %d) = %q", text, n, got)
			}
		}
	}
}
