// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

func pairsOf(n int) *polls {
	s := &polls{looked: time.Now()}
	for i := range n {
		s.pairs = append(s.pairs, &pair{source: 1 + i, broker: "b" + strconv.Itoa(i), width: 1, size: 1024})
	}
	return s
}

func credit(messages int, bytes int64) driver.FetchRequest {
	return driver.FetchRequest{MaxMessages: messages, MaxBytes: bytes}
}

// count sums up what a plan asks for.
func count(polls []*poll) (longs, shorts, questions, messages int) {
	for _, m := range polls {
		switch m.kind {
		case long:
			longs++
		case short:
			shorts++
		case question:
			questions++
		}
		messages += m.count
	}
	return longs, shorts, questions, messages
}

func TestPlans(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		name                     string
		pairs, ready             int
		req                      driver.FetchRequest
		longs, shorts, questions int
		least, most              int // messages
	}{
		{"one quiet pair: one long poll", 1, 0, credit(256, 64*mib), 1, 0, 0, 32, 32},
		{"one quiet pair, little credit: all of it", 1, 0, credit(3, 64*mib), 1, 0, 0, 3, 3},
		{"four quiet pairs: a long poll each, half of the credit stays", 4, 0, credit(64, 64*mib), 4, 0, 0, 32, 32},
		{"more pairs than credit: questions, which need none", 8, 0, credit(4, 64*mib), 0, 0, 8, 0, 0},
		{"more pairs than bytes: questions", 8, 0, credit(1000, mib), 0, 0, 8, 0, 0},
		{"a backlog in one of one: many pops", 1, 1, credit(256, 64*mib), 0, 8, 0, 256, 256},
		{"a backlog, all the credit in the world: a bounded number", 1, 1, credit(10_000, 64*mib), 0, popsAtOnce, 0, 32 * popsAtOnce, 32 * popsAtOnce},
		{"a backlog in one of four: the quiet ones wait as well", 4, 1, credit(64, 64*mib), 3, 1, 0, 56, 56},
		{"a backlog in all of eight with little credit: some of them", 8, 8, credit(4, 64*mib), 0, 1, 0, 4, 4},
		{"bytes bound the pops", 1, 1, credit(256, mib), 0, 4, 0, 100, 128},
		{"few bytes: one pop", 1, 1, credit(256, 10*1024), 0, 1, 0, 10, 10},
		{"hardly any bytes: one message", 1, 0, credit(256, 1), 1, 0, 0, 1, 1},
	} {
		s := pairsOf(c.pairs)
		for _, p := range s.pairs[:c.ready] {
			p.ready, p.width = true, popsAtOnce
		}
		longs, shorts, questions, messages := count(s.plan(c.req, time.Minute, time.Now()))
		if longs != c.longs || shorts != c.shorts || questions != c.questions || messages < c.least || messages > c.most {
			t.Errorf("%s: %d long, %d short, %d questions, %d messages; want %d, %d, %d and %d to %d",
				c.name, longs, shorts, questions, messages, c.longs, c.shorts, c.questions, c.least, c.most)
		}
		if again := s.plan(c.req, time.Minute, time.Now()); len(again) != 0 {
			t.Errorf("%s: a second plan asks for %d more", c.name, len(again))
		}
	}
}

func TestABrokerInTroubleIsLeftAloneForAWhileAndTheOthersAreNot(t *testing.T) {
	s, now := pairsOf(2), time.Now()
	first := s.plan(credit(64, 1<<26), time.Minute, now)
	if len(first) != 2 {
		t.Fatalf("%d polls", len(first))
	}
	s.landed(first[0], outcome{err: driver.ErrUnavailable}, now)
	s.landed(first[1], outcome{}, now)
	for range 20 {
		for _, m := range s.plan(credit(64, 1<<26), time.Minute, now) {
			if m.pair.broker != "b1" {
				t.Fatalf("%s is polled at once after a failure", m.pair.broker)
			}
			s.landed(m, outcome{}, now)
		}
	}
	if at := s.wakeAt(now); at.Sub(now) > 200*time.Millisecond {
		t.Errorf("it is tried again in %v", at.Sub(now))
	}
	now = now.Add(time.Second)
	if longs, _, _, _ := count(s.plan(credit(64, 1<<26), time.Minute, now)); longs != 2 {
		t.Errorf("after its time %d polls", longs)
	}
}

