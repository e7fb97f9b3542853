// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"encoding/base64"
	"errors"
	"slices"
)

// Envelopes are for what hosts tell each other. Who can open one that another has sealed shares its keys, so that the envelope is also the proof of
// who speaks. The form is that of a token, in bytes; the purpose is authenticated with it, so that no token can pass for an envelope, nor an envelope of
// one purpose for one of another.

// Seal makes an envelope. The purpose must not be empty.
func (s *Sealer) Seal(purpose string, plain []byte) []byte {
	nonce, key := s.nonce(), &s.ring.Load().seal
	sealed := make([]byte, 0, sealedMin+len(plain))
	sealed = append(append(sealed, key.head[:]...), nonce[:]...)
	return key.aead.Seal(sealed, nonce[:], plain, additional(key.head[:], purpose))
}

// Open opens an envelope of this purpose; errNotAToken and errUnknownKey are its errors. Other than for a token or OpenText it never asks for an unknown key: whoever
// reaches the port may send envelopes, and must not have the keys read, nor push out what was asked for tokens.
func (s *Sealer) Open(purpose string, sealed []byte) ([]byte, error) {
	if len(sealed) < sealedMin || sealed[0] != sealVersion {
		return nil, errNotAToken
	}
	head, rest := sealed[:headSize], sealed[headSize:]
	aead, known := s.ring.Load().open[KeyID(head[1:])]
	if !known {
		return nil, errUnknownKey
	}
	plain, err := aead.Open(nil, rest[:nonceSize], rest[nonceSize:], additional(head, purpose))
	if err != nil {
		return nil, errNotAToken
	}
	return plain, nil
}

func additional(head []byte, purpose string) []byte { return append(slices.Clone(head), purpose...) }

// SealText makes an envelope that applications keep, as text.
func (s *Sealer) SealText(purpose string, plain []byte) string {
	return base64.RawURLEncoding.EncodeToString(s.Seal(purpose, plain))
}

// OpenText opens what SealText made on any host. IsPending tells an error that ends by itself, when this host has read a key that it does not know yet.
func (s *Sealer) OpenText(purpose, text string) ([]byte, error) {
	if len(text) > maxTokenText {
		return nil, errNotAToken
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errNotAToken
	}
	plain, err := s.Open(purpose, sealed)
	if errors.Is(err, errUnknownKey) {
		err = s.unknown.judge(KeyID(sealed[1:headSize]), s.ring.Load().readAt)
	}
	return plain, err
}

// IsPending reports whether err of OpenText is about a key that is being looked up.
func IsPending(err error) bool { return errors.Is(err, errKeyPending) }
