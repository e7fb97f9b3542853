// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"math"
	"strings"
)

// parseHeader reads a JSON header in the form in which brokers and name servers write it: no white space, no escapes, plain ASCII, small numbers, no names
// but the known ones. It is on the way of every answer, and encoding/json costs ten times as much. nil: it is anything else, right or wrong, and
// encoding/json has to judge. Whatever this accepts means the same to encoding/json (FuzzHeader).
func parseHeader(data []byte) *Command {
	s := headerScanner{text: string(data)} // the one copy that all values are parts of
	c := new(Command)
	if !s.take('{') {
		return nil
	}
	for more := true; more; more = s.take(',') {
		if !s.member(c) {
			return nil
		}
	}
	if !s.take('}') || s.text != "" {
		return nil
	}
	return c
}

// headerScanner takes tokens off the front of text. Each method reports whether the token was there.
type headerScanner struct{ text string }

func (s *headerScanner) take(c byte) bool {
	if s.text == "" || s.text[0] != c {
		return false
	}
	s.text = s.text[1:]
	return true
}

func (s *headerScanner) word(w string) bool {
	rest, ok := strings.CutPrefix(s.text, w)
	s.text = rest
	return ok
}

// member reads one name and value of the header into c.
func (s *headerScanner) member(c *Command) bool {
	name, ok := s.quoted()
	if !ok || !s.take(':') {
		return false
	}
	switch name {
	case "code":
		return s.number(&c.Code)
	case "version":
		return s.number(&c.Version)
	case "flag":
		return s.number(&c.Flag)
	case "opaque":
		opaque := 0
		ok = s.number(&opaque)
		c.Opaque = int32(opaque)
		return ok && opaque >= math.MinInt32 && opaque <= math.MaxInt32
	case "remark":
		return s.textOrNull(&c.Remark)
	case "extFields":
		return s.fields(c)
	case "language", "serializeTypeCurrentRPC":
		var unused string
		return s.textOrNull(&unused)
	}
	return false
}

func (s *headerScanner) fields(c *Command) bool {
	if s.word("null") {
		c.Fields = nil
		return true
	}
	if !s.take('{') {
		return false
	}
	if c.Fields == nil {
		c.Fields = make(map[string]string, 8)
	}
	if s.take('}') {
		return true
	}
	for {
		name, ok := s.quoted()
		if !ok || !s.take(':') {
			return false
		}
		var value string
		if !s.textOrNull(&value) {
			return false
		}
		c.Fields[name] = value
		if !s.take(',') {
			return s.take('}')
		}
	}
}

// textOrNull leaves *into as it is for null, as encoding/json does.
func (s *headerScanner) textOrNull(into *string) bool {
	if s.word("null") {
		return true
	}
	text, ok := s.quoted()
	*into = text
	return ok
}

func (s *headerScanner) quoted() (string, bool) {
	if !s.take('"') {
		return "", false
	}
	for i := range len(s.text) {
		switch b := s.text[i]; {
		case b == '"':
			text := s.text[:i]
			s.text = s.text[i+1:]
			return text, true
		case b == '\\' || b < 0x20 || b >= 0x80:
			return "", false
		}
	}
	return "", false
}

// number takes up to 10 digits, so that nothing overflows.
func (s *headerScanner) number(into *int) bool {
	negative := s.take('-')
	n, i := 0, 0
	for i < len(s.text) && s.text[i] >= '0' && s.text[i] <= '9' {
		n = 10*n + int(s.text[i]-'0')
		i++
	}
	if i == 0 || i > 10 || i > 1 && s.text[0] == '0' {
		return false
	}
	s.text = s.text[i:]
	if negative {
		n = -n
	}
	*into = n
	return true
}
