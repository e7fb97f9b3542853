// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

const (
	// popMost is the most that one pop brings; brokers refuse to be asked for more.
	popMost = 32
	// popBytes is the most that a pop brings in bytes, unless its first message alone is larger (seen on 5.5.0).
	popBytes = 256 << 10
	// popsAtOnce bounds the pops in the air for one topic at one broker while there is a backlog. 8 to 16 of 32 messages reach what the broker
	// can give; more only wait for each other's locks there.
	popsAtOnce = 16
	// pollTime is how long the broker holds a request that finds nothing, at most. It is also how long an answer may still come for a Fetch that has
	// gone; 1,000 idle groups cost the broker 200 answers a second.
	pollTime = 5 * time.Second
	// pollFirst is that time just after a message; see pair.patience. Brokers end requests 50 ms early and look every 20 ms: it is 150 to 170 ms.
	pollFirst = 200 * time.Millisecond
	// pollMargin is what a poll may take beyond that. Nobody takes an answer that comes later, and its messages are away until their leases end; so a
	// broker that is slow is waited for. One that is gone is found out by other requests on the same connection.
	pollMargin = 15 * time.Second
	// holdTime is how long messages that arrived while no Fetch ran wait for the next one before they are given back. A message that was given
	// back comes again after 2 s, so waiting for about half of that loses the least.
	holdTime = time.Second
	// classicEvery is how often the group's classic retry topic is looked into while somebody receives.
	classicEvery = 30 * time.Second
	// classicEager is for how long it is polled like any other topic after something was there: what was redriven or nacked comes in time then.
	classicEager = 2 * time.Minute
	// firstSize is what a message is taken to have before any was seen.
	firstSize = 4 << 10

	// blanksAllowed is how many empty answers in a row to short pops are no reason to wait; after that the pause doubles from 1 ms to blankMost.
	blanksAllowed = 3
	blankMost     = 100 * time.Millisecond

	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
)

// pair is one topic on one broker: what is polled. All fields but source and broker are guarded by the consumer's lock.
type pair struct {
	source  int
	broker  string
	address string
	// pops are the pops in the air; parked says that one of them, or a question whether there is something, may wait at the broker.
	pops   int
	parked bool
	// ready: there is something, or may be. width is how many pops at once are worth it then.
	ready bool
	width int
	// size is a message's mean size, as far as seen.
	size int64
	// blanks counts answers in a row that brought nothing although the broker has something: its queues are locked by other pops, or it has
	// enough unacknowledged.
	blanks int
	// failures in a row, the last one, and until when the pair is left alone.
	failures int
	err      error
	retryAt  time.Time
	// groupless: the broker does not know the group.
	groupless bool
	// attempt names the pop of an ordered consumer that is in the air, or the last one while no answer to it has come: what the broker lent to it, it lends
	// again to one that repeats the name, and to no other.
	attempt string
	// lively is when something was last found there, or may have come; at first, when the pair was made.
	lively time.Time
	// due is when a classic retry topic is looked into again, eager until when it is polled like any other.
	due, eager time.Time
	// gone: the route does not name it any more.
	gone bool
}

type pollKind uint8

const (
	// short asks for what is there.
	short pollKind = iota
	// long waits at the broker for messages.
	long
	// question waits at the broker until there is something, and takes nothing.
	question
)

// poll is one request in the air, or its answer.
type poll struct {
	pair    *pair
	address string
	kind    pollKind
	// wait is how long the broker holds it when there is nothing; 0 for short ones.
	wait  time.Duration
	count int
	// bytes is what it is expected to bring.
	bytes    int64
	lease    time.Duration
	attempt  string
	sent     time.Time
	received time.Time
	answer   *wire.Command
}

// polls is what a consumer has asked brokers for and what has come, under one lock. Answers come from the connections' readers, which only put
// them into arrived and wake whoever fetches.
type polls struct {
	sync.Mutex
	closed bool
	// ordered: the consumer is; each pair has one pop at a time then. batches numbers what they bring.
	ordered bool
	batches uint64
	// returned is how often each message that was popped in order was given back by this process: brokers count that as a delivery.
	returned map[placeInLine]int
	pairs    []*pair
	turn     int
	// pops in the air, and in arrived; lent is how many messages they may bring, expected how many bytes.
	pops, lent int
	expected   int64
	arrived    []*poll
	// spare are decoded messages that the Fetch which decoded them had no credit for.
	spare      []*driver.Received
	spareBytes int64
	// fetches is the number of Fetch calls under way. hold runs while there is something and no Fetch; holds numbers them.
	fetches int
	hold    *time.Timer
	holds   int
	// changed is closed when something came; nil = nobody waits for it.
	changed chan struct{}
	// looked is when routes and the group were last looked after; looking: it is under way.
	looked, lookedClassic time.Time
	// hurried is when a message was last redriven into the classic retry topic by this process.
	hurried time.Time
	looking bool
	// classicMembers is the error that classic members are in the group, nil when the last look found none.
	classicMembers error
	checkedMembers time.Time
	ackers         map[string]*acker
}