// TestPollsAreShortWhereMessagesComeAndGo: a message that comes as the broker puts a poll away is found when the poll ends.
func TestPollsAreShortWhereMessagesComeAndGo(t *testing.T) {
	for _, c := range []struct {
		name    string
		req     driver.FetchRequest
		kind    pollKind
		message outcome
	}{
		{"long polls", credit(64, 1<<26), long, outcome{found: true}}, {"questions", credit(1, 1<<26), question, outcome{more: true}},
	} {
		s, now := pairsOf(2), time.Now()
		s.pairs[0].lively = now.Add(-time.Hour)
		var waits []time.Duration
		o := c.message
		for len(waits) < 5 {
			for _, m := range s.plan(c.req, time.Minute, now) {
				if m.pair != s.pairs[0] {
					continue // it stays at its broker
				}
				if m.kind != c.kind {
					t.Fatalf("%s: a poll of kind %d", c.name, m.kind)
				}
				waits = append(waits, m.wait/time.Millisecond)
				now = now.Add(m.wait)
				s.landed(m, o, now)
				o, m.pair.ready = outcome{}, false // the message is fetched, and no other comes
			}
		}
		if want := []time.Duration{5000, 200, 5000, 5000, 5000}; !slices.Equal(waits, want) {
			t.Errorf("%s: a message ends the first of %d ms, want %d", c.name, waits, want)
		}
	}
}

func TestALookThatHangsIsNoBusyLoop(t *testing.T) {
	s, now := pairsOf(1), time.Now()
	s.looking, s.looked = true, time.Time{} // an answer has failed meanwhile
	if at := s.wakeAt(now); !at.After(now) {
		t.Errorf("Fetch would look again %v ago", now.Sub(at))
	}
}

func TestAnAnswerWithoutMessagesThatPromisesSomeIsNoBusyLoop(t *testing.T) {
	for name, o := range map[string]outcome{"more": {more: true}, "nothing": {}} {
		s, now := pairsOf(1), time.Now()
		start, asked := now, 0
		for now.Sub(start) < 10*time.Second {
			s.pairs[0].ready = true // a question has said so
			for _, m := range s.plan(credit(32, 1<<26), time.Minute, now) {
				asked++
				s.landed(m, o, now.Add(time.Millisecond))
			}
			now = now.Add(time.Millisecond)
		}
		if asked > 200 {
			t.Errorf("%s: asked %d times in 10 s", name, asked)
		}
	}
}

func TestTheClassicRetryTopicIsLookedIntoNowAndThen(t *testing.T) {
	s, now := pairsOf(1), time.Now()
	s.pairs = append(s.pairs, &pair{source: 0, broker: "b0", width: 1, size: 1024, due: now})
	asked := 0
	for range 100 {
		for _, m := range s.plan(credit(64, 1<<26), time.Minute, now) {
			if m.pair.source == 0 {
				asked++
				if m.kind != short {
					t.Error("it must not be long-polled: nothing wakes such a poll")
				}
				s.landed(m, outcome{}, now)
			}
		}
		now = now.Add(time.Second)
	}
	if asked != 4 {
		t.Errorf("asked %d times in 100 s", asked)
	}
}

