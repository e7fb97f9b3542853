// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func goodConnection() Connection {
	return Connection{NameServers: []string{"rocketmq:9876", "[::1]:9876"}, AllowAddress: func(string) error { return nil }}
}

func TestConfigurationsThatCanWorkAreValid(t *testing.T) {
	p := ProducerConfig{Connection: goodConnection(), Group: "team-a_orders", Topics: []string{"orders", "%DLQ%x"}}
	c := ConsumerConfig{Connection: goodConnection(), Group: "g", StartFrom: Latest, Subscriptions: []Subscription{{Topic: "a", Tag: "x || y"}, {Topic: "b", SQL: "a >"}}}
	if err := errors.Join(p.Validate(), c.Validate()); err != nil {
		t.Error(err)
	}
}

func TestAnInvalidConfigurationNamesItsField(t *testing.T) {
	for _, c := range []struct {
		field string
		spoil func(*ProducerConfig, *ConsumerConfig)
	}{
		{"connection", func(p *ProducerConfig, c *ConsumerConfig) {
			p.Connection.AllowAddress, c.Connection.AllowAddress = nil, nil
		}},
		{"connection.nameServers[1]", func(p *ProducerConfig, c *ConsumerConfig) {
			p.Connection.NameServers[1], c.Connection.NameServers[1] = "host", ":9876"
		}},
		{"group", func(p *ProducerConfig, c *ConsumerConfig) { p.Group, c.Group = "", "a/b" }},
		{"group", func(p *ProducerConfig, c *ConsumerConfig) { p.Group, c.Group = strings.Repeat("g", 121), "größe" }},
		{"topics", func(p *ProducerConfig, c *ConsumerConfig) { p.Topics = nil }},
		{"topics[1]", func(p *ProducerConfig, c *ConsumerConfig) { p.Topics[1] = "" }},
		{"topics[0]", func(p *ProducerConfig, c *ConsumerConfig) { p.Topics[0] = strings.Repeat("t", 128) }},
		{"topics[0]", func(p *ProducerConfig, c *ConsumerConfig) { p.Topics[0] = "a b" }},
		{"subscriptions", func(p *ProducerConfig, c *ConsumerConfig) { c.Subscriptions = nil }},
		{"subscriptions[0].topic", func(p *ProducerConfig, c *ConsumerConfig) { c.Subscriptions[0].Topic = "" }},
		{"subscriptions[1].topic", func(p *ProducerConfig, c *ConsumerConfig) { c.Subscriptions[1].Topic = "a" }},
		{"subscriptions[1].filter", func(p *ProducerConfig, c *ConsumerConfig) {
			c.Subscriptions[1].Tag, c.Subscriptions[1].SQL = "x", "x = 1"
		}},
		{"subscriptions[1].filter.tag", func(p *ProducerConfig, c *ConsumerConfig) { c.Subscriptions[1].Tag = "x || " }},
		{"startFrom", func(p *ProducerConfig, c *ConsumerConfig) { c.StartFrom = "" }},
		{"startTime", func(p *ProducerConfig, c *ConsumerConfig) { c.StartFrom = Timestamp }},
		{"startTime", func(p *ProducerConfig, c *ConsumerConfig) { c.StartFrom, c.StartTime = Earliest, time.Now() }},
		{"startTime", func(p *ProducerConfig, c *ConsumerConfig) { c.StartFrom, c.StartTime = Timestamp, time.Unix(-1, 0) }},
	} {
		p := ProducerConfig{Connection: goodConnection(), Group: "g", Topics: []string{"a", "b"}}
		s := ConsumerConfig{Connection: goodConnection(), Group: "g", StartFrom: Earliest, Subscriptions: []Subscription{{Topic: "a"}, {Topic: "b"}}}
		c.spoil(&p, &s)
		bad := 0
		for _, err := range []error{p.Validate(), s.Validate()} {
			if err == nil {
				continue
			}
			bad++
			var e *Error
			if !errors.As(err, &e) || e.Reason != Invalid || e.Field != c.field {
				t.Errorf("want Invalid of %s, got %v", c.field, err)
			}
		}
		if both := strings.HasPrefix(c.field, "connection") || c.field == "group"; bad == 0 || both && bad != 2 {
			t.Errorf("%s: %d of the two configurations were refused", c.field, bad)
		}
	}
}

func TestParseTags(t *testing.T) {
	for filter, want := range map[string][]string{"": nil, " ": nil, "*": nil, "a": {"a"}, "a||b": {"a", "b"}, " a  ||  b c ": {"a", "b c"}} {
		if got, err := ParseTags(filter); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v", filter, got, err)
		}
	}
	for filter, text := range map[string]string{"||": "empty tag", "a ||": "empty tag", "a || *": "stands alone", "a | b": "single |", "a ||| b": "single |"} {
		if got, err := ParseTags(filter); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %q, %v", filter, got, err)
		}
	}
}

func TestTLSNeverPrintsItsKey(t *testing.T) {
	s := TLS{Enabled: true, CA: "ca-7", Certificate: "certificate-7", Key: "key-7", ServerName: "name"}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v", s, s, s), fmt.Sprintf("%v %+v %#v", Connection{TLS: s}, &Connection{TLS: s}, Connection{TLS: s})} {
		if strings.Contains(text, "key-7") || strings.Contains(text, "certificate-7") {
			t.Errorf("printed: %s", text)
		}
	}
	_, err := s.Config()
	if err == nil || strings.Contains(err.Error(), "-7") {
		t.Errorf("error: %v", err)
	}
}

func TestTLSTextThatCannotWorkNamesItsField(t *testing.T) {
	for _, c := range []struct {
		tls   TLS
		field string
	}{
		{TLS{CA: "no PEM"}, "connection.tls.ca"},
		{TLS{Certificate: "x"}, "connection.tls.key"},
		{TLS{Key: "x"}, "connection.tls.certificate"},
		{TLS{Certificate: "x", Key: "y"}, "connection.tls.certificate"},
	} {
		c.tls.Enabled = true
		p := ProducerConfig{Connection: goodConnection(), Group: "g", Topics: []string{"a"}}
		p.Connection.TLS = c.tls
		var e *Error
		if err := p.Validate(); !errors.As(err, &e) || e.Reason != Invalid || e.Field != c.field {
			t.Errorf("want Invalid of %s, got %v", c.field, err)
		}
	}
	if config, err := (TLS{CA: "no PEM"}).Config(); config != nil || err != nil {
		t.Errorf("TLS that is off: %v, %v", config, err)
	}
}
