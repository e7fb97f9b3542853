// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// BenchmarkSendFetchAck takes 1 KiB messages through all three in batches, on one goroutine; ns/op is for one message.
func BenchmarkSendFetchAck(b *testing.B) {
	for _, batch := range []int{1, 32} {
		b.Run("batch="+strconv.Itoa(batch), func(b *testing.B) {
			d := New(NewBroker(Options{}))
			p, c := open(b, d, "bench", "bench")
			body := make([]byte, 1024)
			msgs := make([]*driver.Message, batch)
			for i := range msgs {
				msgs[i] = &driver.Message{ID: "id-" + strconv.Itoa(i), Topic: "bench", Body: body}
			}
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += batch {
				for _, r := range p.Send(b.Context(), "bench", msgs) {
					if r.Err != nil {
						b.Fatal(r.Err)
					}
				}
				rs, err := c.Fetch(b.Context(), driver.FetchRequest{MaxMessages: batch, MaxBytes: math.MaxInt64, Lease: time.Minute})
				if err != nil || len(rs) != batch {
					b.Fatalf("%d messages, %v", len(rs), err)
				}
				for _, err := range c.Ack(b.Context(), handlesOf(rs)) {
					if err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}
