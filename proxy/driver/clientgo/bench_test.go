// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"
	library "github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// BenchmarkSend compares Send with the library's bare SendSync: 64 callers, 1 KiB, turn by turn on the same broker.
//
//	ROCKETMQ_TESTS=1 go test -run '^$' -bench Send -benchtime 1x ./proxy/driver/clientgo
func BenchmarkSend(b *testing.B) {
	h := newHarness(b, rocketmq.StartForTest(b, rocketmq.Options{
		Measure: true, ExtraBrokerConf: map[string]string{"waitTimeMillsInSendQueue": "5000"}, // a busy machine is no error of ours
	}))
	topic := h.NewTopic(b, 8)
	p := h.openProducer(b, h.producerConfig(topic))
	bare, err := library.NewDefaultProducer(library.WithInstanceName("bare"), library.WithGroupName("bare"), library.WithNameServer(h.cluster.NameServers()))
	if err != nil {
		b.Fatal(err)
	}
	if err := bare.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = bare.Shutdown() }()
	body := []byte(strings.Repeat("x", 1024))
	ways := map[string]func() error{
		"bare": func() error {
			_, err := bare.SendSync(context.Background(), primitive.NewMessage(topic, body))
			return err
		},
		"driver": func() error {
			m := &driver.Message{ID: uuid.NewString(), Topic: topic, Body: body}
			return p.Send(context.Background(), topic, []*driver.Message{m})[0].Err
		},
	}
	const rounds, each = 5, 2 * time.Second
	rates := map[string]float64{}
	for range b.N {
		for _, way := range []string{"bare", "driver"} {
			sendFor(b, each, ways[way]) // warm
		}
		for range rounds {
			for _, way := range []string{"bare", "driver"} {
				rates[way] += sendFor(b, each, ways[way]) / rounds / float64(b.N)
			}
		}
	}
	b.ReportMetric(rates["bare"], "bare/s")
	b.ReportMetric(rates["driver"], "driver/s")
	b.ReportMetric(rates["driver"]/rates["bare"], "ratio")
}

// sendFor sends from 64 goroutines for d and returns messages a second.
func sendFor(b *testing.B, d time.Duration, send func() error) float64 {
	b.Helper()
	var sent atomic.Int64
	var group sync.WaitGroup
	began := time.Now()
	for range 64 {
		group.Go(func() {
			for time.Since(began) < d {
				if err := send(); err != nil {
					b.Errorf("send: %v", err)
					return
				}
				sent.Add(1)
			}
		})
	}
	group.Wait()
	return float64(sent.Load()) / time.Since(began).Seconds()
}
