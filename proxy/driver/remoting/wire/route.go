// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
)

// Limits of a route. They are far above real clusters and keep a hostile name server from making us enumerate billions of queues.
const (
	maxQueuesPerBroker = 1 << 16
	maxQueues          = 1 << 18
)

// Permission bits of a topic on a broker (org.apache.rocketmq.common.constant.PermName).
const (
	permRead  = 1 << 2
	permWrite = 1 << 1
)

// masterID is the broker id of a master; others are slaves, which take no writes and know no newer offset.
const masterID = "0"

// DefaultTopic is the topic whose route brokers announce when they create unknown topics on the first send (autoCreateTopicEnable).
const DefaultTopic = "TBW102"

// Route says which brokers have a topic.
type Route struct {
	// OrderConf, where somebody declared the topic an ordered one (the name servers' ORDER_TOPIC_CONFIG), says how many queues each broker has for
	// messages with a sharding key: "broker:queues;...".
	OrderConf string       `json:"orderTopicConf"`
	Queues    []QueueData  `json:"queueDatas"`
	Brokers   []BrokerData `json:"brokerDatas"`
}

// QueueData is a topic's share on one broker.
type QueueData struct {
	Broker      string `json:"brokerName"`
	ReadQueues  int    `json:"readQueueNums"`
	WriteQueues int    `json:"writeQueueNums"`
	Permission  int    `json:"perm"`
}

// BrokerData is a broker's addresses by broker id.
type BrokerData struct {
	Cluster   string            `json:"cluster"`
	Name      string            `json:"brokerName"`
	Addresses map[string]string `json:"brokerAddrs"`
}

// Queue is one queue of a topic on the master of a broker.
type Queue struct {
	Topic   string
	Broker  string
	Address string
	ID      int
}

// decodeRoute reads the body of an answer to reqGetRoute.
func decodeRoute(body []byte) (*Route, error) {
	var r Route
	if err := unmarshalLoose(body, &r); err != nil {
		return nil, frameErrorf("route: %v", err)
	}
	total := 0
	for _, q := range r.Queues {
		if q.ReadQueues < 0 || q.WriteQueues < 0 || q.ReadQueues > maxQueuesPerBroker || q.WriteQueues > maxQueuesPerBroker {
			return nil, frameErrorf("route: broker %q has %d read and %d write queues, the limit is %d", q.Broker, q.ReadQueues, q.WriteQueues, maxQueuesPerBroker)
		}
		total += max(q.ReadQueues, q.WriteQueues)
	}
	if total > maxQueues {
		return nil, frameErrorf("route: %d queues, the limit is %d", total, maxQueues)
	}
	return &r, nil
}

// Addresses lists every broker address of the route, slaves included, in order and once each.
func (r *Route) Addresses() []string {
	var all []string
	for _, b := range r.Brokers {
		for _, address := range b.Addresses {
			all = append(all, address)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Masters maps broker names to the address of their master. Brokers without one are not in it.
func (r *Route) Masters() map[string]string {
	masters := make(map[string]string, len(r.Brokers))
	for _, b := range r.Brokers {
		if address := b.Addresses[masterID]; address != "" {
			masters[b.Name] = address
		}
	}
	return masters
}

// Readable lists the queues of topic that can be read, on brokers that have a master, in order.
func (r *Route) Readable(topic string) []Queue {
	return r.queues(topic, permRead, func(q QueueData) int { return q.ReadQueues })
}

// Writable lists the queues of topic that can be written.
func (r *Route) Writable(topic string) []Queue {
	return r.queues(topic, permWrite, func(q QueueData) int { return q.WriteQueues })
}

// Sharded lists the queues of topic among which a sharding key chooses: those that OrderConf names, or else the writable ones, in order. It is the list of
// RocketMQ's Java proxy (MessageQueueSelector.buildWrite, 5.5.0).
func (r *Route) Sharded(topic string) []Queue {
	if strings.TrimSpace(r.OrderConf) == "" {
		return r.Writable(topic)
	}
	masters := r.Masters()
	var all []Queue
	for part := range strings.SplitSeq(r.OrderConf, ";") {
		broker, count, _ := strings.Cut(part, ":")
		n, err := strconv.Atoi(count)
		address, ok := masters[broker]
		if err != nil || !ok {
			continue
		}
		for id := range min(n, maxQueuesPerBroker) {
			all = append(all, Queue{Topic: topic, Broker: broker, Address: address, ID: id})
		}
	}
	sortQueues(all)
	return slices.Compact(all)
}

func (r *Route) queues(topic string, permission int, count func(QueueData) int) []Queue {
	masters := r.Masters()
	var all []Queue
	for _, q := range r.Queues {
		address, ok := masters[q.Broker]
		if !ok || q.Permission&permission == 0 {
			continue
		}
		for id := range count(q) {
			all = append(all, Queue{Topic: topic, Broker: q.Broker, Address: address, ID: id})
		}
	}
	sortQueues(all)
	return all
}

func sortQueues(all []Queue) {
	slices.SortStableFunc(all, func(a, b Queue) int {
		return cmp.Or(cmp.Compare(a.Broker, b.Broker), cmp.Compare(a.ID, b.ID))
	})
}

// Route asks the name servers where topic is. An unknown topic is an AnswerError with CodeTopicNotExist.
func (c *Client) Route(ctx context.Context, topic string) (*Route, error) {
	answer, err := c.InvokeNameServer(ctx, func() *Command {
		return &Command{Code: reqGetRoute, Fields: map[string]string{"topic": topic, "acceptStandardJsonOnly": strconv.FormatBool(true)}}
	})
	if err != nil {
		return nil, err
	}
	return decodeRoute(answer.Body)
}

// ClusterInfo says which brokers are registered.
type ClusterInfo struct {
	Brokers map[string]BrokerData `json:"brokerAddrTable"`
}

// ClusterInfo asks the name servers for all brokers.
func (c *Client) ClusterInfo(ctx context.Context) (*ClusterInfo, error) {
	answer, err := c.InvokeNameServer(ctx, func() *Command { return &Command{Code: reqGetClusterInfo} })
	if err != nil {
		return nil, err
	}
	var info ClusterInfo
	if err := unmarshalLoose(answer.Body, &info); err != nil {
		return nil, frameErrorf("cluster info: %v", err)
	}
	return &info, nil
}
