// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func sealerOf(t testing.TB, keys ...Key) *Sealer {
	t.Helper()
	s, err := NewSealer(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestATokenSaysWhatWasSealed(t *testing.T) {
	s := sealerOf(t, RandomKey())
	ours := newOrigin(Origin{"uid", "host", "inc"}, 3)
	other := newOrigin(Origin{"uid", "host-2", "inc"}, 300)
	cases := []struct {
		name string
		from *origin
		c    content
	}{
		{"a short one", ours, content{id: 1, deadline: 5, handle: "h"}},
		{"an empty handle", ours, content{id: 1}},
		{"large numbers", ours, content{id: 1 << 63, generation: 1<<32 - 1, deadline: -1, handle: "ü\x00\n"}},
		{"the longest handle", ours, content{id: 1, handle: driver.Handle(strings.Repeat("h", 6000))}},
		{"a later attempt", ours, content{id: 1, attempt: 2, handle: "h"}},
		{"a late attempt of another host's", other, content{id: 7, generation: 1, attempt: 1 << 20, deadline: 1 << 60, handle: "h"}},
		{"another host's", other, content{id: 7, deadline: 1 << 60, handle: "h"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			token, err := s.sealContent(c.from.prefix, &c.c)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.openContent(token, ours)
			if err != nil {
				t.Fatal(err)
			}
			wanted := c.c
			if c.from != ours {
				want(t, "origin", *got.foreign, foreignOrigin{Origin{"uid", "host-2", "inc"}, 300})
				got.foreign = nil
			}
			want(t, "content", got, wanted)
			for _, secret := range []string{"host", "uid"} {
				raw, _ := base64.RawURLEncoding.DecodeString(token)
				if strings.Contains(string(raw), secret) {
					t.Errorf("%q can be read in the token", secret)
				}
			}
		})
	}
}

func TestAHandleThatIsTooLongIsAnErrorThatSaysSo(t *testing.T) {
	s := sealerOf(t, RandomKey())
	_, err := s.sealContent(nil, &content{handle: driver.Handle(strings.Repeat("h", 7000))})
	if err == nil || !strings.Contains(err.Error(), "handle of 7000 bytes") {
		t.Errorf("error %v, want one that names the handle's length", err)
	}
}

func TestEveryChangedByteMakesATokenUseless(t *testing.T) {
	s := sealerOf(t, RandomKey())
	token, err := s.sealContent(newOrigin(Origin{"u", "h", "i"}, 1).prefix, &content{id: 1, handle: "handle"})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		raw[i] ^= 0x40
		if c, err := s.openContent(base64.RawURLEncoding.EncodeToString(raw), nil); err == nil {
			t.Errorf("opened with byte %d changed: %+v", i, c)
		}
		raw[i] ^= 0x40
		if i >= headSize {
			if _, err := s.openContent(base64.RawURLEncoding.EncodeToString(raw[:i]), nil); err == nil {
				t.Errorf("opened when cut to %d bytes", i)
			}
		}
	}
}

func TestKeysRotate(t *testing.T) {
	oldKey, newKey := RandomKey(), RandomKey()
	before, during, after := sealerOf(t, oldKey), sealerOf(t, newKey, oldKey), sealerOf(t, newKey)
	prefix := newOrigin(Origin{"u", "h", "i"}, 1).prefix
	first, _ := before.sealContent(prefix, &content{id: 1})
	second, _ := during.sealContent(prefix, &content{id: 2})
	for _, c := range []struct {
		name  string
		s     *Sealer
		token string
		err   error
	}{
		{"the old token while both keys are known", during, first, nil},
		{"the new token while both keys are known", during, second, nil},
		{"the new token with the new key only", after, second, nil},
		{"the old token with the new key only", after, first, errUnknownKey},
		{"the new token with the old key only", before, second, errUnknownKey},
	} {
		if _, err := c.s.openContent(c.token, nil); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
	}
}

func TestSealersNeedDifferentKeys(t *testing.T) {
	k := RandomKey()
	if _, err := NewSealer(); err == nil {
		t.Error("a sealer without a key")
	}
	if _, err := NewSealer(k, k); err == nil {
		t.Error("a sealer with the same key twice")
	}
	if text := fmt.Sprintf("%v %s %#v %+v", k, k, k, k); text != "REDACTED REDACTED REDACTED REDACTED" {
		t.Errorf("a key prints as %q", text)
	}
}

func TestNoncesDoNotRepeatWhenAPrefixIsUsedUp(t *testing.T) {
	s := sealerOf(t, RandomKey())
	first := s.nonces.Load()
	first.used.Store(noncesPerPrefix - 2)
	seen := map[[nonceSize]byte]bool{}
	for range 10 {
		seen[s.nonce()] = true
	}
	want(t, "different nonces", len(seen), 10)
	if s.nonces.Load() == first {
		t.Error("no new prefix was drawn")
	}
}

// FuzzOpenToken: whatever is given, opening neither panics nor invents a token.
func FuzzOpenToken(f *testing.F) {
	key := Key{1, 2, 3}
	s := sealerOf(f, key)
	ours := newOrigin(Origin{"uid", "host", "inc"}, 1)
	good, _ := s.sealContent(ours.prefix, &content{id: 1, deadline: 1, handle: "h"})
	f.Add(good)
	f.Add("")
	f.Add(good[:len(good)-1])
	f.Add(good + "A")
	f.Fuzz(func(t *testing.T, token string) {
		c, err := s.openContent(token, ours)
		if err != nil {
			if !errors.Is(err, errNotAToken) && !errors.Is(err, errUnknownKey) {
				t.Fatalf("an error that no answer is known for: %v", err)
			}
			return
		}
		again, err := s.sealContent(ours.prefix, &c)
		if err != nil {
			t.Fatalf("opened %q to what cannot be sealed: %v", token, err)
		}
		if c.foreign == nil {
			if twice, err := s.openContent(again, ours); err != nil || twice != c {
				t.Fatalf("%+v sealed and opened: %+v, %v", c, twice, err)
			}
		}
	})
}

// FuzzParseContent: what is inside a token comes from us, but of another version perhaps.
func FuzzParseContent(f *testing.F) {
	ours := newOrigin(Origin{"uid", "host", "inc"}, 1)
	c := content{id: 1, generation: 2, deadline: 3, handle: "h"}
	f.Add(c.appendRest(append([]byte(nil), ours.prefix...)))
	f.Add(c.appendRest(newOrigin(Origin{"uid", "other", ""}, 1<<60).prefix))
	f.Add([]byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseContent(b, ours)
		if err != nil {
			if c != (content{}) {
				t.Fatalf("an error with content %+v", c)
			}
			return
		}
		prefix := ours.prefix
		if c.foreign != nil {
			prefix = newOrigin(c.foreign.Origin, c.foreign.window).prefix
		}
		twice, err := parseContent(c.appendRest(append([]byte(nil), prefix...)), ours)
		same := twice.foreign == c.foreign || twice.foreign != nil && c.foreign != nil && *twice.foreign == *c.foreign
		twice.foreign, c.foreign = nil, nil
		if err != nil || twice != c || !same {
			t.Fatalf("%+v written and read: %+v, %v", c, twice, err)
		}
	})
}
