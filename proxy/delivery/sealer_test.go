// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func sealed(t testing.TB, s *Sealer) string {
	t.Helper()
	token, err := s.sealContent(newOrigin(Origin{"u", "h", "i"}, 1).prefix, &content{id: 1, handle: "h"})
	must(t, err)
	return token
}

func wantOpen(t testing.TB, what string, s *Sealer, token string, want error) {
	t.Helper()
	if _, err := s.openContent(token, nil); !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestKeysAreReplacedWhileTheSealerWorks(t *testing.T) {
	first, second := RandomKey(), RandomKey()
	s := sealerOf(t, first)
	old := sealed(t, s)
	must(t, s.SetKeys(time.Now(), first, second))
	wantOpen(t, "a token of a host that seals with the next key", s, sealed(t, sealerOf(t, second)), nil)
	wantOpen(t, "what this one seals", sealerOf(t, first), sealed(t, s), nil)
	must(t, s.SetKeys(time.Now(), second, first))
	wantOpen(t, "what this one seals after the promotion", sealerOf(t, second), sealed(t, s), nil)
	wantOpen(t, "the old token", s, old, nil)
	must(t, s.SetKeys(time.Now(), second))
	wantOpen(t, "the old token when its key was dropped", s, old, errUnknownKey)
	if err := s.SetKeys(time.Now()); err == nil {
		t.Error("no keys were taken")
	}
	wantOpen(t, "after a refused change", s, sealed(t, s), nil)
}

func TestReplacingKeysDisturbsNobody(t *testing.T) {
	keys := []Key{RandomKey(), RandomKey(), RandomKey()}
	s := sealerOf(t, keys...)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				if err := s.SetKeys(time.Now(), keys[i%3], keys[(i+1)%3], keys[(i+2)%3]); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 4 {
		wg.Go(func() {
			for range 500 {
				wantOpen(t, "a token", s, sealed(t, s), nil)
			}
		})
	}
	time.AfterFunc(50*time.Millisecond, func() { close(stop) })
	wg.Wait()
}

// An unknown key is looked up: RETRY until the keys were read after the question, and the truth from then on.
func TestAnUnknownKeyIsLookedUp(t *testing.T) {
	ours, theirs := RandomKey(), RandomKey()
	for _, c := range []struct {
		name string
		keys []Key // that the look finds
		want error
	}{{"another host made it a moment ago", []Key{ours, theirs}, nil}, {"it is not in use", []Key{ours}, errUnknownKey}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, token, asked := sealerOf(t, ours), sealed(t, sealerOf(t, theirs)), 0
				s.ReadKeysWith(func() { asked++ })
				time.Sleep(time.Second)
				before := time.Now() // a read that began before the question settles nothing
				time.Sleep(time.Second)
				wantOpen(t, "at first", s, token, errKeyPending)
				must(t, s.SetKeys(before, ours))
				wantOpen(t, "after a read that began before the question", s, token, errKeyPending)
				want(t, "asked for the keys", asked, 2)
				time.Sleep(time.Second)
				must(t, s.SetKeys(time.Now(), c.keys...))
				wantOpen(t, "after the keys were read", s, token, c.want)
				want(t, "asked for the keys in all", asked, 2)
			})
		})
	}
}

func TestTheWindowAnswersRetryWhileAKeyIsLookedUp(t *testing.T) {
	inTime(t, func(t *testing.T) {
		g := newRig(t, Settings{})
		other := newRig(t, Settings{}, func(o *Options) { o.Sealer = sealerOf(t, RandomKey()) })
		other.broker.put("m", 1, 1)
		ds := receive(t, other.attach(t, ReceiverOptions{}), 1)
		g.sealer.ReadKeysWith(func() {})
		r := one(g.Ack(t.Context(), tokens(ds)))
		wantOutcome(t, "while the key is looked up", r, Retry)
		if !strings.Contains(r.Detail, "send the token again") {
			t.Errorf("detail %q does not say what to do", r.Detail)
		}
		time.Sleep(time.Second)
		must(t, g.sealer.SetKeys(time.Now(), testKey))
		wantOutcome(t, "when nobody has it", one(g.Ack(t.Context(), tokens(ds))), Expired)
	})
}

func TestQuestionsForUnknownKeysAreBounded(t *testing.T) {
	s := sealerOf(t, RandomKey())
	s.ReadKeysWith(func() {})
	for range 3 * maxUnknownKeys {
		wantOpen(t, "a made-up key", s, sealed(t, sealerOf(t, RandomKey())), errKeyPending)
	}
	if n := len(s.unknown.asked); n > maxUnknownKeys {
		t.Errorf("%d keys are remembered, want at most %d", n, maxUnknownKeys)
	}
}

func TestAKeyIsNeverEncoded(t *testing.T) {
	k := RandomKey()
	text, err := json.Marshal(map[string]any{"key": k, "pointer": &k})
	must(t, err)
	if got := string(text); got != `{"key":"REDACTED","pointer":"REDACTED"}` {
		t.Errorf("JSON is %s", got)
	}
	if text := fmt.Sprintf("%v %s %+v", &k, &k, []Key{k}); strings.Count(text, "REDACTED") != 3 {
		t.Errorf("a key prints as %q", text)
	}
}
