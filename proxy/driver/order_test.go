// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"
)

// counts are the numbers of queues that the rows of TestShardIsTheJavaProxysChoice have an answer for.
var counts = [...]int{1, 2, 3, 4, 7, 8, 16, 100, 1000, 65536}

// The values come from String.hashCode of OpenJDK 17 and Hashing.consistentHash of Guava 32.0.1, which RocketMQ 5.5.0 has, in jshell.
func TestShardIsTheJavaProxysChoice(t *testing.T) {
	for _, c := range []struct {
		key    string
		hash   int32
		places [len(counts)]int
	}{
		{"a", 97, [...]int{0, 0, 0, 0, 0, 0, 0, 29, 346, 49599}},
		{"order-1", -1207111310, [...]int{0, 0, 0, 3, 3, 3, 3, 3, 489, 12831}},
		{"order-2", -1207111309, [...]int{0, 0, 2, 2, 2, 2, 11, 46, 184, 51604}},
		{"order-42", 1234255197, [...]int{0, 0, 2, 3, 3, 3, 10, 25, 753, 52608}},
		{"user:1234567890", 1343671722, [...]int{0, 0, 2, 3, 5, 5, 9, 65, 293, 64957}},
		{"äöü", 226986, [...]int{0, 0, 0, 0, 4, 4, 13, 64, 64, 59923}},
		{"日本語", 25921943, [...]int{0, 1, 2, 2, 2, 2, 2, 83, 662, 6904}},
		{"😀", 1772899, [...]int{0, 1, 1, 1, 4, 4, 4, 31, 748, 38160}},
		{"a😀b", 57849694, [...]int{0, 1, 1, 3, 3, 3, 11, 70, 70, 40840}},
		{"FB", 2236, [...]int{0, 0, 0, 0, 0, 0, 0, 52, 497, 48926}},
		{"Ea", 2236, [...]int{0, 0, 0, 0, 0, 0, 0, 52, 497, 48926}},
		{"polygenelubricants", -2147483648, [...]int{0, 1, 2, 2, 2, 2, 2, 58, 185, 39408}},
		{"0", 48, [...]int{0, 0, 2, 2, 2, 2, 10, 46, 46, 57088}},
		{"-1", 1444, [...]int{0, 0, 0, 0, 0, 0, 13, 91, 664, 60383}},
		{"customer/7f3c", 2105184624, [...]int{0, 0, 0, 3, 3, 3, 3, 75, 816, 36106}},
		{"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz", 1577242880, [...]int{0, 1, 1, 1, 1, 1, 13, 13, 229, 24790}},
		{"Key with blank", -1355723269, [...]int{0, 0, 0, 3, 3, 3, 3, 68, 475, 54714}},
		{"\u00e9\u0301", 7992, [...]int{0, 0, 2, 2, 2, 2, 2, 2, 758, 37769}},
		{"K", 75, [...]int{0, 1, 1, 1, 1, 1, 1, 45, 208, 53826}},
		{"9", 57, [...]int{0, 1, 1, 3, 3, 3, 10, 10, 10, 38031}},
	} {
		if got := javaHash(c.key); got != c.hash {
			t.Errorf("hash of %q: %d, want %d", c.key, got, c.hash)
		}
		for i, n := range counts {
			if got := Shard(c.key, n); got != c.places[i] {
				t.Errorf("%q among %d queues: %d, want %d", c.key, n, got, c.places[i])
			}
		}
	}
}

// The sum over 100,000 keys comes from the same session: sum = sum*31 + consistentHash(("key-"+i).hashCode(), 1+i%128) in a long.
func TestShardOfManyKeys(t *testing.T) {
	var sum int64
	for i := range 100_000 {
		sum = sum*31 + int64(Shard("key-"+strconv.Itoa(i), 1+i%128))
	}
	if want := int64(2731586107882707388); sum != want {
		t.Errorf("sum %d, want %d", sum, want)
	}
}

func TestShardingKeysThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		key  string
		when When
		want string
	}{
		"one that is too long":         {key: strings.Repeat("k", MaxShardingKeyBytes+1), want: "the limit is 255"},
		"a blank one":                  {key: " \t ", want: "blank"},
		"one with a control character": {key: "a\nb", want: "control character"},
		"one with a separator":         {key: "a\x01b", want: "separator"},
		"one that is not UTF-8":        {key: "a\xff", want: "not valid UTF-8"},
		"one with a delay":             {key: "a", when: When{Delay: time.Second}, want: "delivered later"},
		"one with a time":              {key: "a", when: When{At: time.Now()}, want: "delivered later"},
	} {
		t.Run(name, func(t *testing.T) {
			err := ValidateMessage(&Message{ID: "1", Topic: "t", Body: []byte("x"), ShardingKey: c.key, When: c.when}, 0)
			var e *Error
			if !errors.As(err, &e) || e.Reason != InvalidMessage || e.Field != "sharding_key" || !strings.Contains(e.Message, c.want) {
				t.Errorf("got %v, want %q about sharding_key", err, c.want)
			}
		})
	}
	for _, key := range []string{"a", "ä b", "日本語 😀", strings.Repeat("k", MaxShardingKeyBytes)} {
		if err := ValidateMessage(&Message{ID: "1", Topic: "t", Body: []byte("x"), ShardingKey: key}, 0); err != nil {
			t.Errorf("%q: %v", key, err)
		}
	}
}

func TestAMessageBehindAFailedOneOfItsKeyIsRefused(t *testing.T) {
	var f FailedKeys
	a, b, plain := &Message{ShardingKey: "a"}, &Message{ShardingKey: "b"}, &Message{}
	f.Note(a, nil)
	f.Note(plain, errors.New("broken"))
	f.Note(nil, errors.New("missing"))
	for _, m := range []*Message{a, b, plain, nil} {
		if err := f.Behind(m); err != nil {
			t.Errorf("%+v: %v", m, err)
		}
	}
	f.Note(a, errors.New("broken"))
	if err := f.Behind(a); ReasonOf(err) != EarlierFailed || !Retryable(err) {
		t.Errorf("got %v", err)
	}
	if err := errors.Join(f.Behind(b), f.Behind(plain)); err != nil {
		t.Error(err)
	}
}
