// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"
)

// seen is what RocketMQ 5.5.0 answered to a delayed send.
const seen = "djEgdF90ZXN0YW1lc3NhZ2VvZmxhdGVyY29tZXNhdGl0c3RpbWVhbmRhcmVjLTU1NjAyMyBicm9rZXItYSAxNzk1NjY5MzQ4MDAxIHJlY2FsbGVk"

func TestARecallHandleOfABrokerIsRead(t *testing.T) {
	h, err := ParseRecallHandle(seen)
	want := RecallHandle{
		Topic: "t_testamessageoflatercomesatitstimeandarec-556023", Broker: "broker-a", ID: "recalled", DeliverAt: time.UnixMilli(1795669348001),
	}
	if err != nil || h != want {
		t.Errorf("read %+v, %v", h, err)
	}
	padded := base64.URLEncoding.EncodeToString([]byte("v1 orders broker-a 1795669348001 id-1"))
	if h, err := ParseRecallHandle(padded); err != nil || h.ID != "id-1" {
		t.Errorf("with padding: %+v, %v", h, err)
	}
}

func TestBadRecallHandlesAreRefused(t *testing.T) {
	for name, plain := range map[string]string{
		"empty": "", "of another version": "v2 t b 1 id", "with too few parts": "v1 t b 1", "with too many parts": "v1 t b 1 id more",
		"whose time is no number": "v1 t b soon id", "without a topic": "v1  b 1 id", "without an id": "v1 t b 1 ",
	} {
		if h, err := ParseRecallHandle(base64.URLEncoding.EncodeToString([]byte(plain))); !errors.Is(err, ErrFrame) {
			t.Errorf("one %s: %+v, %v", name, h, err)
		}
	}
	for _, text := range []string{"not base64!", strings.Repeat("A", 5000)} {
		if _, err := ParseRecallHandle(text); !errors.Is(err, ErrFrame) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

func FuzzRecallHandle(f *testing.F) {
	f.Add(seen)
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseRecallHandle(text)
		if err == nil && (h.Topic == "" || h.Broker == "" || h.ID == "") {
			t.Errorf("%q is taken for %+v", text, h)
		}
	})
}
