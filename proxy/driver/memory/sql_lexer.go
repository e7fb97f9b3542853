// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"fmt"
	"strings"
)

// tokenKind is what a piece of a filter is.
type tokenKind int

const (
	endToken tokenKind = iota
	wordToken
	stringToken
	numberToken
	symbolToken
)

// token is a piece of a filter. text of a string is its value; upper is the word in capitals, for keywords.
type token struct {
	kind        tokenKind
	text, upper string
	// at is its first character, from 1, for error texts.
	at int
}

func (t token) String() string {
	if t.kind == endToken {
		return "the end"
	}
	return fmt.Sprintf("%q at character %d", t.text, t.at)
}

// lex cuts a filter into tokens; the last is an endToken.
func lex(text string) ([]token, error) {
	var tokens []token
	for i := 0; ; {
		for i < len(text) && strings.IndexByte(" \t\r\n", text[i]) >= 0 {
			i++
		}
		if i == len(text) {
			return append(tokens, token{kind: endToken, at: i + 1}), nil
		}
		t, length, err := lexOne(text[i:], i+1)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, t)
		i += length
	}
}

func lexOne(rest string, at int) (token, int, error) {
	switch c := rest[0]; {
	case c == '\'':
		return lexString(rest, at)
	case isDigit(c) || c == '.':
		n := numberLength(rest)
		return token{kind: numberToken, text: rest[:n], at: at}, n, nil
	case isNameStart(c):
		n := 1
		for n < len(rest) && (isNameStart(rest[n]) || isDigit(rest[n])) {
			n++
		}
		return token{kind: wordToken, text: rest[:n], upper: strings.ToUpper(rest[:n]), at: at}, n, nil
	}
	for _, symbol := range []string{"<>", "<=", ">=", "=", "<", ">", "(", ")", ",", "-", "+"} {
		if strings.HasPrefix(rest, symbol) {
			return token{kind: symbolToken, text: symbol, at: at}, len(symbol), nil
		}
	}
	return token{}, 0, fmt.Errorf("character %d, %q, has no meaning here", at, rest[:1])
}

// lexString reads a quoted string; two quotes in it mean one.
func lexString(rest string, at int) (token, int, error) {
	var value strings.Builder
	for i := 1; i < len(rest); i++ {
		if rest[i] != '\'' {
			value.WriteByte(rest[i])
			continue
		}
		if i+1 == len(rest) || rest[i+1] != '\'' {
			return token{kind: stringToken, text: value.String(), at: at}, i + 1, nil
		}
		value.WriteByte('\'')
		i++
	}
	return token{}, 0, fmt.Errorf("the string that starts at character %d has no end", at)
}

// numberLength takes in digits, one point and an exponent; whether that is a number is decided later.
func numberLength(rest string) int {
	n := 0
	for n < len(rest) {
		c := rest[n]
		sign := n > 0 && (c == '-' || c == '+') && (rest[n-1] == 'e' || rest[n-1] == 'E')
		if !isDigit(c) && c != '.' && c != 'e' && c != 'E' && !sign {
			break
		}
		n++
	}
	return n
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isNameStart(c byte) bool {
	return c == '_' || c == '$' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}
