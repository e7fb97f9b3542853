// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxTopicBytes is RocketMQ's limit for the name of a topic, its namespace prefix included.
	MaxTopicBytes = 127
	// MaxPropertyBytes bounds properties, id, tag and keys as RocketMQ writes them. Its own limit is 32,767 for what is stored; the
	// rest is for what brokers add on a retry and for the reason in a dead-letter message, which would otherwise fail to be stored.
	MaxPropertyBytes = 30 << 10
	// MaxIDBytes bounds a message id.
	MaxIDBytes = 255
)

// ValidateMessage checks m against the rules of RocketMQ that brokers enforce late, badly or by dropping data in silence. maxBytes bounds
// m.Bytes(); 0 = no limit. The error is an *Error with reason InvalidMessage whose Field is relative to the message: "topic", "id", "tag",
// "keys[2]", "sharding_key", "body", "delay", "deliver_at", "properties" or "properties[NAME]".
func ValidateMessage(m *Message, maxBytes int) error {
	if m == nil {
		return Errorf(InvalidMessage, "", "the message is missing")
	}
	if err := ValidateTopic(m.Topic); err != nil {
		return err
	}
	for _, check := range []func(*Message) error{validateID, validateTag, validateKeys, validateShardingKey, validateProperties, validateWhen} {
		if err := check(m); err != nil {
			return err
		}
	}
	if len(m.Body) == 0 {
		return Errorf(InvalidMessage, "body", "the body is empty; RocketMQ refuses messages without a body: send at least one byte")
	}
	if size := m.Bytes(); maxBytes > 0 && size > int64(maxBytes) {
		return Errorf(InvalidMessage, "body", "the message has %d bytes (body, properties, keys, sharding key, tag and id together), the limit is %d", size, maxBytes)
	}
	return nil
}

// ValidateTopic checks the name of a topic that applications send to.
func ValidateTopic(topic string) error {
	switch {
	case topic == "":
		return Errorf(InvalidMessage, "topic", "the topic is empty")
	case len(topic) > MaxTopicBytes:
		return Errorf(InvalidMessage, "topic", "the topic has %d bytes, RocketMQ takes at most %d", len(topic), MaxTopicBytes)
	case strings.HasPrefix(topic, "%RETRY%"):
		return Errorf(InvalidMessage, "topic", "%q is a retry topic, which only RocketMQ itself writes", topic)
	}
	if strings.ContainsFunc(topic, badNameRune) {
		return Errorf(InvalidMessage, "topic", "%q has a character that RocketMQ does not take: use a-z, A-Z, 0-9, %%, |, - and _", topic)
	}
	return nil
}

// badNameRune finds what names of topics and groups must not contain.
func badNameRune(c rune) bool {
	return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '%' || c == '|' || c == '-' || c == '_')
}

func validateID(m *Message) error {
	if len(m.ID) > MaxIDBytes {
		return Errorf(InvalidMessage, "id", "the id has %d bytes, the limit is %d", len(m.ID), MaxIDBytes)
	}
	return validateWord("id", m.ID)
}

// validateTag refuses what no filter expression can name: filters are split at "||" and trimmed.
func validateTag(m *Message) error {
	if m.Tag == "" {
		return nil
	}
	if strings.Contains(m.Tag, "|") {
		return Errorf(InvalidMessage, "tag", "%q contains |, which separates tags in a filter", m.Tag)
	}
	if strings.TrimSpace(m.Tag) != m.Tag {
		return Errorf(InvalidMessage, "tag", "%q starts or ends with a blank, so no filter can match it", m.Tag)
	}
	return validateText("tag", m.Tag)
}

// validateKeys refuses blanks: RocketMQ stores all keys in one string, separated by blanks.
func validateKeys(m *Message) error {
	for i, key := range m.Keys {
		if key == "" {
			return Errorf(InvalidMessage, keyField(i), "the key is empty")
		}
		if err := validateWord(keyField(i), key); err != nil {
			return err
		}
	}
	return nil
}

func keyField(i int) string { return "keys[" + strconv.Itoa(i) + "]" }

func validateProperties(m *Message) error {
	size := len(m.ID) + len(m.Tag) + len(PropertyID) + len(PropertyTag) + len(PropertyKeys) + 6
	if m.ShardingKey != "" {
		size += len(PropertyShardingKey) + len(m.ShardingKey) + 2
	}
	for _, key := range m.Keys {
		size += len(key) + 1
	}
	var firstBad string
	for name, value := range m.Properties {
		size += len(name) + len(value) + 2
		if propertyError(name, value) != nil && (firstBad == "" || name < firstBad) {
			firstBad = name
		}
	}
	if bad, found := m.Properties[firstBad]; found {
		if err := propertyError(firstBad, bad); err != nil {
			return err
		}
	}
	if size > MaxPropertyBytes {
		return Errorf(InvalidMessage, "properties", "properties, keys, sharding key, tag and id have %d bytes, the limit is %d; put large data into the body", size, MaxPropertyBytes)
	}
	return nil
}

func propertyError(name, value string) error {
	var problem string
	switch {
	case name == "":
		return Errorf(InvalidMessage, "properties", "a property has an empty name")
	case name == PropertyTag:
		problem = "the name belongs to RocketMQ; set the message's tag instead"
	case name == PropertyKeys:
		problem = "the name belongs to RocketMQ; set the message's keys instead"
	case name == PropertyShardingKey:
		problem = "the name belongs to RocketMQ; set the message's sharding_key instead"
	case name == PropertyID:
		problem = "the name belongs to RocketMQ; set the message's id instead"
	case ReservedProperty(name):
		problem = "the name belongs to RocketMQ; choose another one"
	case value == "":
		problem = "the value is empty; RocketMQ drops such a property without a word: leave it out"
	default:
		if problem = storedProblem(name); problem == "" {
			problem = storedProblem(value)
		}
	}
	if problem == "" {
		return nil
	}
	return Errorf(InvalidMessage, "properties["+name+"]", "%s", problem)
}

// storedProblem finds what would not come back as it was: 0x01 and 0x02 separate names and values on the wire, and brokers replace
// what is not UTF-8. The empty string means that the text is fine.
func storedProblem(text string) string {
	if i := strings.IndexAny(text, "\x00\x01\x02"); i >= 0 {
		return "byte " + strconv.Itoa(i) + " is 0x0" + strconv.Itoa(int(text[i])) + ", which RocketMQ uses as a separator"
	}
	if !utf8.ValidString(text) {
		return "the text is not valid UTF-8; encode binary data, for example as base64"
	}
	return ""
}

// plain reports whether text is of visible ASCII only, with which nothing is wrong: nearly every id, tag and key, and each is looked at with every message.
func plain(text string) bool {
	for i := range len(text) {
		if text[i] <= ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

func validateText(field, text string) error {
	if plain(text) {
		return nil
	}
	if problem := storedProblem(text); problem != "" {
		return Errorf(InvalidMessage, field, "%s", problem)
	}
	if strings.ContainsFunc(text, unicode.IsControl) {
		return Errorf(InvalidMessage, field, "%q contains a control character", text)
	}
	return nil
}

func validateWord(field, text string) error {
	if plain(text) {
		return nil
	}
	if err := validateText(field, text); err != nil {
		return err
	}
	if strings.ContainsFunc(text, unicode.IsSpace) {
		return Errorf(InvalidMessage, field, "%q contains a blank, which RocketMQ uses as a separator", text)
	}
	return nil
}
