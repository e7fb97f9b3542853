// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"
	library "github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/go-logr/logr"
	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/batching"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting"
)

// BenchmarkSend compares the library's bare SendSync with this driver, the remoting driver, and natural batching on each: 1 KiB, callers turn by turn
// on the same broker. It reports each way's rate as a ratio to the library's, and its CPU a message.
//
//	ROCKETMQ_TESTS=1 CALLERS=64 go test -run '^$' -bench Send -benchtime 1x ./proxy/driver/clientgo
func BenchmarkSend(b *testing.B) {
	callers := 64
	if text := os.Getenv("CALLERS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		callers = n
	}
	h := newHarness(b, rocketmq.StartForTest(b, rocketmq.Options{
		Measure: true, ExtraBrokerConf: map[string]string{"waitTimeMillsInSendQueue": "5000"}, // a busy machine is no error of ours
	}))
	topic := h.NewTopic(b, 8)
	body := []byte(strings.Repeat("x", 1024))
	ways := []way{{"library", bareSend(b, h, topic, body)}}
	of := func(d producers, name string, batch batching.Settings) {
		ways = append(ways, way{name, driverSend(b, h, d, batch, topic, body)})
	}
	direct := remoting.New(logr.Discard())
	of(h.driver, "clientgo", batching.Settings{})
	of(h.driver, "clientgo-batched", batching.Settings{Enabled: true})
	of(direct, "remoting", batching.Settings{})
	for _, inAir := range []int{1, 2, 4} {
		of(direct, fmt.Sprintf("remoting-batched-%d", inAir), batching.Settings{Enabled: true, InAir: inAir})
	}
	const rounds, each = 5, 2 * time.Second
	rates, cpu := make([]float64, len(ways)), make([]float64, len(ways))
	for range b.N {
		for _, w := range ways {
			sendFor(b, callers, each, w.send) // warm
		}
		for range rounds {
			for i, w := range ways {
				rate, used := sendFor(b, callers, each, w.send)
				rates[i] += rate / rounds / float64(b.N)
				cpu[i] += used / rounds / float64(b.N)
			}
		}
	}
	for i, w := range ways {
		b.ReportMetric(rates[i]/rates[0], w.name+"-ratio")
		b.ReportMetric(cpu[i], w.name+"-us/msg")
		b.Logf("%-20s %8.0f/s  ratio %.2f  %5.1f us CPU a message", w.name, rates[i], rates[i]/rates[0], cpu[i])
	}
}

// way is one way to send a message.
type way struct {
	name string
	send func() error
}

func bareSend(b *testing.B, h *harness, topic string, body []byte) func() error {
	bare, err := library.NewDefaultProducer(library.WithInstanceName("bare"), library.WithGroupName("bare"), library.WithNameServer(h.cluster.NameServers()))
	if err != nil {
		b.Fatal(err)
	}
	if err := bare.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = bare.Shutdown() })
	return func() error {
		_, err := bare.SendSync(context.Background(), primitive.NewMessage(topic, body))
		return err
	}
}

// producers is what is measured of a driver.
type producers interface {
	OpenProducer(ctx context.Context, cfg driver.ProducerConfig) (driver.Producer, error)
}

func driverSend(b *testing.B, h *harness, d producers, s batching.Settings, topic string, body []byte) func() error {
	p, err := d.OpenProducer(context.Background(), h.producerConfig(topic))
	if err != nil {
		b.Fatal(err)
	}
	q := batching.NewQueue(p, batching.Options{Settings: s})
	b.Cleanup(func() {
		q.Close()
		mustClose(b, p)
	})
	return func() error {
		m := &driver.Message{ID: uuid.NewString(), Topic: topic, Body: body}
		return q.Send(context.Background(), topic, []*driver.Message{m})[0].Err
	}
}

// sendFor sends from that many goroutines for d and returns messages a second and this process's CPU a message, in microseconds.
func sendFor(b *testing.B, callers int, d time.Duration, send func() error) (rate, cpu float64) {
	b.Helper()
	var sent atomic.Int64
	var group sync.WaitGroup
	began, used := time.Now(), ownCPU(b)
	for range callers {
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
	n := float64(sent.Load())
	return n / time.Since(began).Seconds(), float64((ownCPU(b) - used).Microseconds()) / n
}

func ownCPU(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
