// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/json"
	"fmt"
)

// maxJSONDepth bounds the nesting of what a peer may send; real answers have six levels.
const maxJSONDepth = 32

// unmarshalLoose decodes JSON as RocketMQ's servers write it: keys of objects may be bare numbers ({0:"10.0.0.1:10911"}) or whole objects
// ({{"queueId":0}:{...}}). A bare number becomes the same number quoted, an object as a key its own text as a string.
func unmarshalLoose(data []byte, into any) error {
	strict, err := strictJSON(data)
	if err != nil {
		return err
	}
	return json.Unmarshal(strict, into)
}

// strictJSON rewrites the keys and copies everything else; what is wrong in other ways is left for encoding/json to say.
func strictJSON(data []byte) ([]byte, error) {
	s := looseScanner{in: data, out: make([]byte, 0, len(data)+len(data)/8)}
	for s.at < len(s.in) {
		if err := s.step(); err != nil {
			return nil, err
		}
	}
	return s.out, nil
}

type looseScanner struct {
	in, out []byte
	at      int
	// open is the stack of brackets; key says that the next token is a key of the object on top.
	open []byte
	key  bool
}

func (s *looseScanner) step() error {
	c := s.in[s.at]
	switch {
	case c == ' ' || c == '\t' || c == '\n' || c == '\r':
		s.copy(1)
	case c == '"':
		s.copy(stringLength(s.in[s.at:]))
		s.key = false
	case s.key && c == '{':
		return s.objectKey()
	case s.key && (c == '-' || c >= '0' && c <= '9'):
		s.numberKey()
	case c == '{' || c == '[':
		if len(s.open) >= maxJSONDepth {
			return fmt.Errorf("JSON is nested deeper than %d levels", maxJSONDepth)
		}
		s.open = append(s.open, c)
		s.key = c == '{'
		s.copy(1)
	case c == '}' || c == ']':
		if len(s.open) > 0 {
			s.open = s.open[:len(s.open)-1]
		}
		s.key = false
		s.copy(1)
	default:
		if c == ',' {
			s.key = len(s.open) > 0 && s.open[len(s.open)-1] == '{'
		}
		s.copy(1)
	}
	return nil
}

func (s *looseScanner) copy(n int) {
	s.out = append(s.out, s.in[s.at:s.at+n]...)
	s.at += n
}

func (s *looseScanner) numberKey() {
	s.out = append(s.out, '"')
	for s.at < len(s.in) && (s.in[s.at] == '-' || s.in[s.at] >= '0' && s.in[s.at] <= '9') {
		s.copy(1)
	}
	s.out = append(s.out, '"')
	s.key = false
}

// objectKey turns the object that begins here into a string.
func (s *looseScanner) objectKey() error {
	depth, from := 0, s.at
	for s.at < len(s.in) {
		switch s.in[s.at] {
		case '"':
			s.at += stringLength(s.in[s.at:])
			continue
		case '{':
			depth++
		case '}':
			depth--
		}
		s.at++
		if depth == 0 {
			quoted, err := json.Marshal(string(s.in[from:s.at]))
			if err != nil {
				return err
			}
			s.out = append(s.out, quoted...)
			s.key = false
			return nil
		}
	}
	return fmt.Errorf("JSON ends inside an object that is a key")
}

// stringLength is the length of the string literal at the start of text, quotes included, or of all of text when it does not end.
func stringLength(text []byte) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(text)
}
