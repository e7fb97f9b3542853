// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/clientgo"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/memory"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting"
)

// declaration is the part of driver.Driver that the table is made from.
type declaration interface {
	Name() string
	Capabilities() driver.Capabilities
}

// drivers are the ones that the table compares, in its order.
func drivers() []declaration {
	return []declaration{memory.New(nil), &clientgo.Driver{}, &remoting.Driver{}} // none is used for anything but what it declares
}

// capabilityTable compares what the drivers declare.
func capabilityTable() string {
	rows := []struct {
		question string
		answer   func(driver.Capabilities) string
	}{
		{"an ack that is OK means", func(c driver.Capabilities) string {
			return choose(c.AckConfirmed, "the broker stored it", "this host took it and will commit it: the message may come again after a crash or a rebalance, it is never lost")
		}},
		{"an ack through another host", func(c driver.Capabilities) string {
			return choose(c.AckFromAnyHost, "works", "the host that delivered it is asked; RETRY while it cannot be reached, EXPIRED when it is gone")
		}},
		{"fetched beyond the receivers' credit", func(c driver.Capabilities) string {
			return choose(c.Prefetch == "", "nothing", cell(c.Prefetch))
		}},
		{"delivery_attempt", func(c driver.Capabilities) string { return choose(c.ExactAttempts, "exact", "a lower bound") }},
		{"delay of a nack", func(c driver.Capabilities) string {
			return choose(c.ExactNackDelay, "exact", "rounded up; the answer shows the effective delay")
		}},
		{"what no receiver has seen", func(c driver.Capabilities) string {
			return choose(c.GiveBackToBroker, "goes back to the broker at once", "goes back to this host, and to the broker when the client stops")
		}},
		{"what receivers have when the client stops", func(c driver.Capabilities) string {
			return choose(c.KeepsLeases, "stays leased to its deadline; another host takes the ack", "goes back to the broker")
		}},
		{"longest lease", func(c driver.Capabilities) string {
			return duration(c.MaxLease) + "; longer ones are clamped, the answer shows the real deadline"
		}},
		{"an idle time-out for Consumers (`idleTimeoutSeconds`)", func(c driver.Capabilities) string {
			return choose(c.IdleConsumers, "yes", "no: refused, with ClientGo named when the object is applied, else by the condition `Accepted`")
		}},
		{"encrypted connections (`connection.tls`)", func(c driver.Capabilities) string {
			return choose(c.TLS, "yes", "no: refused in the same way")
		}},
		{"messages with a `sharding_key` keep their order", func(driver.Capabilities) string { return "yes" }},
		{"Consumers with `order: Ordered`", func(c driver.Capabilities) string {
			return choose(c.Ordered, "yes", "no: refused in the same way as a time-out for idle Consumers")
		}},
		{"messages that are delivered later (`deliver_at`, `delay`)", func(c driver.Capabilities) string { return cell(c.Delays) }},
		{"Recall", func(c driver.Capabilities) string {
			return choose(c.Recall, "yes; RocketMQ needs `recallMessageEnable=true` at its brokers, 5.4 or newer", "no: FAILED_PRECONDITION")
		}},
		{"transactions (`spec.transactions` of a Producer)", func(c driver.Capabilities) string {
			return choose(c.Transactions, "yes; an OK of EndTransaction means that the broker confirmed it", "no: refused, with ClientGo named when the object is applied, else by the condition `Accepted`")
		}},
		{"every receiver gets every message (`model: Broadcasting` of a Consumer)", func(c driver.Capabilities) string {
			return choose(c.Broadcast, "yes; progress for each `client_id` at the brokers", "no: refused, with ClientGo named when the object is applied, else by the condition `Accepted`")
		}},
		{"moving a Consumer (`Seek`, annotation `proxy.rocketmq.io/seek-to`)", func(c driver.Capabilities) string {
			return choose(c.Seek, "exact on every queue; brokers 5.1 or newer where they are RocketMQ's", "no: FAILED_PRECONDITION, and `status.seek` Failed: the library writes its own positions back")
		}},
		{"several hosts", func(c driver.Capabilities) string {
			return choose(c.SingleHost, "a Consumer runs on one host only (condition `SingleHostDriver` when there are more)", "yes")
		}},
	}
	var out strings.Builder
	out.WriteString("| |")
	for _, d := range drivers() {
		out.WriteString(" " + d.Name() + " |")
	}
	out.WriteString("\n|" + strings.Repeat(" --- |", len(drivers())+1) + "\n")
	for _, r := range rows {
		out.WriteString("| " + r.question + " |")
		for _, d := range drivers() {
			out.WriteString(" " + r.answer(d.Capabilities()) + " |")
		}
		out.WriteString("\n")
	}
	return strings.TrimRight(out.String(), "\n")
}

func choose(yes bool, then, otherwise string) string {
	if yes {
		return then
	}
	return otherwise
}

// duration is a time as people write it.
func duration(d time.Duration) string {
	if d >= time.Hour && d%time.Hour == 0 {
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d min", d/time.Minute)
}
