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

// truth is SQL's three-valued logic, and a fourth value: broken is a comparison that RocketMQ cannot make, because a property is not a number of the kind
// that it is compared with. There it ends the whole filter without a match, but for what an AND or OR has decided before it comes to it.
type truth int

const (
	no truth = iota
	unknown
	yes
	broken
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

func (c constant) eval(*driver.Message) truth { return truthOf(bool(c)) }

func (n negation) eval(m *driver.Message) truth {
	if t := n.inner.eval(m); t != broken {
		return yes - t
	}
	return broken
}

func (b both) eval(m *driver.Message) truth {
	left := b.left.eval(m)
	if left == no || left == broken {
		return left
	}
	if right := b.right.eval(m); right != broken {
		return min(left, right)
	}
	return broken
}

func (e either) eval(m *driver.Message) truth {
	left := e.left.eval(m)
	if left == yes || left == broken {
		return left
	}
	return max(left, e.right.eval(m))
}

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

// comparison is "left operator right"; as is what the property side is read as, and like the number that a number must resemble.
type comparison struct {
	left, right operand
	operator    string
	as          operandKind
	like        number
}

// newComparison refuses what can never be true for any message, as RocketMQ does.
func newComparison(left operand, operator string, right operand) (condition, error) {
	c := comparison{left: left, right: right, operator: operator, as: max(left.kind, right.kind)}
	for _, o := range []operand{left, right} {
		if o.kind == numberOperand {
			c.like = o.number
		}
	}
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
	left, is := c.left.value(m, c.as, c.like)
	if is != yes {
		return is
	}
	right, is := c.right.value(m, c.as, c.like)
	if is != yes {
		return is
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

// value resolves a property and reads it as the kind that the comparison needs: yes when it is there, unknown when it is missing, broken when it is no
// number like the one it is compared with. What is not TRUE is FALSE, as in RocketMQ.
func (o operand) value(m *driver.Message, as operandKind, like number) (operand, truth) {
	if o.kind != propertyOperand {
		return o, yes
	}
	text, found := property(m, o.text)
	if !found {
		return operand{}, unknown
	}
	switch as {
	case numberOperand:
		n, ok := like.read(text)
		if !ok {
			return operand{}, broken
		}
		return operand{number: n}, yes
	case boolOperand:
		return operand{truth: strings.EqualFold(text, "true")}, yes
	default:
		return operand{text: text}, yes
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

// read reads a property that is compared with n. RocketMQ takes the written number's type: compared with a whole number of 32 bits the property must be one
// too, and likewise with one of 64 bits; compared with a decimal it may be any number.
func (n number) read(text string) (number, bool) {
	bits := 64
	if n.whole == int64(int32(n.whole)) {
		bits = 32
	}
	if n.isWhole {
		whole, err := strconv.ParseInt(text, 10, bits)
		return number{whole: whole, isWhole: true, fraction: float64(whole)}, err == nil
	}
	return parseNumber(text)
}

func (n number) compare(other number) int {
	if n.isWhole && other.isWhole {
		return cmp.Compare(n.whole, other.whole)
	}
	return cmp.Compare(n.fraction, other.fraction)
}
