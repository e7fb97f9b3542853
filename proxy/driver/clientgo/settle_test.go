// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"testing"
	"time"
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
