// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// model drives one window with random operations of several receivers and keeps the ledger that everything must agree with.
type model struct {
	t    *testing.T
	g    *rig
	rnd  *rand.Rand
	recv map[*Receiver]*credit
	// out are the deliveries that applications have, by token.
	out map[string]*holding
	// reached counts the deliveries that ended without an answer of ours or with a nack, per message: its next attempt is above that.
	reached  map[string]int
	ackedOK  map[string]bool
	produced int
}

type credit struct {
	messages int
	bytes    int64
	lease    time.Duration
	// unwritten were taken and neither written nor refused.
	unwritten []Delivery
}

type holding struct {
	Delivery
	by       *Receiver
	deadline time.Time
}

const (
	modelOps     = 10_000
	modelMaxIn   = 60
	modelMaxSize = 6000
)

// TestModel_RandomOperations: nothing is lost, no credit is exceeded, attempts are right, no ack is falsely OK.
func TestModel_RandomOperations(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				m := &model{
					t: t, rnd: rand.New(rand.NewPCG(seed, 7)), recv: map[*Receiver]*credit{}, out: map[string]*holding{},
					reached: map[string]int{}, ackedOK: map[string]bool{},
				}
				m.g = newRig(t, Settings{MaxInFlight: modelMaxIn, MaxInFlightBytes: modelMaxSize, AckDeadline: 30 * time.Second})
				m.g.broker.setOn(m.trouble)
				for range modelOps {
					m.step()
					m.check()
				}
				m.finish()
			})
		})
	}
}

// trouble makes one driver call in fifty fail before it has an effect.
func (m *model) trouble(_ context.Context, call string) error {
	if rand.IntN(50) == 0 && call != "GiveBack" {
		return driver.Errorf(driver.Unavailable, "", "trouble in %s", call)
	}
	return nil
}

func (m *model) step() {
	synctest.Wait()
	switch n := m.rnd.IntN(100); {
	case n < 15:
		m.g.broker.put(fmt.Sprint("m", m.produced), 1, m.rnd.IntN(400))
		m.produced++
	case n < 17:
		m.g.broker.put(fmt.Sprint("m", m.produced), 1, 2000+m.rnd.IntN(6000))
		m.produced++
	case n < 22:
		m.attach()
	case n < 25:
		m.closeOne()
	case n < 50:
		m.take()
	case n < 58:
		m.settleWrites()
	case n < 76:
		m.ack()
	case n < 82:
		m.nack()
	case n < 88:
		m.modify()
	default:
		time.Sleep(time.Duration(m.rnd.IntN(4000)) * time.Millisecond)
	}
}

func (m *model) attach() {
	if len(m.recv) >= 8 {
		return
	}
	c := &credit{messages: 1 + m.rnd.IntN(20), bytes: int64(200 + m.rnd.IntN(3000))}
	c.lease = []time.Duration{0, 10 * time.Second, 45 * time.Second}[m.rnd.IntN(3)]
	r, err := m.g.Attach(ReceiverOptions{MaxMessages: c.messages, MaxBytes: c.bytes, AckDeadline: c.lease})
	if err != nil {
		m.t.Fatal(err)
	}
	m.recv[r] = c
}

func (m *model) anyReceiver() (*Receiver, *credit) {
	for r, c := range m.recv {
		return r, c
	}
	return nil, nil
}

func (m *model) closeOne() {
	if r, _ := m.anyReceiver(); r != nil {
		delete(m.recv, r)
		r.Close()
	}
}

func (m *model) take() {
	r, c := m.anyReceiver()
	if r == nil {
		return
	}
	ds := r.Take(m.rnd.IntN(10), int64(m.rnd.IntN(1000)))
	m.wantFresh(ds)
	c.unwritten = append(c.unwritten, ds...)
}

// wantFresh: nothing comes after its ack was OK, and attempts that an application has seen are used up.
func (m *model) wantFresh(ds []Delivery) {
	for _, d := range ds {
		if m.ackedOK[d.ID] {
			m.t.Errorf("%s was delivered after its ack was OK", d.ID)
		}
		if d.Attempt <= m.reached[d.ID] {
			m.t.Errorf("%s came with attempt %d, %d were used up already", d.ID, d.Attempt, m.reached[d.ID])
		}
	}
}

// settleWrites has a transport take or refuse what it was given.
func (m *model) settleWrites() {
	r, c := m.anyReceiver()
	if r == nil || len(c.unwritten) == 0 {
		return
	}
	ds := c.unwritten
	c.unwritten = nil
	if m.rnd.IntN(5) == 0 {
		r.Unwritten(ds)
		return
	}
	r.Written(ds)
	for _, d := range ds {
		if !time.Now().Before(d.Deadline) {
			continue // written too late: it has expired, and is not the application's
		}
		m.reached[d.ID] = d.Attempt
		m.out[d.Token] = &holding{d, r, d.Deadline}
	}
}

