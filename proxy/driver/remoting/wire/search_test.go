// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
)

// searched is a broker's queue as FirstAt sees it: places are the times at which its messages were stored, in ms; 0 is a hole.
type searched struct {
	oldest int64
	places []int64
	guess  string // the broker's answer to a search; empty = no right to ask
	reads  int
}

func (s *searched) answer(cmd *Command) *Command {
	end := s.oldest + int64(len(s.places))
	offset := func(n int64) *Command { return &Command{Fields: map[string]string{"offset": strconv.FormatInt(n, 10)}} }
	switch cmd.Code {
	case reqGetMinOffset:
		return offset(s.oldest)
	case reqGetMaxOffset:
		return offset(end)
	case reqSearchOffset:
		if s.guess == "" {
			return &Command{Code: CodeNoPermission}
		}
		return &Command{Fields: map[string]string{"offset": s.guess}}
	case reqPullMessage:
		s.reads++
		at, _ := strconv.ParseInt(cmd.Fields["queueOffset"], 10, 64)
		if stored := s.places[at-s.oldest]; stored > 0 {
			return &Command{Body: appendStored(nil, StoredMessage{Topic: "T", Offset: at, Stored: time.UnixMilli(stored)}, []byte("x"), false)}
		}
		return &Command{Code: CodePullOffsetMoved, Fields: map[string]string{"nextBeginOffset": strconv.FormatInt(at+1, 10)}}
	default:
		return &Command{Code: CodeNotSupported}
	}
}

func TestTheFirstMessageOfATimeIsFoundWhateverTheBrokerGuesses(t *testing.T) {
	noLeaks(t)
	full := []int64{100, 200, 200, 200, 300, 400}
	for _, c := range []struct {
		name   string
		places []int64
		at     int64
		want   int64
	}{
		{"before all", full, 50, 10},
		{"the time of the first", full, 100, 10},
		{"between two", full, 101, 11},
		{"the time of several", full, 200, 11},
		{"after several", full, 201, 14},
		{"the time of the last", full, 400, 15},
		{"after all", full, 401, 16},
		{"an empty queue", nil, 100, 10},
		{"holes around it", []int64{0, 100, 0, 0, 300, 0}, 200, 12}, // 12 and 13 are holes: 14 is the first, as it is from 12
		{"a hole at the end", []int64{100, 0, 0}, 200, 11},
	} {
		for _, guess := range []string{"", "0", "10", "11", "12", "13", "14", "15", "16", "99", "-1"} {
			s := &searched{oldest: 10, places: c.places, guess: guess}
			p := answering(t, s.answer)
			got, err := newClient(t, connectionTo(p.address())).FirstAt(t.Context(), Queue{Topic: "T", Address: p.address()}, "g", time.UnixMilli(c.at))
			if err != nil || got != c.want {
				t.Errorf("%s, the broker says %q: %d, %v; want %d", c.name, guess, got, err, c.want)
			}
			if guess == strconv.FormatInt(c.want, 10) && s.reads > 2 && !slices.Contains(c.places, 0) {
				t.Errorf("%s: %d messages were read to see that the broker is right", c.name, s.reads)
			}
		}
	}
}

func TestASearchEndsWithTheBrokersError(t *testing.T) {
	noLeaks(t)
	for _, broken := range []int{reqGetMaxOffset, reqGetMinOffset, reqSearchOffset, reqPullMessage} {
		s := &searched{oldest: 10, places: []int64{100, 200}, guess: "10"}
		p := answering(t, func(cmd *Command) *Command {
			if cmd.Code == broken {
				return &Command{Code: CodeSystemError, Remark: "broken"}
			}
			return s.answer(cmd)
		})
		_, err := newClient(t, connectionTo(p.address())).FirstAt(t.Context(), Queue{Topic: "T", Address: p.address()}, "g", time.UnixMilli(150))
		if code, _ := CodeOf(err); code != CodeSystemError {
			t.Errorf("request %d fails: %v", broken, err)
		}
	}
}

// TestTheFirstMessageOfATimeOnARealBroker looks for each time at which a message was stored, and the moments before and after it.
func TestTheFirstMessageOfATimeOnARealBroker(t *testing.T) {
	cluster := shared.Cluster(t)
	noLeaks(t)
	s := newSite(t, cluster, 1)
	q, group := s.queues[0], "group_"+uuid.NewString()[:13]
	must(t, "create the group", s.CreateGroup(t.Context(), q.Address, group))
	const n = 30
	s.store(t, q, n)
	must(t, "dispatch", cluster.AwaitDispatch(t.Context()))
	var stored []time.Time
	for i := range int64(n) {
		at, offset, err := s.StoredAt(t.Context(), q, group, i, n)
		if err != nil || offset != i {
			t.Fatalf("message %d: %d, %v", i, offset, err)
		}
		stored = append(stored, at)
	}
	name := "subscriber_" + s.topic
	who, err := cluster.CreateUser(t.Context(), name)
	must(t, "create the user", err)
	must(t, "grant", cluster.Grant(t.Context(), name, rocketmq.Rights{Subscribe: []string{s.topic}, Groups: []string{group}}))
	for user, client := range map[string]*Client{"administrator": s.Client, "who may read only": s.as(t, credentialsOf(who))} {
		guesses := 0
		for _, at := range stored {
			for _, t0 := range []time.Time{at, at.Add(time.Millisecond), at.Add(-time.Millisecond), at.Add(-time.Hour), at.Add(time.Hour)} {
				want := int64(slices.IndexFunc(stored, func(s time.Time) bool { return !s.Before(t0) }))
				if want < 0 {
					want = n
				}
				got, err := client.FirstAt(t.Context(), q, group, t0)
				if err != nil || got != want {
					t.Fatalf("%s: the first at %s is %d, %v; want %d", user, t0.Format(time.StampMilli), got, err, want)
				}
				if guess, err := client.SearchOffset(t.Context(), q, t0); err == nil && guess != want {
					guesses++
				}
			}
		}
		t.Logf("%s: the broker's own search was wrong %d times of %d", user, guesses, 5*n)
	}
}
