// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// truth is SQL's three-valued logic.
type truth int

const (
	no truth = iota
	unknown
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// condition is a part of a filter that is true, false or unknown for a message.
type condition interface{ eval(m *driver.Message) truth }

type (
	constant bool
	negation struct{ inner condition }
	both     struct{ left, right condition }
	either   struct{ left, right condition }
	isNull   struct{ property string }
	// membership is IN.
	membership struct {
		property string
		values   map[string]bool
	}
)

func (c constant) eval(*driver.Message) truth   { return truthOf(bool(c)) }
func (n negation) eval(m *driver.Message) truth { return yes - n.inner.eval(m) }
func (b both) eval(m *driver.Message) truth     { return min(b.left.eval(m), b.right.eval(m)) }
func (e either) eval(m *driver.Message) truth   { return max(e.left.eval(m), e.right.eval(m)) }

func (i isNull) eval(m *driver.Message) truth {
	_, found := property(m, i.property)
	return truthOf(!found)
}

func (s membership) eval(m *driver.Message) truth {
	value, found := property(m, s.property)
	if !found {
		return unknown
	}
	return truthOf(s.values[value])
}

func property(m *driver.Message, name string) (string, bool) {
	switch name {
	case driver.PropertyTag:
		return m.Tag, m.Tag != ""
	case driver.PropertyKeys:
		return strings.Join(m.Keys, " "), len(m.Keys) > 0
	case driver.PropertyID:
		return m.ID, m.ID != ""
	}
	value, found := m.Properties[name]
	return value, found
}

type operandKind int

const (
	propertyOperand operandKind = iota
	stringOperand
	numberOperand
	boolOperand
)

// operand is one side of a comparison. text is a property's name, a string's value or what was written.
type operand struct {
	kind   operandKind
	text   string
	number number
	truth  bool
}

// comparison is "left operator right"; as is what the property side is read as.
type comparison struct {
	left, right operand
	operator    string
	as          operandKind
}

// newComparison refuses what can never be true for any message, as RocketMQ does.
func newComparison(left operand, operator string, right operand) (condition, error) {
	c := comparison{left: left, right: right, operator: operator, as: max(left.kind, right.kind)}
	ordered := operator != "=" && operator != "<>"
	if left.kind != propertyOperand && right.kind != propertyOperand && left.kind != right.kind {
		return nil, fmt.Errorf("%s and %s are of different kinds and cannot be compared", left.text, right.text)
	}
	if ordered && (c.as == stringOperand || c.as == boolOperand) {
		return nil, fmt.Errorf("%q compares numbers, not %s and %s", operator, left.text, right.text)
	}
	if c.as == propertyOperand { // two properties
		c.as = stringOperand
		if ordered {
			c.as = numberOperand
		}
	}
	return c, nil
}

func (c comparison) eval(m *driver.Message) truth {
	left, ok := c.left.value(m, c.as)
	if !ok {
		return unknown
	}
	right, ok := c.right.value(m, c.as)
	if !ok {
		return unknown
	}
	order := left.compare(right, c.as)
	switch c.operator {
	case "=":
		return truthOf(order == 0)
	case "<>":
		return truthOf(order != 0)
	case "<":
		return truthOf(order < 0)
	case ">":
		return truthOf(order > 0)
	case "<=":
		return truthOf(order <= 0)
	default:
		return truthOf(order >= 0)
	}
}

// value resolves a property and reads it as the kind that the comparison needs.
func (o operand) value(m *driver.Message, as operandKind) (operand, bool) {
	if o.kind != propertyOperand {
		return o, true
	}
	text, found := property(m, o.text)
	if !found {
		return operand{}, false
	}
	switch as {
	case numberOperand:
		n, ok := parseNumber(text)
		return operand{number: n}, ok
	case boolOperand:
		truth := strings.EqualFold(text, "true")
		return operand{truth: truth}, truth || strings.EqualFold(text, "false")
	default:
		return operand{text: text}, true
	}
}

func (o operand) compare(other operand, as operandKind) int {
	switch as {
	case numberOperand:
		return o.number.compare(other.number)
	case boolOperand:
		if o.truth == other.truth {
			return 0
		}
		return 1
	default:
		return strings.Compare(o.text, other.text)
	}
}

// number keeps whole numbers whole, so that large ids compare exactly.
type number struct {
	whole    int64
	isWhole  bool
	fraction float64
}

func parseNumber(text string) (number, bool) {
	for i := range len(text) {
		if !isDigit(text[i]) && strings.IndexByte(".eE+-", text[i]) < 0 {
			return number{}, false
		}
	}
	if whole, err := strconv.ParseInt(text, 10, 64); err == nil {
		return number{whole: whole, isWhole: true, fraction: float64(whole)}, true
	}
	fraction, err := strconv.ParseFloat(text, 64)
	return number{fraction: fraction}, err == nil
}

func (n number) compare(other number) int {
	if n.isWhole && other.isWhole {
		return cmp.Compare(n.whole, other.whole)
	}
	return cmp.Compare(n.fraction, other.fraction)
}
