// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// The sealed form: version (1 byte), key id (4), nonce (12), ciphertext and tag; as base64url text without padding. Version and key id are
// authenticated as additional data.
const (
	sealVersion = 1
	keyIDSize   = 4
	nonceSize   = 12
	tagSize     = 16
	headSize    = 1 + keyIDSize
	sealedMin   = headSize + nonceSize + tagSize

	// maxTokenText bounds what Open looks at; longer text is no token of ours.
	maxTokenText = 8192
	// maxPlain is the longest content whose token stays within maxTokenText.
	maxPlain = maxTokenText/4*3 - sealedMin

	// noncesPerPrefix: a random 8-byte prefix is used for this many nonces, then a new one is drawn.
	noncesPerPrefix = 1 << 32
)

// Errors of opening a token.
var (
	errNotAToken  = errors.New("not an ack token")
	errUnknownKey = errors.New("made with a key that is not in use: its deadline has passed, its host was restarted, or nobody here made it")
	errKeyPending = errors.New("made with a key that this host has not read yet; it is being looked up, send the token again")
)

// Key is the secret of a Sealer.
type Key [32]byte

// RandomKey makes a key that nobody else has: its tokens die with the process.
func RandomKey() Key {
	var k Key
	// crypto/rand.Read never fails: it ends the process when the kernel has no randomness.
	_, _ = rand.Read(k[:])
	return k
}

// String hides the key, so that a %v in a log line cannot leak it.
func (Key) String() string { return "REDACTED" }

// GoString hides the key from %#v.
func (Key) GoString() string { return "REDACTED" }

// MarshalText hides the key from encoders of logs. Who stores a key encodes its bytes.
func (Key) MarshalText() ([]byte, error) { return []byte("REDACTED"), nil }

// Sealer seals and opens tokens with AES-256-GCM. Its keys can be replaced while it works: it seals with one and opens with all. It is safe for
// concurrent use and is never closed; sealing and opening take no lock.
type Sealer struct {
	ring    atomic.Pointer[keyring]
	nonces  atomic.Pointer[nonceBlock]
	bufs    sync.Pool
	unknown unknownKeys
}

// keyring is the keys of one moment; it never changes.
type keyring struct {
	seal sealKey
	open map[KeyID]cipher.AEAD
	// readAt is when reading these keys began: every key that was in use then is among them.
	readAt time.Time
}

// KeyID names a key inside tokens. It says nothing about the key.
type KeyID [keyIDSize]byte

type sealKey struct {
	head [headSize]byte
	aead cipher.AEAD
}

// nonceBlock counts behind a random prefix. Two blocks with the same prefix (of this process or of another one that shares the key) are as
// unlikely as two equal 64-bit random numbers; random 96-bit nonces for each token would repeat far sooner and cost more.
type nonceBlock struct {
	prefix [8]byte
	used   atomic.Uint64
}

type sealBuf struct{ plain, sealed, text []byte }

// NewSealer makes a Sealer that seals with the first key and opens what any of them has sealed. At least one key is needed.
func NewSealer(keys ...Key) (*Sealer, error) {
	s := &Sealer{}
	s.nonces.Store(newNonceBlock())
	s.bufs.New = func() any { return new(sealBuf) }
	if err := s.SetKeys(time.Now(), keys...); err != nil {
		return nil, err
	}
	return s, nil
}

// SetKeys replaces all keys at once: from now on the first one seals and all of them open. readAt is when the caller began to read them from
// where hosts share them: an unknown key that was asked for before is then known not to exist. On an error the earlier keys stay.
func (s *Sealer) SetKeys(readAt time.Time, keys ...Key) error {
	if len(keys) == 0 {
		return errors.New("ack token sealer: no key given; use RandomKey for tokens of this process only")
	}
	ring := &keyring{open: make(map[KeyID]cipher.AEAD, len(keys)), readAt: readAt}
	for i, k := range keys {
		aead, err := newAEAD(k)
		if err != nil {
			return fmt.Errorf("ack token sealer: key %d: %w", i, err)
		}
		id := k.ID()
		if _, twice := ring.open[id]; twice {
			return fmt.Errorf("ack token sealer: key %d has the same id as an earlier one", i)
		}
		ring.open[id] = aead
		if i == 0 {
			ring.seal.aead = aead
			ring.seal.head[0] = sealVersion
			copy(ring.seal.head[1:], id[:])
		}
	}
	s.ring.Store(ring)
	return nil
}

