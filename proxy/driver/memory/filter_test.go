// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"strings"
	"testing"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var sample = &driver.Message{
	ID: "id-1", Tag: "urgent", Keys: []string{"k1", "k2"},
	Properties: map[string]string{
		"n": "7", "neg": "-3", "f": "2.5", "big": "9007199254740993", "name": "O'Hara", "flag": "TRUE", "text": "seven", "größe": "groß", "_x$1": "y",
	},
}

func TestSQLFilters(t *testing.T) {
	for _, c := range []struct {
		sql  string
		want bool
	}{
		{"n = 7", true}, {"n=7.0", true}, {"n <> 7", false}, {"n < 8", true}, {"n > 7", false}, {"n >= 7", true}, {"n <= 6.9", false},
		{"7 = n", true}, {"8 > n", true}, {"neg = -3", true}, {"neg < - 2", true}, {"f > +2.4", true}, {"n = 7e0", true},
		{"big = 9007199254740993", true}, {"big = 9007199254740992", false}, {"big > 9007199254740992", true},
		{"n = '7'", true}, {"n = '07'", false}, {"name = 'O''Hara'", true}, {"name <> 'x'", true}, {"text = 'seven'", true}, {"größe = 'groß'", true}, {"_x$1 = 'y'", true},
		{"flag = TRUE", true}, {"flag = false", false}, {"flag <> FALSE", true}, {"TRUE", true}, {"FALSE OR n = 7", true}, {"1 = 1", true}, {"'a' = 'b'", false},
		{"n BETWEEN 7 AND 7", true}, {"n BETWEEN 8 AND 9", false}, {"n NOT BETWEEN 8 AND 9", true}, {"n BETWEEN -1 AND 10 AND f = 2.5", true},
		{"text IN ('six', 'seven')", true}, {"text IN ('six')", false}, {"text NOT IN ('six')", true},
		{"missing IS NULL", true}, {"n IS NULL", false}, {"n IS NOT NULL", true}, {"missing IS NOT NULL", false},
		// What is unknown is neither true nor false.
		{"missing = 1", false}, {"NOT (missing = 1)", false}, {"missing <> 1", false}, {"NOT (missing IN ('a'))", false}, {"missing BETWEEN 1 AND 2", false},
		{"missing = 1 OR n = 7", true}, {"missing = 1 AND n = 7", false}, {"NOT (missing = 1 AND n = 8)", true}, {"text > 1", false}, {"NOT (text > 1)", false},
		{"flag > 0", false}, {"text = TRUE", false}, {"text = FALSE", true}, {"missing = FALSE", false},
		// A property that is no number of the kind it is compared with ends the filter, unless AND or OR was decided before.
		{"f > 2", false}, {"f > 2.0", true}, {"NOT (f > 9)", false}, {"big > 7", false}, {"big > 7.0", true}, {"f > 1 OR n = 7", false}, {"n = 7 OR f > 1", true},
		{"f > 1 AND n = 8", false}, {"NOT (n = 8 AND f > 1)", true}, {"NOT (f > 1 AND n = 8)", false}, {"n BETWEEN 2147483647 AND 2147483648", false}, {"missing > 1 AND f > 1", false},
		// AND binds stronger than OR, NOT stronger than both.
		{"n = 7 OR n = 8 AND n = 9", true}, {"(n = 7 OR n = 8) AND n = 9", false}, {"NOT (n = 8) AND n = 7", true}, {"NOT (n = 8 OR n = 7)", false}, {"NOT NOT (n = 7)", true}, {"NOT FALSE", true},
		{"TAGS = 'urgent'", true}, {"TAGS IS NOT NULL AND TAGS IN ('a', 'urgent')", true}, {"KEYS = 'k1 k2'", true}, {"UNIQ_KEY = 'id-1'", true},
		{"n = big", false}, {"n < big", true}, {"text < name", false}, {"n = n", true},
		{"\tn\n=\r7 ", true}, {"n between 7 and 8 or not (flag = true) and text is null", true},
	} {
		matches, err := newFilter(driver.Subscription{SQL: c.sql})
		if err != nil {
			t.Errorf("%s does not parse: %v", c.sql, err)
		} else if got := matches(sample); got != c.want {
			t.Errorf("%s is %v", c.sql, got)
		}
	}
}