// someTokens answers up to n tokens that applications have, good or stale.
func (m *model) someTokens(n int) []string {
	var out []string
	for token := range m.out {
		if len(out) == n {
			break
		}
		out = append(out, token)
	}
	return out
}

// judge checks the outcome against what can be true, and drops what is over.
func (m *model) judge(what string, r Result) (*holding, bool) {
	h := m.out[r.Token]
	passed := !time.Now().Before(h.deadline)
	switch {
	case r.Outcome == Invalid:
		m.t.Errorf("%s of %s: INVALID (%s)", what, h.ID, r.Detail)
	case passed && r.Outcome != Expired && r.Outcome != Retry:
		m.t.Errorf("%s of %s after its deadline: %v", what, h.ID, r.Outcome)
	case !passed && r.Outcome == Expired && !m.ackedOK[h.ID]:
		m.t.Errorf("%s of %s before its deadline: EXPIRED (%s)", what, h.ID, r.Detail)
	}
	if r.Outcome == Expired {
		delete(m.out, r.Token)
	}
	return h, r.Outcome == OK
}

func (m *model) ack() {
	for _, r := range m.g.Ack(m.t.Context(), m.someTokens(1+m.rnd.IntN(6))) {
		h, ok := m.judge("ack", r)
		if !ok {
			continue
		}
		m.ackedOK[h.ID] = true
		if m.rnd.IntN(4) > 0 { // sometimes it is acked again
			delete(m.out, r.Token)
		}
	}
}

func (m *model) nack() {
	var nacks []Nack
	for _, token := range m.someTokens(2) {
		if !m.ackedOK[m.out[token].ID] {
			nacks = append(nacks, Nack{Token: token, Delay: time.Duration(m.rnd.IntN(10)) * time.Second})
		}
	}
	for _, r := range m.g.Nack(m.t.Context(), nacks) {
		if _, ok := m.judge("nack", r); ok {
			delete(m.out, r.Token)
		}
	}
}

func (m *model) modify() {
	var mods []Modify
	for _, token := range m.someTokens(2) {
		if !m.ackedOK[m.out[token].ID] {
			mods = append(mods, Modify{token, time.Duration(m.rnd.IntN(60)) * time.Second})
		}
	}
	for _, r := range m.g.Modify(m.t.Context(), mods) {
		if h, ok := m.judge("modify", r); ok {
			delete(m.out, r.Token)
			m.out[r.NewToken] = &holding{h.Delivery, h.by, r.Deadline}
		}
	}
}

// check looks at the invariants that hold at any time.
func (m *model) check() {
	m.t.Helper()
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	n, size, held := 0, int64(0), 0
	for _, f := range m.g.flights {
		n++
		size += f.bytes
		if f.recv == nil {
			held++
		}
	}
	if n > modelMaxIn {
		m.t.Fatalf("%d in flight, at most %d", n, modelMaxIn)
	}
	if size != m.g.bytes {
		m.t.Fatalf("%d bytes in flight, the account says %d", size, m.g.bytes)
	}
	for r, c := range m.recv {
		if r.outstanding > c.messages {
			m.t.Fatalf("a receiver has %d outstanding, its credit is %d", r.outstanding, c.messages)
		}
		if r.outstandingBytes > r.maxBytes && r.outstanding > 1 {
			m.t.Fatalf("a receiver has %d bytes in %d messages outstanding, its credit is %d", r.outstandingBytes, r.outstanding, r.maxBytes)
		}
		if r.inRing != r.hasCredit() {
			m.t.Fatalf("a receiver with credit %v is in the ring: %v", r.hasCredit(), r.inRing)
		}
	}
	if len(m.g.heap) != n+len(m.g.voids) {
		m.t.Fatalf("%d deadlines for %d in flight and %d void tokens", len(m.g.heap), n, len(m.g.voids))
	}
}

// finish closes all receivers; then a new one gets all that is not acknowledged, and acks it.
func (m *model) finish() {
	for r := range m.recv {
		r.Close()
	}
	m.g.broker.setOn(nil)
	last := m.g.attach(m.t, ReceiverOptions{})
	end := time.Now().Add(time.Hour)
	for m.g.broker.counts().acked < m.produced && time.Now().Before(end) {
		ds := takeAll(last)
		m.wantFresh(ds)
		for _, d := range ds {
			m.g.ack(m.t, d)
		}
		time.Sleep(time.Second)
	}
	c := m.g.broker.counts()
	want(m.t, "acknowledged of all produced", c.acked, m.produced)
	for id, n := range m.g.broker.acked {
		if n != 1 {
			m.t.Errorf("%s was acknowledged %d times in the broker", id, n)
		}
	}
	time.Sleep(2 * time.Minute)
	m.g.mu.Lock()
	want(m.t, "left in the window", len(m.g.flights)+len(m.g.voids)+len(m.g.heap), 0)
	m.g.mu.Unlock()
	m.t.Logf("%d messages, %d given back, %d expired, %d nacked", m.produced, m.g.seen.ended(GivenBack), m.g.seen.ended(Lapsed), m.g.seen.ended(Nacked))
}
