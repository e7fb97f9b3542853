// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
)

// The life of a key of ack tokens, each step a write of the shared Secret that any host may do:
//
//	published (next: every host accepts it) -> promoted (current: hosts seal with it) -> retired (old: still accepted) -> dropped
//
// A key is promoted when every host had time to read it, and dropped when no token that was sealed with it can be inside its deadline.
const (
	// longestLease is the longest deadline that a token can have.
	longestLease = 12 * time.Hour
	// keyringVersion is the form of the document. A host leaves another version alone.
	keyringVersion = 1
	// maxKeys bounds the document; rotations would have to be faster than MinKeyRotation for long to come near.
	maxKeys = 64
)

// keyring is the keys as the Secret has them. It is a value: steps answer another one.
type keyring struct{ keys []ringKey }

// ringKey is one key with its times, by the clock of the host that wrote them, in whole seconds; zero = not yet.
type ringKey struct {
	key                          delivery.Key
	published, promoted, retired time.Time
}

// String and GoString hide the keys: fmt looks through unexported fields and would not ask a Key itself.
func (r keyring) String() string   { return fmt.Sprintf("REDACTED (%d keys)", len(r.keys)) }
func (r keyring) GoString() string { return r.String() }

// String and GoString as keyring's.
func (k ringKey) String() string   { return "REDACTED" }
func (k ringKey) GoString() string { return "REDACTED" }

func (k *ringKey) isNext() bool    { return k.promoted.IsZero() && k.retired.IsZero() }
func (k *ringKey) isCurrent() bool { return !k.promoted.IsZero() && k.retired.IsZero() }

// newKeyring has one key, in use from now on.
func newKeyring(now time.Time) keyring {
	now = wholeSecond(now)
	return keyring{[]ringKey{{key: delivery.RandomKey(), published: now, promoted: now}}}
}

func wholeSecond(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

func (r keyring) current() *ringKey { return r.find((*ringKey).isCurrent) }

func (r keyring) next() *ringKey { return r.find((*ringKey).isNext) }

func (r keyring) find(is func(*ringKey) bool) *ringKey {
	for i := range r.keys {
		if is(&r.keys[i]) {
			return &r.keys[i]
		}
	}
	return nil
}

func (r keyring) has(id delivery.KeyID) bool {
	return r.find(func(k *ringKey) bool { return k.key.ID() == id }) != nil
}

// sealer lists the keys as a delivery.Sealer takes them: the one to seal with first.
func (r keyring) sealer() []delivery.Key {
	current := r.current().key
	keys := []delivery.Key{current}
	for i := range r.keys {
		if r.keys[i].key != current {
			keys = append(keys, r.keys[i].key)
		}
	}
	return keys
}

// rotation is how fast keys move.
type rotation struct {
	// every is the age at which the current key is replaced; 0 = never.
	every time.Duration
	// lead is how long a next key is known before it is promoted.
	lead time.Duration
}

// keep is how long a retired key is accepted: hosts may have sealed with it until they read of the promotion.
func (o rotation) keep() time.Duration { return longestLease + o.lead }

// step is the keyring after the one step that is due, and its name; empty = none is due. nextKnown is how long this host itself has known the
// next key: a promotion does not trust the clock that wrote the time of publication.
func (r keyring) step(now time.Time, nextKnown time.Duration, o rotation) (keyring, string) {
	now = wholeSecond(now)
	isOver := func(k ringKey) bool { return !k.retired.IsZero() && now.Sub(k.retired) > o.keep() }
	if kept := slices.DeleteFunc(slices.Clone(r.keys), isOver); len(kept) < len(r.keys) {
		return keyring{kept}, "dropped an old key"
	}
	after := keyring{slices.Clone(r.keys)}
	switch next := after.next(); {
	case next != nil && nextKnown >= o.lead:
		after.current().retired = now
		next.promoted = now
		return after, "promoted the next key"
	case next == nil && o.every > 0 && now.Sub(r.current().promoted) >= o.every && len(r.keys) < maxKeys:
		after.keys = append(after.keys, ringKey{key: r.freshKey(), published: now})
		return after, "published the next key"
	}
	return r, ""
}

// freshKey has an id that no other key has.
func (r keyring) freshKey() delivery.Key {
	for {
		if k := delivery.RandomKey(); !r.has(k.ID()) {
			return k
		}
	}
}

// inherit adds what r lacks of the keys that this host has worked with, when its sealing key is not there: somebody has made the Secret anew,
// or this host was cut off for so long that the key was dropped. What it sealed is then accepted everywhere until its deadline.
func (r keyring) inherit(own keyring, now time.Time, o rotation) (after keyring, changed bool) {
	now = wholeSecond(now)
	if len(own.keys) == 0 || r.has(own.current().key.ID()) {
		return r, false
	}
	after = keyring{slices.Clone(r.keys)}
	for _, k := range own.keys {
		if k.isCurrent() {
			k.retired = now
		}
		if !k.isNext() && now.Sub(k.retired) <= o.keep() && !after.has(k.key.ID()) && len(after.keys) < maxKeys {
			after.keys = append(after.keys, k)
			changed = true
		}
	}
	return after, changed
}

// The document is JSON, so that somebody who looks sees what is what.
type (
	keyDocument struct {
		Version int           `json:"version"`
		Keys    []keyInSecret `json:"keys"`
	}
	keyInSecret struct {
		Key       []byte    `json:"key"`
		Published time.Time `json:"published"`
		Promoted  time.Time `json:"promoted,omitzero"`
		Retired   time.Time `json:"retired,omitzero"`
	}
)

func (r keyring) encode() ([]byte, error) {
	d := keyDocument{Version: keyringVersion}
	for _, k := range r.keys {
		d.Keys = append(d.Keys, keyInSecret{k.key[:], k.published, k.promoted, k.retired})
	}
	return json.MarshalIndent(d, "", "  ")
}

// errNewerKeyring: a later version of the operator has written it, so it is right and not ours to change.
var errNewerKeyring = errors.New("it has a form that this version of the operator does not know")

// decodeKeyring reads a document. Errors never contain a part of it.
func decodeKeyring(text []byte) (keyring, error) {
	var d keyDocument
	if err := json.Unmarshal(text, &d); err != nil {
		// encoding/json quotes what it does not like, and that could be a key.
		return keyring{}, fmt.Errorf("%d bytes that are not the expected JSON", len(text))
	}
	if d.Version > keyringVersion {
		return keyring{}, fmt.Errorf("%w: version %d, this one knows %d", errNewerKeyring, d.Version, keyringVersion)
	}
	if d.Version < 1 || len(d.Keys) == 0 || len(d.Keys) > maxKeys {
		return keyring{}, fmt.Errorf("version %d with %d keys", d.Version, len(d.Keys))
	}
	var r keyring
	current, next := 0, 0
	for i, in := range d.Keys {
		k := ringKey{published: in.Published, promoted: in.Promoted, retired: in.Retired}
		if copy(k.key[:], in.Key) != len(k.key) || len(in.Key) != len(k.key) {
			return keyring{}, fmt.Errorf("keys[%d] has %d bytes, want %d", i, len(in.Key), len(k.key))
		}
		if r.has(k.key.ID()) {
			return keyring{}, fmt.Errorf("keys[%d] is there twice", i)
		}
		if k.isCurrent() {
			current++
		}
		if k.isNext() {
			next++
		}
		r.keys = append(r.keys, k)
	}
	if current != 1 || next > 1 {
		return keyring{}, fmt.Errorf("%d keys in use and %d to come, want one and at most one", current, next)
	}
	return r, nil
}
