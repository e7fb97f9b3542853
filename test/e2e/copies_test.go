// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/test/load"
)

// queryMessage is RequestCode.QUERY_MESSAGE: the broker's index of ids and keys.
const queryMessage = 12

// copies asks the broker how often it has stored an id in a topic. Every id that is asked for was stored, so none is an error.
func (c *cluster) copies(ctx context.Context, client *wire.Client, topic, id string) ([]load.Copy, error) {
	answer, err := client.Invoke(ctx, c.broker.BrokerAddr(), &wire.Command{Code: queryMessage, Fields: map[string]string{
		"topic": topic, "key": id, "maxNum": "32", "beginTimestamp": "0", "endTimestamp": strconv.FormatInt(math.MaxInt64, 10), "_UNIQUE_KEY_QUERY": "true",
	}})
	if err != nil {
		return nil, fmt.Errorf("look up %s in %s: %w", id, topic, err)
	}
	found, err := wire.DecodeMessages(answer.Body)
	if err != nil {
		return nil, fmt.Errorf("look up %s in %s: %w", id, topic, err)
	}
	var copies []load.Copy
	for _, m := range found {
		if m.Topic == topic && m.Properties[driver.PropertyID] == id { // the index is by hash
			copies = append(copies, load.Copy{Queue: m.Queue, Offset: m.Offset, Stored: m.Stored})
		}
	}
	if len(copies) == 0 {
		return nil, fmt.Errorf("look up %s in %s: the broker's index does not have it", id, topic)
	}
	return copies, nil
}

// comesAgainAfter is more than the broker takes to deliver again what was not acknowledged: 2 to 3 s after the end of its lease.
const comesAgainAfter = ackDeadline + 5*time.Second

// nothingAgain settles, waits until each ack that had no effect would have shown, and demands that none did: the promise of a driver whose acks the
// broker confirms. It wants the senders ended, and the receivers not.
func (f *traffic) nothingAgain() {
	f.t.Helper()
	f.settle()
	time.Sleep(time.Until(f.ledger.Settled().Add(comesAgainAfter))) // that nothing comes is told by time only
	client := wire.New(driver.Connection{NameServers: f.c.broker.NameServers(), AllowAddress: func(string) error { return nil }}, wire.Options{})
	defer client.Close()
	r, err := f.ledger.Repeats(func(id string) ([]load.Copy, error) { return f.c.copies(f.t.Context(), client, f.topic, id) })
	must(f.t, err)
	f.t.Logf("%d ids that were acknowledged more than once are in RocketMQ more than once, %d of them after one send", r.Copied, r.CopiedByProxy)
	if r.Again > 0 {
		f.t.Errorf("%d acks were confirmed of messages that had been acknowledged already:\n%s", r.Again, strings.Join(r.Told, "\n"))
	}
}
