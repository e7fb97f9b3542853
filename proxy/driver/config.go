// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// MaxGroupBytes bounds a group's name: "%RETRY%" and a namespace come before it in the name of its retry topic, which is a topic.
const MaxGroupBytes = 120

// Validate finds what can never work in a producer's configuration; the error is an *Error with reason Invalid and the field's name.
func (c *ProducerConfig) Validate() error {
	if err := validateCommon(&c.Connection, c.Group); err != nil {
		return err
	}
	if len(c.Topics) == 0 {
		return Errorf(Invalid, "topics", "name at least one topic")
	}
	for i, topic := range c.Topics {
		if err := configTopic("topics["+strconv.Itoa(i)+"]", topic); err != nil {
			return err
		}
	}
	return nil
}

// Validate finds what can never work in a consumer's configuration, but for the text of SQL filters, which the broker judges; the error is an *Error
// with reason Invalid and the field's name.
func (c *ConsumerConfig) Validate() error {
	if err := validateCommon(&c.Connection, c.Group); err != nil {
		return err
	}
	if len(c.Subscriptions) == 0 {
		return Errorf(Invalid, "subscriptions", "name at least one topic")
	}
	if err := c.validateStart(); err != nil {
		return err
	}
	seen := make(map[string]bool, len(c.Subscriptions))
	for i, s := range c.Subscriptions {
		field := "subscriptions[" + strconv.Itoa(i) + "]"
		if err := configTopic(field+".topic", s.Topic); err != nil {
			return err
		}
		if seen[s.Topic] {
			return Errorf(Invalid, field+".topic", "topic %q is subscribed twice; join the filters into one", s.Topic)
		}
		seen[s.Topic] = true
		if s.Tag != "" && s.SQL != "" {
			return Errorf(Invalid, field+".filter", "tag and sql are both set; choose one")
		}
		if _, err := ParseTags(s.Tag); err != nil {
			return Errorf(Invalid, field+".filter.tag", "%w", err)
		}
	}
	return nil
}

func (c *ConsumerConfig) validateStart() error {
	switch c.StartFrom {
	case Latest, Earliest:
		if !c.StartTime.IsZero() {
			return Errorf(Invalid, "startTime", "it is set and startFrom is %s; it belongs to Timestamp only", c.StartFrom)
		}
	case Timestamp:
		if c.StartTime.IsZero() {
			return Errorf(Invalid, "startTime", "startFrom is Timestamp and startTime is missing")
		}
		if ms := c.StartTime.UnixMilli(); ms < 0 || c.StartTime.Year() > 9999 {
			return Errorf(Invalid, "startTime", "the time %s is out of range", c.StartTime.UTC().Format(time.RFC3339))
		}
	default:
		return Errorf(Invalid, "startFrom", "%q is none of Latest, Earliest and Timestamp", c.StartFrom)
	}
	return nil
}

// ParseTags reads a tag filter, "a || b": the tags that pass, nil = all. Drivers compare what brokers send with it once more, because brokers compare
// hashes and "Aa" has that of "BB".
func ParseTags(filter string) ([]string, error) {
	if filter = strings.TrimSpace(filter); filter == "" || filter == "*" {
		return nil, nil
	}
	var tags []string
	for tag := range strings.SplitSeq(filter, "||") {
		switch tag = strings.TrimSpace(tag); {
		case tag == "":
			return nil, fmt.Errorf("%q has an empty tag; write tags as \"a || b\"", filter)
		case tag == "*":
			return nil, fmt.Errorf("%q mixes * with tags; * stands alone and means everything", filter)
		case strings.Contains(tag, "|"):
			return nil, fmt.Errorf("%q has a single |; tags are separated by ||", filter)
		}
		tags = append(tags, tag)
	}
	return tags, nil
}

func validateCommon(c *Connection, group string) error {
	if c.AllowAddress == nil {
		return Errorf(Invalid, "connection", "AllowAddress is nil; it must decide about each address")
	}
	for i, address := range c.NameServers {
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			return Errorf(Invalid, "connection.nameServers["+strconv.Itoa(i)+"]", "%q is not host:port", address)
		}
	}
	if _, err := c.TLS.Config(); err != nil {
		return err
	}
	switch {
	case group == "":
		return Errorf(Invalid, "group", "the group is empty")
	case len(group) > MaxGroupBytes:
		return Errorf(Invalid, "group", "the group has %d bytes, RocketMQ takes at most %d", len(group), MaxGroupBytes)
	case strings.ContainsFunc(group, badNameRune):
		return Errorf(Invalid, "group", "%q has a character that RocketMQ does not take: use a-z, A-Z, 0-9, %%, |, - and _", group)
	}
	return nil
}

func configTopic(field, topic string) error {
	switch {
	case topic == "":
		return Errorf(Invalid, field, "the topic is empty")
	case len(topic) > MaxTopicBytes:
		return Errorf(Invalid, field, "the topic has %d bytes, RocketMQ takes at most %d", len(topic), MaxTopicBytes)
	case strings.ContainsFunc(topic, badNameRune):
		return Errorf(Invalid, field, "%q has a character that RocketMQ does not take: use a-z, A-Z, 0-9, %%, |, - and _", topic)
	}
	return nil
}