func TestSQLFiltersThatDoNotParseSayWhere(t *testing.T) {
	for sql, want := range map[string]string{
		"n >": "the end", "n": "after \"n\"", "n = ": "the end", "= 7": "character 1", "n = 7 n": `"n" at character 7`, "(n = 7": `expected ")"`, "n = 7)": "character 6",
		"n BETWEEN 1": "AND of BETWEEN", "n BETWEEN 2 AND 1": "must not be larger", "n BETWEEN -1 AND -1.5": "must not be larger", "n BETWEEN 'a' AND 'b'": "compares numbers", "n IN (1)": "IN takes strings", "n IN ()": "IN takes strings", "n IN ('a'": `expected ")"`,
		"n IS 7": "expected NULL", "n IS NOT": "expected NULL", "n ! 7": "no meaning", "n = 'x": "no end", "n > 'x'": "compares numbers", "TRUE > 1": "different kinds", "n < TRUE": "compares numbers",
		"1 = 'x'": "different kinds", "n = 1.2.3": "not a number", "n > 0.0": "no decimal zero", "n > -0.0": "no decimal zero", "n = 1e": "not a number", "n = -'x'": "after the sign", "AND": "property or a value", "n = AND": "property or a value", "n AND m": "after \"n\"",
		"7 IS NULL": "expected a comparison", "'a'": "expected a comparison", "NOT": "the end", "NOT n = 7": "write NOT (n > 1)", "n = 7 AND NOT 'x' = n": "write NOT (n > 1)", "NOT n IS NULL": "write NOT (n > 1)", "n NOT 7": "expected a comparison", " ": "the end",
		strings.Repeat("(", 100) + "n = 1" + strings.Repeat(")", 100): "nested deeper", strings.Repeat("NOT ", 100) + "n = 1": "nested deeper", "n = '" + strings.Repeat("x", maxSQLBytes) + "'": "the limit",
	} {
		_, err := newFilter(driver.Subscription{SQL: sql})
		if driver.ReasonOf(err) != driver.InvalidFilter || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: want InvalidFilter with %q, got %v", sql, want, err)
		}
	}
}

func TestTagFilters(t *testing.T) {
	for _, c := range []struct {
		filter, tag string
		want        bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a", "", false}, {"a || b", "b", true}, {"a||b", "a", true}, {" a  ||  b ", "a", true}, {"a || b", "a || b", false},
		{"Aa", "BB", false}, {"a", "A", false},
	} {
		matches, err := newFilter(driver.Subscription{Tag: c.filter})
		if err != nil || matches(&driver.Message{Tag: c.tag}) != c.want {
			t.Errorf("filter %q, tag %q: not %v; %v", c.filter, c.tag, c.want, err)
		}
	}
	for _, all := range []string{"", "*", " * ", "  "} {
		if matches, err := newFilter(driver.Subscription{Tag: all}); err != nil || matches != nil {
			t.Errorf("filter %q does not mean everything: %v", all, err)
		}
	}
}

func FuzzParseSQL(f *testing.F) {
	for _, sql := range []string{"n = 7 AND (TAGS IN ('a','b') OR NOT x IS NULL)", "a BETWEEN -1 AND 2e3", "'", "((", "a = 'o''b'", "é > .5"} {
		f.Add(sql)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		where, err := parseSQL(sql)
		if err != nil {
			return
		}
		if got := where.eval(sample); got != (negation{negation{where}}).eval(sample) {
			t.Errorf("%q is %v and its double negation is not", sql, got)
		}
	})
}
