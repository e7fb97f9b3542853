// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCutReasonKeepsCharactersWhole(t *testing.T) {
	for _, char := range []string{"a", "ß", "你", "😀"} {
		for n := MaxReasonBytes - 5; n < MaxReasonBytes+5; n++ {
			text := strings.Repeat("x", n%len(char)) + strings.Repeat(char, n/len(char)+1)
			got := CutReason(text)
			switch {
			case !utf8.ValidString(got), !strings.HasPrefix(text, got), len(got) > MaxReasonBytes:
				t.Errorf("%d bytes of %q became %d bytes, valid: %v", len(text), char, len(got), utf8.ValidString(got))
			case len(text) <= MaxReasonBytes && got != text, len(text)-len(got) > 0 && MaxReasonBytes-len(got) > 3:
				t.Errorf("%d bytes of %q were cut to %d", len(text), char, len(got))
			}
		}
	}
}

func TestStoredPropertiesComeBackAsTheyWere(t *testing.T) {
	for _, m := range []Message{
		{ID: "1"},
		{ID: "2", Tag: "t", Keys: []string{"a"}, Properties: map[string]string{"x": "y"}},
		{ID: "3", Keys: []string{"a", "b"}, Properties: map[string]string{"x": "y", "z": "1"}},
	} {
		stored := StoredProperties(&m)
		if got := stored[PropertyID]; got != m.ID {
			t.Errorf("the id is %q, want %q", got, m.ID)
		}
		if got := stored[PropertyTag]; got != m.Tag {
			t.Errorf("the tag is %q, want %q", got, m.Tag)
		}
		if got := SplitKeys(stored[PropertyKeys]); !slices.Equal(got, m.Keys) {
			t.Errorf("the keys are %q, want %q", got, m.Keys)
		}
		if got := OrdinaryProperties(stored); !maps.Equal(got, m.Properties) {
			t.Errorf("the properties are %v, want %v", got, m.Properties)
		}
	}
}