func newAEAD(k Key) (cipher.AEAD, error) {
	block, err := aes.NewCipher(k[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// ID is in clear in each token: enough to choose the key, nothing about it.
func (k Key) ID() KeyID {
	sum := sha256.Sum256(append([]byte("rocketmq-proxy ack token key id:"), k[:]...))
	return KeyID(sum[:keyIDSize])
}

func newNonceBlock() *nonceBlock {
	b := &nonceBlock{}
	_, _ = rand.Read(b.prefix[:])
	return b
}

func (s *Sealer) nonce() (n [nonceSize]byte) {
	for {
		b := s.nonces.Load()
		i := b.used.Add(1) - 1
		if i < noncesPerPrefix {
			copy(n[:8], b.prefix[:])
			binary.BigEndian.PutUint32(n[8:], uint32(i))
			return n
		}
		s.nonces.CompareAndSwap(b, newNonceBlock())
	}
}

// sealContent makes the token of c. prefix is c.Origin's encoding (see appendOrigin), made once per window.
func (s *Sealer) sealContent(prefix []byte, c *content) (string, error) {
	buf := s.bufs.Get().(*sealBuf)
	defer s.bufs.Put(buf)
	buf.plain = c.appendRest(append(buf.plain[:0], prefix...))
	if len(buf.plain) > maxPlain {
		return "", fmt.Errorf("ack token: the driver's handle of %d bytes is too long, at most about %d fit in a token", len(c.handle), maxPlain-len(prefix))
	}
	nonce, key := s.nonce(), &s.ring.Load().seal
	buf.sealed = append(append(buf.sealed[:0], key.head[:]...), nonce[:]...)
	buf.sealed = key.aead.Seal(buf.sealed, buf.sealed[headSize:headSize+nonceSize], buf.plain, key.head[:])
	buf.text = base64.RawURLEncoding.AppendEncode(buf.text[:0], buf.sealed)
	return string(buf.text), nil
}

// openContent reads a token. errNotAToken, errUnknownKey and errKeyPending are the only errors. ours is the window's own origin prefix: a token that
// starts with it is opened without copying the origin's names.
func (s *Sealer) openContent(token string, ours *origin) (content, error) {
	if len(token) > maxTokenText || len(token) < base64.RawURLEncoding.EncodedLen(sealedMin) {
		return content{}, errNotAToken
	}
	buf := s.bufs.Get().(*sealBuf)
	defer s.bufs.Put(buf)
	buf.text = append(buf.text[:0], token...)
	var err error
	// Strict, so that a token has one text only (but for line breaks, which the decoder skips; they change nothing).
	if buf.sealed, err = base64.RawURLEncoding.Strict().AppendDecode(buf.sealed[:0], buf.text); err != nil || len(buf.sealed) < sealedMin {
		return content{}, errNotAToken
	}
	head, rest := buf.sealed[:headSize], buf.sealed[headSize:]
	if head[0] != sealVersion {
		return content{}, errNotAToken
	}
	ring, id := s.ring.Load(), KeyID(head[1:])
	aead, known := ring.open[id]
	if !known {
		return content{}, s.unknown.judge(id, ring.readAt)
	}
	buf.plain, err = aead.Open(buf.plain[:0], rest[:nonceSize], rest[nonceSize:], head)
	if err != nil {
		return content{}, errNotAToken
	}
	return parseContent(buf.plain, ours)
}
