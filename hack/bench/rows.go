// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	bodyBytes = 1024
	// shardingKeys is over how many keys ordered sends go.
	shardingKeys = 256
	// javaReceivers is how many threads receive with RocketMQ's own SDK, each 32 messages at once: the number with which it is fastest.
	javaReceivers = 32
)

// The rows.
const (
	rowUnary   = "Send, 64 callers"
	rowBatch   = "Send of 32 messages, 16 callers"
	rowSingle  = "Send, 1 caller"
	rowReceive = "Receive + ack, 4 streams"
	rowPaced   = "End to end at 1,000/s"
	rowOrdered = "Send with a sharding key, 64 callers"
	rowTrans   = "Transaction, 64 callers"
)

// figuresOnce is the name of what is taken once, after the rows.
const figuresOnce = "Memory"

var allRows = []string{rowUnary, rowBatch, rowSingle, rowReceive, rowPaced, rowOrdered, rowTrans}

// Who runs in them, besides the drivers of our proxy.
const (
	whoRaw    = "raw"
	whoDirect = "direct"
	whoEcho   = "echo"
	whoLeast  = "least"
	whoJava   = "java"
)

// allDrivers are those with aims; their names are those of spec.driver.
var allDrivers = []string{"Remoting", "ClientGo"}

// names in the tables.
var names = map[string]string{
	whoRaw: "raw client", whoDirect: "protocol alone", whoEcho: "grpc-go echo", whoLeast: "least proxy", whoJava: "Java proxy", "Remoting": "proxy, Remoting", "ClientGo": "proxy, ClientGo",
}

// contender is one row's measurement, run once a round.
type contender struct {
	row, who string
	run      func(context.Context) (figure, error)
}

// contenders in the order in which a round runs them, those of the rows that are wanted.
func (b *bench) contenders() []contender {
	all := slices.Concat(
		b.sends(rowUnary, 64, 1, b.sendJava(64)),
		b.sends(rowBatch, 16, 32),
		b.sends(rowSingle, 1, 1, contender{rowSingle, whoDirect, b.worked("direct-send", "--topic", "bench")}),
		b.receives(), b.paces(), b.ordereds())
	return b.those(all)
}

// transacting are the contenders of transactions, for rounds of their own after all others: a broker of 5.5.0 that has seen one keeps a core busy until
// it is restarted.
func (b *bench) transacting() []contender {
	all := []contender{{rowTrans, whoRaw, b.worked("raw-transaction", "--topic", "bench", "--callers", "64")}}
	if slices.Contains(b.drivers, "Remoting") { // ClientGo has no transactions
		all = append(all, contender{rowTrans, "Remoting", func(ctx context.Context) (figure, error) { return b.transact(ctx, 64) }})
	}
	return b.those(all)
}

// those of the rows that are wanted.
func (b *bench) those(all []contender) []contender {
	return slices.DeleteFunc(all, func(c contender) bool { return !b.wanted(c.row) })
}

// sends are the contenders of a row of sends. All servers get the same calls.
func (b *bench) sends(row string, callers, batch int, more ...contender) []contender {
	cs := append([]contender{
		{row, whoRaw, b.worked("raw-send", "--topic", "bench", "--callers", strconv.Itoa(callers), "--batch", strconv.Itoa(batch))},
		{row, whoEcho, func(ctx context.Context) (figure, error) {
			return b.send(ctx, b.echo, callers, sendRequests(batch, "bench", "any"))
		}},
		{row, whoLeast, func(ctx context.Context) (figure, error) {
			return b.send(ctx, b.least, callers, sendRequests(batch, "bench", "any"))
		}},
	}, more...)
	for _, driver := range b.drivers {
		cs = append(cs, contender{row, driver, func(ctx context.Context) (figure, error) {
			return b.send(ctx, b.proxy(), callers, sendRequests(batch, "bench", producerOf(driver)))
		}})
	}
	return cs
}

func (b *bench) sendJava(callers int) contender {
	return contender{rowUnary, whoJava, func(ctx context.Context) (figure, error) { return b.java.measure(ctx, "send", callers, b.window) }}
}

func (b *bench) receives() []contender {
	cs := []contender{
		{rowReceive, whoRaw, b.worked("raw-receive", "--topic", "bench")},
		{rowReceive, whoEcho, func(ctx context.Context) (figure, error) { return b.receive(ctx, b.echo, "any") }},
		{rowReceive, whoJava, func(ctx context.Context) (figure, error) {
			return b.java.measure(ctx, "receive", javaReceivers, b.window)
		}},
	}
	for _, driver := range b.drivers {
		cs = append(cs, contender{rowReceive, driver, func(ctx context.Context) (figure, error) { return b.receiveBacklog(ctx, driver) }})
	}
	return cs
}

// ordereds send with sharding keys: equal keys go to one queue and keep their order.
func (b *bench) ordereds() []contender {
	cs := []contender{{rowOrdered, whoRaw, b.worked("raw-ordered", "--topic", "bench", "--callers", "64")}}
	for _, driver := range b.drivers {
		cs = append(cs, contender{rowOrdered, driver, func(ctx context.Context) (figure, error) {
			return b.send(ctx, b.proxy(), 64, orderedRequests("bench", producerOf(driver)))
		}})
	}
	return cs
}

// paces have a topic of their own each time: nothing of an earlier run is in the way.
func (b *bench) paces() []contender {
	cs := []contender{{rowPaced, whoRaw, func(ctx context.Context) (figure, error) {
		topic, err := b.freshTopic(ctx)
		if err != nil {
			return figure{}, err
		}
		return b.contend(ctx, "raw-paced", "--topic", topic)
	}}}
	for _, driver := range b.drivers {
		cs = append(cs, contender{rowPaced, driver, func(ctx context.Context) (figure, error) { return b.pacedProxy(ctx, driver) }})
	}
	return cs
}

// worked is a contender that is a process of this program.
func (b *bench) worked(name string, args ...string) func(context.Context) (figure, error) {
	return func(ctx context.Context) (figure, error) { return b.contend(ctx, name, args...) }
}

func (b *bench) freshTopic(ctx context.Context) (string, error) {
	b.serial++
	topic := fmt.Sprintf("paced-%d", b.serial)
	return topic, b.broker.CreateTopic(ctx, topic, 8, nil)
}

// producerOf is the name of the Producer that a driver's sends go through.
func producerOf(driver string) string { return "bench-" + strings.ToLower(driver) }

// transactional is the name of the Producer with transactions.
const transactional = "bench-transactions"

// shardingKey of the n-th message.
func shardingKey(n int64) string { return "key-" + strconv.FormatInt(n%shardingKeys, 10) }
