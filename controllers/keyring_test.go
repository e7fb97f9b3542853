// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
)

var (
	keysNow      = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	testRotation = rotation{every: 30 * 24 * time.Hour, lead: 3 * time.Minute}
)

// ringOf makes a keyring of "current", "next" and "old", each with its age in that state.
func ringOf(now time.Time, states ...any) keyring {
	var r keyring
	for i := 0; i < len(states); i += 2 {
		k := ringKey{key: delivery.RandomKey()}
		at := wholeSecond(now.Add(-states[i+1].(time.Duration)))
		switch states[i].(string) {
		case "next":
			k.published = at
		case "current":
			k.published, k.promoted = at.Add(-time.Hour), at
		case "old":
			k.published, k.promoted, k.retired = at.Add(-48*time.Hour), at.Add(-47*time.Hour), at
		}
		r.keys = append(r.keys, k)
	}
	return r
}

func (k *ringKey) state() string {
	switch {
	case k.isNext():
		return "next"
	case k.isCurrent():
		return "current"
	default:
		return "old"
	}
}

func (r keyring) states() string {
	var all []string
	for i := range r.keys {
		all = append(all, r.keys[i].state())
	}
	return strings.Join(all, " ")
}

func TestTheStepsOfARotation(t *testing.T) {
	day, never := 24*time.Hour, rotation{lead: testRotation.lead}
	keep := testRotation.keep()
	cases := []struct {
		name  string
		ring  keyring
		known time.Duration // the next key, by this host
		o     rotation
		step  string
		want  string // states
	}{
		{"a young key stays", ringOf(keysNow, "current", 29*day), 0, testRotation, "", "current"},
		{"an old one gets a successor", ringOf(keysNow, "current", 30*day), 0, testRotation, "published the next key", "current next"},
		{"never means never", ringOf(keysNow, "current", 3000*day), 0, never, "", "current"},
		{"a next key waits until hosts had time to read it", ringOf(keysNow, "current", 31*day, "next", time.Hour), 2 * time.Minute, testRotation, "", "current next"},
		{"then it is promoted", ringOf(keysNow, "current", 31*day, "next", time.Hour), 3 * time.Minute, testRotation, "promoted the next key", "old current"},
		{"a rotation that began is ended also when there shall be none", ringOf(keysNow, "current", day, "next", time.Hour), time.Hour, never, "promoted the next key", "old current"},
		{"a retired key is kept as long as a token can live", ringOf(keysNow, "old", keep, "current", day), 0, testRotation, "", "old current"},
		{"and dropped then", ringOf(keysNow, "old", keep+time.Second, "current", day), 0, testRotation, "dropped an old key", "current"},
		{"one step at a time", ringOf(keysNow, "old", 2*day, "current", 31*day, "next", day), day, testRotation, "dropped an old key", "current next"},
		{"a clock that is behind does nothing", ringOf(keysNow, "old", -day, "current", -day), 0, testRotation, "", "old current"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := c.ring.states()
			after, step := c.ring.step(keysNow, c.known, c.o)
			if step != c.step || after.states() != c.want {
				t.Errorf("step %q to %q, want %q to %q", step, after.states(), c.step, c.want)
			}
			if c.ring.states() != before {
				t.Errorf("the step changed what it was given to %q", c.ring.states())
			}
			if again, _ := c.ring.step(keysNow, c.known, c.o); again.states() != after.states() {
				t.Errorf("another host's same step leads to %q, not %q", again.states(), after.states())
			}
		})
	}
}

func TestAKeyringThatIsReadIsTheOneThatWasWritten(t *testing.T) {
	r := ringOf(keysNow, "old", time.Hour, "current", 30*time.Minute, "next", time.Minute)
	text, err := r.encode()
	must(t, err)
	got, err := decodeKeyring(text)
	must(t, err)
	if !slices.Equal(got.keys, r.keys) {
		t.Errorf("read %+v, written %+v", got, r)
	}
	k := &Keys{ring: r}
	shown := fmt.Sprintf("%v %+v %#v %v %#v %v %+v %#v", r, r, r, r.keys, r.keys, k, k, k)
	if strings.Contains(shown, fmt.Sprint(r.keys[0].key[0], " ", r.keys[0].key[1])) || strings.Contains(shown, fmt.Sprintf("%#x, %#x", r.keys[0].key[0], r.keys[0].key[1])) {
		t.Errorf("a keyring prints as %s", shown)
	}
	if keys := r.sealer(); len(keys) != 3 || keys[0] != r.keys[1].key {
		t.Error("the sealer does not get all keys with the current one first")
	}
}

