// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"
	"unicode/utf16"
)

// How a filter's expression is to be read.
const (
	filterTag = "TAG"
	filterSQL = "SQL92"
	filterAll = "*"
)

// Subscription is a topic and its filter as a broker wants it.
type Subscription struct {
	Topic      string   `json:"topic"`
	Expression string   `json:"subString"`
	Type       string   `json:"expressionType"`
	Tags       []string `json:"tagsSet"`
	Codes      []int32  `json:"codeSet"`
	Version    int64    `json:"subVersion"`
	ClassMode  bool     `json:"classFilterMode"`
}

// NewSubscription makes one of a tag expression ("a || b", empty or "*" = all) or an SQL one. topic has its namespace.
func NewSubscription(topic, tag, sql string) Subscription {
	s := Subscription{Topic: topic, Expression: filterAll, Type: filterTag, Tags: []string{}, Codes: []int32{}}
	switch {
	case sql != "":
		s.Expression, s.Type = sql, filterSQL
	case tag != "" && tag != filterAll:
		s.Expression = tag
		for t := range strings.SplitSeq(tag, "||") {
			if t = strings.TrimSpace(t); t != "" {
				s.Tags = append(s.Tags, t)
				s.Codes = append(s.Codes, javaHash(t))
			}
		}
	}
	s.Version = int64(hash(s.Topic + s.Type + s.Expression))
	return s
}

// javaHash is Java's String.hashCode, which brokers index tags by.
func javaHash(text string) int32 {
	var h int32
	for _, unit := range utf16.Encode([]rune(text)) {
		h = 31*h + int32(unit)
	}
	return h
}

func hash(text string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(text)) // a hash cannot fail to take bytes
	return h.Sum32()
}

// CheckClientConfig asks the broker at address whether group may read s.Topic with that filter. The answer's code says why not: CodeNoPermission,
// CodeSubscriptionBadParse with the parser's words, CodeSystemError when filters are switched off. Nothing is registered.
func (c *Client) CheckClientConfig(ctx context.Context, address, clientID, group string, s Subscription) error {
	body, err := json.Marshal(map[string]any{"clientId": clientID, "group": group, "subscriptionData": s})
	if err != nil {
		return fmt.Errorf("encode the subscription of %q: %w", s.Topic, err)
	}
	_, err = c.Invoke(ctx, address, &Command{Code: reqCheckClientConfig, Body: body})
	return err
}

// Heartbeat is what a client tells a broker about itself.
type Heartbeat struct {
	ClientID string `json:"clientID"`
	// Producers and Consumers must not be null on the wire: brokers answer a null with a NullPointerException.
	Producers []ProducerMember `json:"producerDataSet"`
	Consumers []ConsumerMember `json:"consumerDataSet"`
}

// ProducerMember names a producer group that the client belongs to.
type ProducerMember struct {
	Group string `json:"groupName"`
}

// ConsumerMember is a consumer group that the client belongs to.
type ConsumerMember struct {
	Group         string         `json:"groupName"`
	ConsumeType   string         `json:"consumeType"`
	MessageModel  string         `json:"messageModel"`
	From          string         `json:"consumeFromWhere"`
	Subscriptions []Subscription `json:"subscriptionDataSet"`
	UnitMode      bool           `json:"unitMode"`
}

// NewPushMember is a classic member of group.
func NewPushMember(group string, subscriptions []Subscription) ConsumerMember {
	return ConsumerMember{
		Group: group, ConsumeType: "CONSUME_PASSIVELY", MessageModel: "CLUSTERING", From: "CONSUME_FROM_FIRST_OFFSET", Subscriptions: subscriptions,
	}
}

// HeartBeat registers the client at the broker on this client's connection. One without members registers nothing and only proves the
// credentials. A broker that creates groups by itself makes a consumer's group and its retry topic.
func (c *Client) HeartBeat(ctx context.Context, address string, h Heartbeat) error {
	if h.Producers == nil {
		h.Producers = []ProducerMember{}
	}
	if h.Consumers == nil {
		h.Consumers = []ConsumerMember{}
	}
	body, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("encode the heartbeat of %q: %w", h.ClientID, err)
	}
	_, err = c.Invoke(ctx, address, &Command{Code: reqHeartBeat, Body: body})
	return err
}

// Unregister takes the client out of group at the broker.
func (c *Client) Unregister(ctx context.Context, address, clientID, consumerGroup string) error {
	fields := map[string]string{"clientID": clientID, "consumerGroup": consumerGroup}
	_, err := c.Invoke(ctx, address, &Command{Code: reqUnregisterClient, Fields: fields})
	return err
}

// CreateGroup makes or changes group at the broker with RocketMQ's defaults. It needs an administrator's rights where there is ACL.
func (c *Client) CreateGroup(ctx context.Context, address, group string) error {
	body, err := json.Marshal(map[string]any{
		"groupName": group, "consumeEnable": true, "consumeFromMinEnable": true, "consumeBroadcastEnable": true,
		"retryQueueNums": 1, "retryMaxTimes": 16, "brokerId": 0, "whichBrokerWhenConsumeSlowly": 1,
	})
	if err != nil {
		return fmt.Errorf("encode group %q: %w", group, err)
	}
	_, err = c.Invoke(ctx, address, &Command{Code: reqUpdateGroup, Body: body})
	return err
}

// Members are the client ids in group at the broker; none when nobody is online.
func (c *Client) Members(ctx context.Context, address, group string) ([]string, error) {
	answer, err := c.Invoke(ctx, address, &Command{Code: reqConsumerList, Fields: map[string]string{"consumerGroup": group}})
	if code, ok := CodeOf(err); ok && code == CodeSystemError {
		return nil, nil // brokers answer a group without members with a system error
	}
	if err != nil {
		return nil, err
	}
	var list struct {
		IDs []string `json:"consumerIdList"`
	}
	if err := unmarshalLoose(answer.Body, &list); err != nil {
		return nil, frameErrorf("members of %q: %v", group, err)
	}
	return list.IDs, nil
}

// GroupConnections is how a group is used at one broker.
type GroupConnections struct {
	Connections []struct {
		ClientID string `json:"clientId"`
		Address  string `json:"clientAddr"`
		Version  int    `json:"version"`
	} `json:"connectionSet"`
	// ConsumeType is CONSUME_PASSIVELY (push), CONSUME_ACTIVELY (pull) or CONSUME_POP.
	ConsumeType string `json:"consumeType"`
}

// GroupConnections asks the broker who is online in group; nobody is an empty answer.
func (c *Client) GroupConnections(ctx context.Context, address, group string) (*GroupConnections, error) {
	answer, err := c.Invoke(ctx, address, &Command{Code: reqConsumerConnections, Fields: map[string]string{"consumerGroup": group}})
	if code, ok := CodeOf(err); ok && code == CodeConsumerNotOnline {
		return &GroupConnections{}, nil
	}
	if err != nil {
		return nil, err
	}
	var g GroupConnections
	if err := unmarshalLoose(answer.Body, &g); err != nil {
		return nil, frameErrorf("connections of %q: %v", group, err)
	}
	return &g, nil
}
