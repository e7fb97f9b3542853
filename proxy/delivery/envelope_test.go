// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"bytes"
	"encoding/base64"
	"errors"
	"testing"
)

func TestAnEnvelopeOpensOnlyForItsPurposeAndItsKeys(t *testing.T) {
	ours, same, other := sealerOf(t, testKey), sealerOf(t, RandomKey(), testKey), sealerOf(t, RandomKey())
	plain := []byte("what one host asks another")
	sealed := ours.Seal("question", plain)
	if got, err := same.Open("question", sealed); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("with the same key: %q, %v", got, err)
	}
	token, err := ours.sealContent(newOrigin(Origin{ConsumerUID: "u"}, 1).prefix, &content{id: 1})
	must(t, err)
	asEnvelope, err := base64.RawURLEncoding.DecodeString(token)
	must(t, err)
	changed := bytes.Clone(sealed)
	changed[len(changed)-1] ^= 1
	for name, c := range map[string]struct {
		by      *Sealer
		purpose string
		sealed  []byte
		want    error
	}{
		"another purpose": {ours, "answer", sealed, errNotAToken},
		"another key":     {other, "question", sealed, errUnknownKey},
		"a changed byte":  {ours, "question", changed, errNotAToken},
		"a token":         {ours, "question", asEnvelope, errNotAToken},
		"nothing":         {ours, "question", nil, errNotAToken},
		"too little":      {ours, "question", sealed[:sealedMin-1], errNotAToken},
		"another version": {ours, "question", append([]byte{9}, sealed[1:]...), errNotAToken},
	} {
		if got, err := c.by.Open(c.purpose, c.sealed); !errors.Is(err, c.want) {
			t.Errorf("%s: %q, %v, want %v", name, got, err, c.want)
		}
	}
	asToken := base64.RawURLEncoding.EncodeToString(sealed)
	if _, err := ours.openContent(asToken, nil); !errors.Is(err, errNotAToken) {
		t.Errorf("an envelope as a token: %v", err)
	}
}

// Envelopes reach the port without any right, tokens only with one. Made-up envelopes must neither have the keys read nor push out what is known of the
// keys of tokens: with that a token that is not in use would be RETRY for ever.
func TestEnvelopesOfUnknownKeysAskForNothing(t *testing.T) {
	s, reads := sealerOf(t, testKey), 0
	s.ReadKeysWith(func() { reads++ })
	for range maxUnknownKeys + 1 {
		if _, err := s.Open("question", sealerOf(t, RandomKey()).Seal("question", nil)); !errors.Is(err, errUnknownKey) {
			t.Fatal(err)
		}
	}
	want(t, "reads of the keys", reads, 0)
	want(t, "keys that were asked for", len(s.unknown.asked), 0)
}