// plan chooses what to ask for now: against req's credit less what is on its way already. Quiet pairs come first, so that a backlog in one topic
// does not starve the others. Where the credit is too small for a long poll on each pair, quiet ones are only asked whether they have something,
// which needs no credit.
func (s *polls) plan(req driver.FetchRequest, lease time.Duration, now time.Time) []*poll {
	b := s.budget(req, lease, now)
	for i := range s.pairs {
		if p := s.pairs[(s.turn+i)%len(s.pairs)]; p.idleAt(now) {
			b.park(p)
		}
	}
	for again := true; again; {
		again = false
		for range s.pairs {
			p := s.pairs[s.turn%len(s.pairs)]
			s.turn = (s.turn + 1) % len(s.pairs)
			again = b.take(p) || again
		}
	}
	return b.made
}

// budget is what one plan may spend.
type budget struct {
	*polls
	now    time.Time
	lease  time.Duration
	free   int   // messages
	bytes  int64 // bytes
	room   int   // pops
	scarce bool
	// share is what a quiet pair's long poll takes, worth what makes another pop for a busy one worth it.
	share, worth int
	made         []*poll
}

func (s *polls) budget(req driver.FetchRequest, lease time.Duration, now time.Time) *budget {
	n := 0
	for _, p := range s.pairs {
		if !p.gone {
			n++
		}
	}
	n = max(n, 1)
	most := int(max(1, req.MaxBytes/popBytes))
	b := &budget{
		polls: s, now: now, lease: lease, free: req.MaxMessages - s.lent - len(s.spare), bytes: req.MaxBytes - s.spareBytes - s.expected, room: most - s.pops,
		scarce: n > 1 && min(req.MaxMessages, most) < 2*n, share: min(popMost, req.MaxMessages), worth: min(popMost, max(1, req.MaxMessages/4)),
	}
	if n > 1 {
		b.share = min(popMost, max(1, req.MaxMessages/(2*n)))
	}
	return b
}

// idleAt: nothing is known to be there, and nothing waits at the broker for it.
func (p *pair) idleAt(now time.Time) bool {
	if !p.due.IsZero() && !now.Before(p.eager) {
		if !now.Before(p.due) {
			p.ready, p.due = true, now.Add(classicEvery)
		}
		return false
	}
	return !p.gone && !p.ready && !p.parked && p.pops == 0 && !now.Before(p.retryAt)
}

// patience is how long the broker is asked to hold a request for p. A broker looks for messages first and then puts the request with those that wait; a
// message that it shows between the two wakes nobody and is found when the request ends (PopMessageProcessor and PopLongPollingService; seen on 5.5.0: 3 of
// 4,000 messages that were sent as the one before was received). The gap is some microseconds, so it is met where one message follows another: there
// the first request is short, one more than otherwise each time that messages stop coming.
func (p *pair) patience(now time.Time) time.Duration {
	if now.Sub(p.lively) < pollFirst/2 {
		return pollFirst
	}
	return pollTime
}

// park puts a request at the broker that waits for a message.
func (b *budget) park(p *pair) {
	if b.scarce {
		p.parked = true
		b.made = append(b.made, &poll{pair: p, address: p.address, kind: question, wait: p.patience(b.now), lease: b.lease, attempt: p.attempt})
		return
	}
	if n := min(b.share, b.free, b.fits(p)); n > 0 && b.room > 0 {
		p.parked = true
		b.pop(p, long, n).wait = p.patience(b.now)
	}
}

// take asks a busy pair for more. It reports whether it did.
func (b *budget) take(p *pair) bool {
	if p.gone || !p.ready || p.pops >= p.width || b.ordered && p.pops > 0 || b.room <= 0 || b.now.Before(p.retryAt) {
		return false
	}
	n := min(popMost, b.free, b.fits(p))
	// Small pops cost the broker as much as large ones: beside others in the air it is better to wait for more credit.
	if n <= 0 || n < b.worth && p.pops > 0 {
		return false
	}
	b.pop(p, short, n)
	return true
}

// fits is how many messages of p the bytes allow; one is always allowed when nothing is on its way.
func (b *budget) fits(p *pair) int {
	if b.bytes <= 0 {
		if b.lent+len(b.spare) == 0 {
			return 1
		}
		return 0
	}
	return int(min(popMost, max(1, b.bytes/p.size)))
}

func (b *budget) pop(p *pair, kind pollKind, n int) *poll {
	m := &poll{pair: p, address: p.address, kind: kind, count: n, bytes: min(int64(n)*p.size, popBytes), lease: b.lease}
	if b.ordered {
		if p.attempt == "" {
			p.attempt = strconv.FormatUint(rand.Uint64(), 36)
		}
		m.attempt = p.attempt
	}
	p.pops++
	b.pops++
	b.lent += n
	b.expected += m.bytes
	b.free -= n
	b.bytes -= m.bytes
	b.room--
	b.made = append(b.made, m)
	return m
}