// Errors go to logs and Events: none may quote what it read.
func TestADamagedKeyringIsRefusedWithoutShowingIt(t *testing.T) {
	good := ringOf(keysNow, "current", time.Hour)
	key := base64.StdEncoding.EncodeToString(good.keys[0].key[:])
	at := `"published":"2026-01-01T00:00:00Z"`
	entry := func(key, rest string) string { return `{"key":"` + key + `",` + at + rest + `}` }
	document := func(version int, entries ...string) string {
		return fmt.Sprintf(`{"version":%d,"keys":[%s]}`, version, strings.Join(entries, ","))
	}
	promoted := `,"promoted":"2026-01-01T00:00:00Z"`
	other := base64.StdEncoding.EncodeToString(make([]byte, 32))
	cases := map[string]string{
		"nothing":              "",
		"no JSON":              key,
		"a key as a number":    `{"version":1,"keys":[{"key":1}]}`,
		"a broken key":         document(1, entry(key[:20]+"***", promoted)),
		"no version":           document(0, entry(key, promoted)),
		"no keys":              document(1),
		"a short key":          document(1, entry(key[:20], promoted)),
		"a long key":           document(1, entry(other[:40]+key, promoted)),
		"a key twice":          document(1, entry(key, promoted), entry(key, "")),
		"none in use":          document(1, entry(key, "")),
		"two in use":           document(1, entry(key, promoted), entry(other, promoted)),
		"too many keys":        document(1, slices.Repeat([]string{entry(key, promoted)}, maxKeys+1)...),
		"a later form":         document(2, entry(key, promoted)),
		"a time that is none":  document(1, `{"key":"`+key+`","published":"`+key+`"}`),
		"keys that are a text": `{"version":1,"keys":"` + key + `"}`,
	}
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			ring, err := decodeKeyring([]byte(text))
			if err == nil || len(ring.keys) > 0 {
				t.Fatalf("it was taken: %s", ring.states())
			}
			if strings.Contains(err.Error(), key[:12]) {
				t.Errorf("the error quotes a key: %v", err)
			}
			if errors.Is(err, errNewerKeyring) != (name == "a later form") {
				t.Errorf("the error is %v", err)
			}
		})
	}
	if _, err := decodeKeyring([]byte(document(1, entry(key, promoted), entry(other, "")))); err != nil {
		t.Errorf("a good one is refused: %v", err)
	}
}

func TestAHostAddsTheKeysThatItHasSealedWith(t *testing.T) {
	own := ringOf(keysNow, "old", time.Hour, "old", 20*time.Hour, "current", time.Hour, "next", time.Minute)
	anew := ringOf(keysNow, "current", time.Minute)
	after, changed := anew.inherit(own, keysNow, testRotation)
	if !changed || after.states() != "current old old" {
		t.Fatalf("changed %t to %q; wanted are the own current key as an old one and the old one whose tokens may live", changed, after.states())
	}
	if !after.has(own.keys[0].key.ID()) || !after.has(own.keys[2].key.ID()) || after.keys[2].retired != keysNow {
		t.Errorf("added %+v", after.keys[1:])
	}
	if _, again := after.inherit(own, keysNow, testRotation); again {
		t.Error("it is added twice")
	}
	promoted, _ := own.step(keysNow, time.Hour, rotation{lead: testRotation.lead, every: 1})
	for name, ring := range map[string]keyring{"what another host promoted": promoted, "the same": own} {
		if _, changed := ring.inherit(own, keysNow, testRotation); changed {
			t.Errorf("%s was changed", name)
		}
	}
	if _, changed := anew.inherit(keyring{}, keysNow, testRotation); changed {
		t.Error("a host without keys added some")
	}
}

// FuzzDecodeKeyring: whatever is in the Secret, reading it neither panics nor answers a keyring that a Sealer would not take.
func FuzzDecodeKeyring(f *testing.F) {
	r := ringOf(keysNow, "old", time.Hour, "current", 30*time.Minute, "next", time.Minute)
	text, err := r.encode()
	must(f, err)
	f.Add(text)
	f.Add([]byte(`{"version":1,"keys":[{"key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","published":"2026-01-01T00:00:00Z","promoted":"2026-01-01T00:00:00Z"}]}`))
	f.Add([]byte(`{"version":9}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		ring, err := decodeKeyring(text)
		if err != nil {
			return
		}
		if _, err := delivery.NewSealer(ring.sealer()...); err != nil {
			t.Fatalf("a keyring that no sealer takes: %v", err)
		}
		again, err := ring.encode()
		must(t, err)
		if !json.Valid(again) {
			t.Fatal("it is written as no JSON")
		}
		if twice, err := decodeKeyring(again); err != nil || twice.states() != ring.states() {
			t.Fatalf("written and read again: %v", err)
		}
	})
}
