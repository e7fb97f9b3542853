// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"testing"
	"testing/synctest"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// TestASeekTakesAwayWhatNoApplicationHasSeen: what the window has fetched for a receiver that has not taken it is from before; what the receiver has is its own.
func TestASeekTakesAwayWhatNoApplicationHasSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, delivery.Settings{})
		r, err := m.window.Attach(delivery.ReceiverOptions{MaxMessages: 6, MaxBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		m.send(t, 20)
		synctest.Wait()
		mine := r.Take(2, 1<<20)
		r.Written(mine)
		synctest.Wait()
		if n, _ := m.window.InFlight(); n != 6 {
			t.Fatalf("%d in flight, want the receiver's credit", n)
		}
		if _, err := m.consumer.Seek(t.Context(), driver.Target{To: driver.Latest}); err != nil {
			t.Fatal(err)
		}
		m.window.Supersede(m.consumer.Superseded)
		synctest.Wait()
		if n, _ := m.window.InFlight(); n != 2 {
			t.Errorf("%d in flight after the seek, want what the receiver has", n)
		}
		if left := r.Take(10, 1<<20); len(left) > 0 {
			t.Errorf("%d old messages come after the seek", len(left))
		}
		for _, result := range m.window.Ack(t.Context(), []string{mine[0].Token, mine[1].Token}) {
			if result.Outcome != delivery.OK {
				t.Errorf("an ack of what was delivered before the seek: %+v", result)
			}
		}
		m.window.Supersede(m.consumer.Superseded) // nothing is left to take away
		m.send(t, 3)
		synctest.Wait()
		if fresh := r.Take(10, 1<<20); len(fresh) != 3 {
			t.Errorf("%d new messages, want 3", len(fresh))
		}
	})
}
