// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"fmt"
	"slices"
)

// The filter language is the part of SQL92 that RocketMQ's users write: comparisons (= <> < > <= >=) of properties with strings, numbers, TRUE and
// FALSE; BETWEEN with numbers; IN with strings; IS [NOT] NULL; NOT, AND, OR and parentheses. TAGS and KEYS are properties as well. Properties
// are text: compared with a number they must be one of its kind (number.read). A comparison with a property that is not there is unknown; a
// message passes only when the whole is true. As in RocketMQ strings have no order, so < 'x' does not parse; and NOT is applied before comparisons, so that
// it needs parentheses.

// Bounds of a filter, so that a hostile one costs nothing.
const (
	maxSQLBytes = 16 << 10
	maxSQLDepth = 64
)

// parser reads tokens from left to right; each method leaves it after what it read.
type parser struct {
	tokens []token
	next   int
	depth  int
}

// parseSQL compiles a filter; the error's text says where it does not parse.
func parseSQL(text string) (condition, error) {
	if len(text) > maxSQLBytes {
		return nil, fmt.Errorf("the filter has %d bytes, the limit is %d", len(text), maxSQLBytes)
	}
	tokens, err := lex(text)
	if err != nil {
		return nil, err
	}
	p := &parser{tokens: tokens}
	where, err := p.or()
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.kind != endToken {
		return nil, fmt.Errorf("expected AND, OR or the end, found %v", t)
	}
	return where, nil
}

func (p *parser) peek() token { return p.tokens[p.next] }

func (p *parser) take() token {
	t := p.tokens[p.next]
	if t.kind != endToken {
		p.next++
	}
	return t
}

// word takes the next token if it is one of the keywords.
func (p *parser) word(keywords ...string) bool {
	if t := p.peek(); t.kind != wordToken || !slices.Contains(keywords, t.upper) {
		return false
	}
	p.next++
	return true
}

func (p *parser) symbol(text string) bool {
	if t := p.peek(); t.kind != symbolToken || t.text != text {
		return false
	}
	p.next++
	return true
}

func (p *parser) expect(text string) error {
	if !p.symbol(text) {
		return fmt.Errorf("expected %q, found %v", text, p.peek())
	}
	return nil
}

func (p *parser) or() (condition, error) {
	left, err := p.and()
	for err == nil && p.word("OR") {
		var right condition
		right, err = p.and()
		left = either{left, right}
	}
	return left, err
}

func (p *parser) and() (condition, error) {
	left, err := p.not()
	for err == nil && p.word("AND") {
		var right condition
		right, err = p.not()
		left = both{left, right}
	}
	return left, err
}

func (p *parser) not() (condition, error) {
	if p.depth++; p.depth > maxSQLDepth {
		return nil, fmt.Errorf("the filter is nested deeper than %d", maxSQLDepth)
	}
	defer func() { p.depth-- }()
	if p.word("NOT") {
		if t := p.peek(); t.kind != endToken && t.text != "(" && !slices.Contains([]string{"NOT", "TRUE", "FALSE"}, t.upper) {
			return nil, fmt.Errorf("expected ( after NOT, found %v: RocketMQ applies NOT before a comparison, so write NOT (n > 1)", t)
		}
		inner, err := p.not()
		return negation{inner}, err
	}
	if p.symbol("(") {
		inner, err := p.or()
		if err != nil {
			return nil, err
		}
		return inner, p.expect(")")
	}
	return p.predicate()
}

func (p *parser) predicate() (condition, error) {
	left, err := p.operand()
	if err != nil {
		return nil, err
	}
	t := p.peek()
	if t.kind == symbolToken && slices.Contains([]string{"=", "<>", "<", ">", "<=", ">="}, t.text) {
		p.next++
		right, err := p.operand()
		if err != nil {
			return nil, err
		}
		return newComparison(left, t.text, right)
	}
	if left.kind == boolOperand {
		return constant(left.truth), nil
	}
	if left.kind != propertyOperand {
		return nil, fmt.Errorf("expected a comparison, found %v", t)
	}
	if p.word("IS") {
		negate := p.word("NOT")
		if !p.word("NULL") {
			return nil, fmt.Errorf("expected NULL, found %v", p.peek())
		}
		return negateIf(negate, isNull{left.text}), nil
	}
	negate := p.word("NOT")
	switch {
	case p.word("BETWEEN"):
		return p.between(left, negate)
	case p.word("IN"):
		return p.in(left, negate)
	}
	return nil, fmt.Errorf("expected a comparison, BETWEEN, IN or IS after %q, found %v", left.text, p.peek())
}

func negateIf(negate bool, c condition) condition {
	if negate {
		return negation{c}
	}
	return c
}

func (p *parser) between(left operand, negate bool) (condition, error) {
	low, err := p.operand()
	if err != nil {
		return nil, err
	}
	if !p.word("AND") {
		return nil, fmt.Errorf("expected the AND of BETWEEN, found %v", p.peek())
	}
	high, err := p.operand()
	if err != nil {
		return nil, err
	}
	if low.kind == numberOperand && high.kind == numberOperand && high.number.compare(low.number) < 0 {
		return nil, fmt.Errorf("BETWEEN %s AND %s: the left number must not be larger than the right one", low.text, high.text)
	}
	from, err := newComparison(left, ">=", low)
	if err != nil {
		return nil, err
	}
	to, err := newComparison(left, "<=", high)
	return negateIf(negate, both{from, to}), err
}

func (p *parser) in(left operand, negate bool) (condition, error) {
	if err := p.expect("("); err != nil {
		return nil, err
	}
	list := membership{property: left.text, values: map[string]bool{}}
	for {
		t := p.take()
		if t.kind != stringToken {
			return nil, fmt.Errorf("IN takes strings, found %v", t)
		}
		list.values[t.text] = true
		if !p.symbol(",") {
			return negateIf(negate, list), p.expect(")")
		}
	}
}

// keywords cannot be names of properties.
var keywords = []string{"AND", "OR", "NOT", "BETWEEN", "IN", "IS", "NULL"}

func (p *parser) operand() (operand, error) {
	sign := ""
	if p.symbol("-") {
		sign = "-"
	} else {
		p.symbol("+")
	}
	t := p.take()
	switch {
	case t.kind == numberToken:
		n, ok := parseNumber(sign + t.text)
		if !ok {
			return operand{}, fmt.Errorf("%v is not a number", t)
		}
		if !n.isWhole && n.fraction == 0 {
			return operand{}, fmt.Errorf("%v: RocketMQ takes no decimal zero, write 0, or a very small number such as 0.000001", t)
		}
		return operand{kind: numberOperand, number: n, text: sign + t.text}, nil
	case sign != "":
		return operand{}, fmt.Errorf("expected a number after the sign, found %v", t)
	case t.kind == stringToken:
		return operand{kind: stringOperand, text: t.text}, nil
	case t.kind == wordToken && (t.upper == "TRUE" || t.upper == "FALSE"):
		return operand{kind: boolOperand, truth: t.upper == "TRUE", text: t.text}, nil
	case t.kind == wordToken && !slices.Contains(keywords, t.upper):
		return operand{kind: propertyOperand, text: t.text}, nil
	}
	return operand{}, fmt.Errorf("expected a property or a value, found %v", t)
}
