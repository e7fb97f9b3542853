// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

// Benchmarks on a real broker, for profiles of our side: the broker takes most of the machine. They want ROCKETMQ_TESTS=1.

// benchSite is a topic and a client as objects share one.
func benchSite(b *testing.B) (*Client, []Queue) {
	b.Helper()
	cluster := shared.Cluster(b)
	topic := "topic_" + uuid.NewString()[:13]
	if err := cluster.CreateTopic(b.Context(), topic, 8, nil); err != nil {
		b.Fatal(err)
	}
	connection := connectionTo(cluster.NameServers()...)
	connection.Credentials = credentialsOf(cluster.Administrator())
	client := New(connection, Options{ReadBufferBytes: 64 << 10})
	b.Cleanup(client.Close)
	route, err := client.Route(b.Context(), topic)
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	return client, route.Writable(topic)
}

func BenchmarkBrokerSend64(b *testing.B) {
	client, queues := benchSite(b)
	var next atomic.Int32
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		m := benchMessage()
		m.Topic, m.Queue = queues[0].Topic, int(next.Add(1))%len(queues)
		for pb.Next() {
			if _, err := client.Send(b.Context(), queues[0].Address, m); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkBrokerSendBatch64 is 64 callers with 32 messages each; the figure is for 32.
func BenchmarkBrokerSendBatch64(b *testing.B) {
	client, queues := benchSite(b)
	var next atomic.Int32
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		m := benchMessage()
		batch := Batch{ProducerGroup: m.ProducerGroup, Topic: queues[0].Topic, Queue: int(next.Add(1)) % len(queues), BornTime: time.Now()}
		for range 32 {
			batch.Messages = append(batch.Messages, BatchMessage{Body: m.Body, Properties: m.Properties})
		}
		for pb.Next() {
			if _, err := client.SendBatch(b.Context(), queues[0].Address, batch); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkBrokerPopAndAck is a backlog popped 32 at a time by 8, each pop acknowledged with one request; the figure is for 32.
func BenchmarkBrokerPopAndAck(b *testing.B) {
	client, queues := benchSite(b)
	m := benchMessage()
	batch := Batch{ProducerGroup: m.ProducerGroup, Topic: queues[0].Topic, BornTime: time.Now()}
	for range 32 {
		batch.Messages = append(batch.Messages, BatchMessage{Body: m.Body, Properties: m.Properties})
	}
	for i := range b.N + 64 {
		batch.Queue = i % len(queues)
		if _, err := client.SendBatch(b.Context(), queues[0].Address, batch); err != nil {
			b.Fatal(err)
		}
	}
	request := PopRequest{Group: "group_" + uuid.NewString()[:13], Topic: batch.Topic, Queue: -1, Max: 32, Invisible: time.Minute, Poll: time.Second, Earliest: true}
	b.ReportAllocs()
	b.ResetTimer()
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			answer, err := client.Invoke(b.Context(), queues[0].Address, request.Command())
			if code, _ := CodeOf(err); code == CodePollTimeout {
				continue
			}
			var popped *Popped
			if err == nil {
				popped, err = DecodePop(answer, queues[0].Broker)
			}
			if err != nil {
				b.Error(err)
				return
			}
			acks := make([]Ack, len(popped.Messages))
			for i := range acks {
				acks[i] = Ack{batch.Topic, popped.Messages[i].Handle}
			}
			if _, err := client.Invoke(b.Context(), queues[0].Address, BatchAckCommand(request.Group, queues[0].Broker, acks)); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
