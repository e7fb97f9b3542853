// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// TestAnAckInTheLastMomentOfItsLeaseHolds: an ack that was confirmed holds however late in the lease it came, also while others' leases end around it. The
// broker keeps acks in its timer until the lease's end, and the check point that they belong to until a second before; one that it would read before its
// check point, or after it has given the message back, would be lost (PopReviveService, 5.5.0).
func TestAnAckInTheLastMomentOfItsLeaseHolds(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	t.Parallel()
	p, c, topic := h.stream(t, 8)
	const n, lease = 960, 4 * time.Second
	for range n / 32 {
		send(t, p, topic, 32)
	}
	got := receive(t, c, n, lease)
	var mu sync.Mutex
	confirmed := map[string]time.Duration{}
	var all sync.WaitGroup
	for i, r := range got {
		all.Go(func() {
			time.Sleep(time.Until(r.Deadline) - time.Duration(i%48)*25*time.Millisecond)
			left := time.Until(r.Deadline)
			if c.Ack(within(t, 20*time.Second), []driver.Handle{r.Handle})[0] == nil {
				mu.Lock()
				defer mu.Unlock()
				confirmed[r.ID] = left
			}
		})
	}
	all.Wait()
	again := 0
	for over := time.Now().Add(12 * time.Second); time.Now().Before(over); {
		rs, err := c.Fetch(within(t, time.Until(over)), fetchOf(32, time.Minute))
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		for _, r := range rs {
			if left, ok := confirmed[r.ID]; ok {
				t.Errorf("message %s came again, attempt %d, whose ack was confirmed and had %v left", r.ID, r.Attempt, left)
			}
			again++
		}
		acknowledge(t, c, rs...)
	}
	least := slices.Min(append(slices.Collect(maps.Values(confirmed)), lease))
	t.Logf("%d acks were confirmed, the last one %v before the end; %d of %d messages came again", len(confirmed), least, again, n)
	if len(confirmed) < n/4 {
		t.Errorf("only %d acks of %d were confirmed", len(confirmed), n)
	}
}