// wakeAt is when something is due that no answer tells; zero = nothing.
func (s *polls) wakeAt(now time.Time) time.Time {
	at := now.Add(lookEvery)
	if !s.looking {
		at = s.looked.Add(lookEvery)
	}
	for _, p := range s.pairs {
		if p.gone {
			continue
		}
		if p.retryAt.After(now) && p.retryAt.Before(at) {
			at = p.retryAt
		}
		if !p.due.IsZero() && p.due.Before(at) && !now.Before(p.eager) {
			at = p.due
		}
	}
	return at
}

// wake tells whoever waits in Fetch.
func (s *polls) wake() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// lend counts a pop that is about to be in the air.
func (s *polls) lend(m *poll) {
	m.pair.pops++
	s.pops++
	s.lent += m.count
	s.expected += m.bytes
}

// landed takes a poll out of the air. What a pop with messages may bring stays counted until it is decoded.
func (s *polls) landed(m *poll, o outcome, now time.Time) {
	p := m.pair
	if m.kind != short {
		p.parked = false
	}
	if m.kind != question {
		p.pops--
		if o.err == nil || o.code != 0 {
			p.attempt = ""
		}
		if !o.found {
			s.forget(m)
		}
	}
	if o.err != nil {
		p.failures++
		p.err = o.err
		p.retryAt = now.Add(backOff(p.failures))
		p.groupless = p.groupless || o.code == wire.CodeGroupNotExist
		s.looked = time.Time{} // the route may have changed
		return
	}
	p.failures, p.err = 0, nil
	switch {
	case o.found:
		p.blanks, p.lively = 0, now
	case o.more:
		p.ready, p.lively = true, now
		if m.kind != question {
			// Nothing although there is something. Now and then that is another pop's lock; always, it must not become a busy loop.
			p.blanks++
			p.width = 1
			p.retryAt = now.Add(min(time.Millisecond<<min(p.blanks, 10), blankMost))
		}
	default:
		p.ready, p.width = false, 1
		if m.kind == short {
			// One in a row ends a backlog. Several come from questions whose messages a filter skips or others take.
			if p.blanks++; p.blanks > blanksAllowed {
				p.retryAt = now.Add(min(time.Millisecond<<min(p.blanks-blanksAllowed, 10), blankMost))
			}
		}
	}
}

// forget takes a pop's messages off the account.
func (s *polls) forget(m *poll) {
	s.pops--
	s.lent -= m.count
	s.expected -= m.bytes
}

// learned notes what a pop brought: n messages of size bytes together, and rest more at the broker.
func (p *pair) learned(n int, size, rest int64) {
	if n > 0 {
		if !p.due.IsZero() {
			p.eager = time.Now().Add(classicEager)
		}
		p.size = max(1, (3*p.size+size/int64(n))/4)
	}
	if p.ready = rest > 0; p.ready {
		p.width = int(min(popsAtOnce, 1+rest/popMost))
	} else {
		p.width = 1
	}
}

func backOff(failures int) time.Duration {
	d := min(retryFirst<<min(failures-1, 10), retryMost)
	return d/2 + rand.N(d/2+1)
}

// outcome is what an answer says at first sight, without decoding its messages.
type outcome struct {
	// found: it has messages. more: there are messages, but not in this answer.
	found, more bool
	code        int
	err         error
}

// judge reads an answer to m.
func (m *poll) judge(answer *wire.Command, err error) outcome {
	if err != nil {
		return outcome{err: wire.Errorf(err, "ask broker %s for messages", m.pair.broker)}
	}
	switch {
	case answer.Code == wire.CodeSuccess && m.kind == question:
		more, err := wire.DecodeNotification(answer)
		return outcome{more: more, err: err}
	case answer.Code == wire.CodeSuccess:
		return outcome{found: true}
	case answer.Code == wire.CodePollTimeout:
		rest, err := strconv.ParseInt(answer.Fields["restNum"], 10, 64)
		return outcome{more: err == nil && rest > 0}
	}
	if answer.Code == wire.CodePollingFull {
		// Trying again after a while is polling without waiting: the broker looks for messages before it refuses.
		err := driver.Errorf(driver.Throttled, "", "broker %s has as many waiting polls as it takes (code %d)", m.pair.broker, answer.Code)
		return outcome{code: answer.Code, err: err}
	}
	// The poll's address, not the pair's, which changes with the route.
	refused := &wire.AnswerError{Address: m.address, Code: answer.Code, Remark: answer.Remark}
	return outcome{code: answer.Code, err: wire.Errorf(refused, "ask broker %s for messages", m.pair.broker)}
}
