// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// directSend is RocketMQ's protocol with nothing around it: one request for each message, queues in turn, on one connection.
func directSend(ctx context.Context, a workerArgs) (figure, error) {
	client := wire.New(driver.Connection{NameServers: []string{a.nameServer}, AllowAddress: func(string) error { return nil }}, wire.Options{})
	defer client.Close()
	route, err := client.Route(ctx, a.topic)
	if err != nil {
		return figure{}, err
	}
	queues, masters := route.Writable(a.topic), route.Masters()
	if len(queues) == 0 {
		return figure{}, errors.New("the topic has no queue to write to")
	}
	var turn atomic.Int64
	body := make([]byte, bodyBytes)
	send := func(ctx context.Context) (int, error) {
		n := turn.Add(1)
		queue := queues[int(n)%len(queues)]
		_, err := client.Send(ctx, masters[queue.Broker], wire.Outgoing{
			ProducerGroup: "direct", Topic: a.topic, Queue: queue.ID, Broker: queue.Broker, Body: body, BornTime: time.Now(),
			Properties: map[string]string{"UNIQ_KEY": fmt.Sprintf("%032X", n), "WAIT": "true"},
		})
		return 1, err
	}
	if err := warm(ctx, a.callers, send); err != nil {
		return figure{}, err
	}
	return drive(ctx, a.callers, a.window, a.parties(), send)
}
