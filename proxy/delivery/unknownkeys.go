// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"sync"
	"time"
)

// maxUnknownKeys bounds the memory of keys that were asked for. Whoever sends made-up tokens of more keys than that is told RETRY once more
// for each, which is his own loss.
const maxUnknownKeys = 256

// unknownKeys decides what a token of a key that this host does not have means. Another host may have made the key a moment ago (when the
// Secret had been deleted), or the key is no longer in use, or somebody made the token up; only a look at the keys that hosts share can tell.
// So the first answer is "pending", and a read of the keys that began after the question settles it: a token was there when it was
// presented, its key before it, so a key that such a read does not find is not in use.
type unknownKeys struct {
	mu sync.Mutex // guards what follows; never taken for a known key
	// read asks for the keys to be read again, nil = nobody shares keys.
	read  func()
	asked map[KeyID]time.Time
}

// ReadKeysWith has read called when a token names an unknown key, each time until a SetKeys has settled it. read must not block and must
// limit its own rate. Without it such tokens are answered at once: nobody else's key can be meant.
func (s *Sealer) ReadKeysWith(read func()) {
	s.unknown.mu.Lock()
	defer s.unknown.mu.Unlock()
	s.unknown.read = read
}

// judge answers errUnknownKey when the keys that were read from readAt on are known not to have id, else errKeyPending.
func (u *unknownKeys) judge(id KeyID, readAt time.Time) error {
	read, settled := u.ask(id, readAt)
	if settled {
		return errUnknownKey
	}
	read()
	return errKeyPending
}

func (u *unknownKeys) ask(id KeyID, readAt time.Time) (read func(), settled bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.read == nil {
		return nil, true
	}
	since, before := u.asked[id]
	if before {
		return u.read, readAt.After(since)
	}
	if u.asked == nil || len(u.asked) >= maxUnknownKeys {
		u.asked = map[KeyID]time.Time{}
	}
	u.asked[id] = time.Now()
	return u.read, false
}
