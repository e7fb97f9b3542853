// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package batching_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/batching"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/memory"
)

// The queue on the embedded broker: 64 callers, a bad message now and then, and the broker away for a while.
func TestOnMemory_WhatIsAnsweredOKIsStoredAndABadMessageFailsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := memory.NewBroker(memory.Options{MaxMessageBytes: 2000})
		producer, err := memory.New(broker).OpenProducer(t.Context(), driver.ProducerConfig{
			Connection: driver.Connection{NameServers: []string{"ns:9876"}, AllowAddress: func(string) error { return nil }},
			ClientID:   "p", Group: "senders", Topics: []string{"orders"}, SendTimeout: time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		q := batching.NewQueue(producer, batching.Options{Settings: batching.Settings{Enabled: true}})
		defer func() {
			q.Close()
			if err := producer.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		// Each Send hangs until it is lifted, so that callers pile up behind it.
		lift := broker.Faults().Hang(memory.Send, 2)
		var wg sync.WaitGroup
		var mu sync.Mutex
		stored, refused := map[string]bool{}, 0
		for caller := range 64 {
			wg.Go(func() {
				for i := range 20 {
					size := 100
					if i == 7 {
						size = 5000
					}
					m := &driver.Message{ID: fmt.Sprintf("c%d-%d", caller, i), Topic: "orders", Body: make([]byte, size)}
					r := q.Send(t.Context(), "orders", []*driver.Message{m})[0]
					mu.Lock()
					switch {
					case r.Err == nil:
						stored[r.MessageID] = true
					case size == 5000 && driver.ReasonOf(r.Err) == driver.InvalidMessage:
						refused++
					default:
						t.Errorf("%s: %v", m.ID, r.Err)
					}
					mu.Unlock()
				}
			})
		}
		synctest.Wait()
		lift()
		wg.Wait()
		if len(stored) != 64*19 || refused != 64 {
			t.Errorf("%d stored and %d refused, want %d and 64", len(stored), refused, 64*19)
		}
		if n := broker.Faults().Calls(memory.Send); n >= 64*20 {
			t.Errorf("%d requests for %d messages: nothing was batched", n, 64*20)
		}
	})
}