// TestTheAccountOfPollsHolds walks at random through plans and answers, and checks the promises of each.
func TestTheAccountOfPollsHolds(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		s, now := pairsOf(1+random.IntN(6)), time.Now()
		var air, undecoded []*poll
		for range 2000 {
			now = now.Add(time.Duration(random.IntN(20)) * time.Millisecond)
			switch random.IntN(3) {
			case 0:
				req := credit(1+random.IntN(300), 1+random.Int64N(8<<20))
				before := s.lent
				made := s.plan(req, time.Minute, now)
				_, _, _, n := count(made)
				if s.lent != before+n || n > 0 && s.lent > req.MaxMessages {
					t.Fatalf("seed %d: %d messages may come for a credit of %d", seed, s.lent, req.MaxMessages)
				}
				if most := max(1, int(req.MaxBytes/popBytes)); n > 0 && s.pops > most {
					t.Fatalf("seed %d: %d pops for %d bytes", seed, s.pops, req.MaxBytes)
				}
				air = append(air, made...)
			case 1:
				if len(air) == 0 {
					continue
				}
				i := random.IntN(len(air))
				m := air[i]
				air = append(air[:i], air[i+1:]...)
				o := []outcome{{}, {more: true}, {err: driver.ErrUnavailable}, {found: true}}[random.IntN(4)]
				if m.kind == question {
					o.found = false
				}
				s.landed(m, o, now)
				if o.found {
					undecoded = append(undecoded, m)
				}
			case 2:
				if len(undecoded) > 0 {
					m := undecoded[0]
					undecoded = undecoded[1:]
					s.forget(m)
					m.pair.learned(m.count, int64(m.count)*random.Int64N(100_000), random.Int64N(1000))
				}
			}
		}
		for _, m := range air {
			s.landed(m, outcome{}, now)
		}
		for _, m := range undecoded {
			s.forget(m)
		}
		if s.pops != 0 || s.lent != 0 || s.expected != 0 {
			t.Errorf("seed %d: %d pops, %d messages and %d bytes are left in the account", seed, s.pops, s.lent, s.expected)
		}
		for _, p := range s.pairs {
			if p.pops != 0 || p.parked {
				t.Errorf("seed %d: pair %s has %d pops, parked: %v", seed, p.broker, p.pops, p.parked)
			}
		}
	}
}

func TestAnswersAreJudged(t *testing.T) {
	m, q := &poll{pair: &pair{broker: "b"}, kind: short}, &poll{pair: &pair{broker: "b"}, kind: question}
	answer := func(code int, fields map[string]string) *wire.Command {
		return &wire.Command{Code: code, Fields: fields}
	}
	for _, c := range []struct {
		name        string
		m           *poll
		answer      *wire.Command
		found, more bool
		reason      driver.Reason
	}{
		{"messages", m, answer(wire.CodeSuccess, nil), true, false, ""},
		{"nothing", m, answer(wire.CodePollTimeout, map[string]string{"restNum": "0"}), false, false, ""},
		{"nothing, locked by others", m, answer(wire.CodePollTimeout, map[string]string{"restNum": "40"}), false, true, ""},
		{"nothing, no number", m, answer(wire.CodePollTimeout, nil), false, false, ""},
		{"too many polls", m, answer(wire.CodePollingFull, nil), false, false, driver.Throttled},
		{"no topic", m, answer(wire.CodeTopicNotExist, nil), false, false, driver.TopicNotFound},
		{"no group", m, answer(wire.CodeGroupNotExist, nil), false, false, driver.Unavailable},
		{"no right", m, answer(wire.CodeNoPermission, nil), false, false, driver.Unauthorized},
		{"there is something", q, answer(wire.CodeSuccess, map[string]string{"hasMsg": "true"}), false, true, ""},
		{"there is nothing", q, answer(wire.CodeSuccess, map[string]string{"hasMsg": "false"}), false, false, ""},
		{"garbage", q, answer(wire.CodeSuccess, map[string]string{"hasMsg": "perhaps"}), false, false, driver.Unavailable},
	} {
		o := c.m.judge(c.answer, nil)
		if o.found != c.found || o.more != c.more || (o.err != nil) != (c.reason != "") || o.err != nil && driver.ReasonOf(o.err) != c.reason {
			t.Errorf("%s: %+v", c.name, o)
		}
	}
}

// TestARefusalNamesTheAddressThatWasAsked: a refusal was read with the pair's address, which a new route changes at any moment and under the lock.
func TestARefusalNamesTheAddressThatWasAsked(t *testing.T) {
	m := &poll{pair: &pair{broker: "broker-a", address: "10.0.0.2:10911"}, address: "10.0.0.1:10911"}
	o := m.judge(&wire.Command{Code: wire.CodeGroupNotExist, Remark: "subscription group not exist"}, nil)
	if o.code != wire.CodeGroupNotExist || o.err == nil || !strings.Contains(o.err.Error(), "10.0.0.1:10911") {
		t.Errorf("code %d: %v; want %d and the address that was asked", o.code, o.err, wire.CodeGroupNotExist)
	}
}
