// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

const (
	codeQuery  = 12
	codeEnd    = 37
	codeLock   = 41
	codeUnlock = 42
)

// fakeHalves is a broker with transactions: it commits as often as it is told, lends locks, and answers what its index has.
type fakeHalves struct {
	broker *fakeBroker

	mu sync.Mutex
	// halves are the keys by offset; copies count commits by key, indexed is what the index has of them.
	halves          []string
	copies, indexed map[string]int
	locks           map[string]string // name to holder
	ended           []string
	// slowIndex keeps the index as it is; end, if set, answers END: false = as usual.
	slowIndex bool
	end       func(key string) (*wire.Command, bool)
	refuse    map[int]int // request code to answer code
	silent    bool        // nothing is answered
	// lateUnlocks has unlocks arrive right after the next lock that is asked for; late are those under way.
	lateUnlocks bool
	late        []func()
}

func newFakeHalves(t *testing.T, name string, f *fakeRocket) *fakeHalves {
	h := &fakeHalves{broker: f.brokers[name], copies: map[string]int{}, indexed: map[string]int{}, locks: map[string]string{}, refuse: map[int]int{}}
	h.broker.fakeServer.mu.Lock() // nobody has connected yet
	h.broker.fakeServer.answer = h.handle
	h.broker.fakeServer.mu.Unlock()
	return h
}

func (h *fakeHalves) handle(cmd *wire.Command) *wire.Command {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.silent {
		return nil
	}
	if code := h.refuse[cmd.Code]; code != 0 {
		return &wire.Command{Code: code, Remark: "refused"}
	}
	switch cmd.Code {
	case codeQuery:
		return h.query(cmd)
	case codeEnd:
		return h.doEnd(cmd)
	case codeLock, codeUnlock:
		return h.doLock(cmd)
	case codeSend:
		if flag, err := strconv.Atoi(cmd.Fields["f"]); err == nil && flag&wire.SysPrepared != 0 {
			if h.broker.reply != nil {
				if a, done := h.broker.reply(cmd, nil); done {
					return a
				}
			}
			h.halves = append(h.halves, cmd.Fields["g"]+"_"+idIn(cmd.Fields["i"]))
			n := len(h.halves) - 1
			id := "7F00000100002A9F" + strings.Repeat("0", 16-len(strconv.FormatInt(int64(n), 16))) + strconv.FormatInt(int64(n), 16)
			return &wire.Command{Fields: map[string]string{"queueId": cmd.Fields["e"], "queueOffset": strconv.Itoa(n), "msgId": id}}
		}
	}
	return h.broker.handle(cmd)
}

// query answers with code 22, or with messages that are made by hand.
func (h *fakeHalves) query(cmd *wire.Command) *wire.Command {
	if !h.slowIndex {
		maps.Copy(h.indexed, h.copies)
	}
	var body []byte
	for key, n := range h.indexed {
		born, id, _ := strings.Cut(key, "_")
		for range n {
			if id == cmd.Fields["key"] {
				ms, _ := strconv.ParseInt(born, 10, 64)                                                            // the test wrote it
				body = appendMessage(body, cmd.Fields["topic"], 0, fakeMessage{id: id, born: ms, sysFlag: 2 << 2}) // what a commit leaves
			}
		}
	}
	if len(body) == 0 {
		return &wire.Command{Code: wire.CodeQueryNotFound}
	}
	return &wire.Command{Body: body}
}

func (h *fakeHalves) doEnd(cmd *wire.Command) *wire.Command {
	n, err := strconv.Atoi(cmd.Fields["tranStateTableOffset"])
	if err != nil || n >= len(h.halves) {
		return &wire.Command{Code: wire.CodeSystemError, Remark: "Find prepared transaction message failed"}
	}
	key := h.halves[n]
	h.ended = append(h.ended, cmd.Fields["commitOrRollback"]+" "+key)
	if h.end != nil {
		if a, done := h.end(key); done {
			return a
		}
	}
	if cmd.Fields["commitOrRollback"] == "8" {
		h.copies[key]++
	}
	return &wire.Command{}
}

func (h *fakeHalves) doLock(cmd *wire.Command) *wire.Command {
	var q struct {
		Space  string      `json:"consumerGroup"`
		Holder string      `json:"clientId"`
		Locks  []wire.Lock `json:"mqSet"`
	}
	if err := json.Unmarshal(cmd.Body, &q); err != nil {
		return &wire.Command{Code: wire.CodeSystemError, Remark: err.Error()}
	}
	locked := []wire.Lock{}
	for _, l := range q.Locks {
		unlock := func() {
			if h.locks[l.Name] == q.Holder {
				delete(h.locks, l.Name)
			}
		}
		holder, taken := h.locks[l.Name]
		switch {
		case cmd.Code == codeUnlock && h.lateUnlocks:
			h.late = append(h.late, unlock)
		case cmd.Code == codeUnlock:
			unlock()
		case !taken || holder == q.Holder:
			h.locks[l.Name] = q.Holder
			locked = append(locked, l)
		}
	}
	if cmd.Code == codeLock {
		for _, unlock := range h.late {
			unlock()
		}
		h.late = nil
	}
	body, err := json.Marshal(map[string]any{"lockOKMQSet": locked})
	if err != nil {
		return &wire.Command{Code: wire.CodeSystemError, Remark: err.Error()}
	}
	return &wire.Command{Body: body}
}

// with changes the fake.
func (h *fakeHalves) with(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// seen is how often a transaction was committed in all, the ends that were asked for, and the locks that are held.
func (h *fakeHalves) seen() (copies, ends, locks int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.copies {
		copies += n
	}
	return copies, len(h.ended), len(h.locks)
}

// endRig is a producer on one fake broker.
type endRig struct {
	t *testing.T
	h *fakeHalves
	f *fakeRocket
	p *producer
}

func newEndRig(t *testing.T) *endRig {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere("t", 1)
	r := &endRig{t: t, h: newFakeHalves(t, "a", f), f: f}
	r.p = r.another()
	return r
}

// another is a client on another host.
func (r *endRig) another() *producer {
	cfg := r.f.config("t")
	cfg.Transactions, cfg.SendTimeout = true, 500*time.Millisecond
	p, err := New(r.f.driver.log).OpenProducer(within(r.t, 20*time.Second), cfg)
	if err != nil {
		r.t.Fatalf("open the producer: %v", err)
	}
	r.t.Cleanup(func() { mustClose(r.t, p) })
	return p.(*producer)
}

func (r *endRig) begin() driver.TransactionHandle {
	r.t.Helper()
	got, err := r.p.Begin(within(r.t, 5*time.Second), messages("t", 1)[0])
	if err != nil {
		r.t.Fatalf("begin: %v", err)
	}
	return got.Handle
}

func (r *endRig) end(p *producer, h driver.TransactionHandle, d driver.Decision, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return p.End(ctx, h, d)
}

// release gives back what may go, as if heldAtLeast had passed.
func (r *endRig) release() {
	r.ripen()
	r.p.transactions.release(r.t.Context(), 5*time.Second)
}

func (r *endRig) ripen() {
	held := &r.p.transactions.state
	held.Lock()
	for i := range held.held {
		l := &held.held[i]
		l.asked, l.since = l.asked.Add(-2*heldAtLeast), l.since.Add(-2*heldAtLeast)
	}
	held.Unlock()
}

// delivered demands that what was begun was committed once.
func (r *endRig) delivered(want int) {
	r.t.Helper()
	if copies, _, _ := r.h.seen(); copies != want {
		r.t.Errorf("%d copies are in the topic, want %d", copies, want)
	}
}

func TestACommitWhoseAnswerWasLostIsNotRepeated(t *testing.T) {
	r := newEndRig(t)
	handle := r.begin()
	r.h.with(func() {
		r.h.end = func(key string) (*wire.Command, bool) {
			r.h.copies[key]++
			return nil, true // it was done, and nobody hears of it
		}
	})
	for _, p := range []*producer{r.p, r.another(), r.p} {
		if err := r.end(p, handle, driver.Commit, 5*time.Second); err != nil {
			t.Errorf("commit: %v", err)
		}
	}
	if _, ends, _ := r.h.seen(); ends != 1 {
		t.Errorf("%d ends were asked for, want one", ends)
	}
	r.delivered(1)
	if err := r.end(r.p, handle, driver.Rollback, 5*time.Second); driver.ReasonOf(err) != driver.TransactionEnded {
		t.Errorf("roll back after it: %v", err)
	}
}

func TestACommitOfUnknownEffectHoldsOthersBackUntilItIsKnown(t *testing.T) {
	r := newEndRig(t)
	handle, other := r.begin(), r.another()
	r.h.with(func() { r.h.end = func(string) (*wire.Command, bool) { return nil, true } }) // neither done nor answered
	if err := r.end(r.p, handle, driver.Commit, time.Second); err == nil || !driver.Retryable(err) {
		t.Fatalf("commit: %v", err)
	}
	r.h.with(func() { r.h.end = nil })
	for name, p := range map[string]*producer{"the same host": r.p, "another host": other} {
		if err := r.end(p, handle, driver.Commit, 500*time.Millisecond); err == nil || !driver.Retryable(err) {
			t.Errorf("a second commit by %s while the first may still be done: %v", name, err)
		}
	}
	r.delivered(0)
	// Its time is over.
	half, err := parseHalf(handle)
	if err != nil {
		t.Fatal(err)
	}
	fate, err := r.p.transactions.claim(t.Context(), fateKey(half))
	if err != nil {
		t.Fatal(err)
	}
	fate.unclearUntil = time.Now()
	r.p.transactions.unclaim(fate)
	state := &r.p.transactions.state
	state.Lock()
	for i := range state.held {
		state.held[i].keepUntil = time.Now()
	}
	state.Unlock()
	r.release()
	if err := r.end(r.p, handle, driver.Commit, 5*time.Second); err != nil {
		t.Errorf("a commit when that is known: %v", err)
	}
	r.delivered(1)
	if err := r.end(other, handle, driver.Commit, 5*time.Second); err != nil {
		t.Errorf("a commit by another host at last: %v", err)
	}
	r.delivered(1)
}

// TestTheIndexIsBehind: locks are held until it is not, so that another host cannot take a committed transaction for an open one.
func TestTheIndexIsBehind(t *testing.T) {
	r := newEndRig(t)
	handle, other := r.begin(), r.another()
	r.h.with(func() { r.h.slowIndex = true })
	if err := r.end(r.p, handle, driver.Commit, 5*time.Second); err != nil {
		t.Fatalf("commit: %v", err)
	}
	r.release()
	if _, _, locks := r.h.seen(); locks != 1 {
		t.Errorf("%d locks are held while the index has nothing", locks)
	}
	if err := r.end(other, handle, driver.Commit, 500*time.Millisecond); err == nil || !driver.Retryable(err) {
		t.Errorf("another host: %v", err)
	}
	r.h.with(func() { r.h.slowIndex = false })
	if err := r.end(other, handle, driver.Commit, 5*time.Second); err != nil {
		t.Errorf("another host, when the index has it: %v", err)
	}
	r.release()
	if _, _, locks := r.h.seen(); locks != 0 {
		t.Errorf("%d locks are held after all", locks)
	}
	r.delivered(1)
}

// TestACheckRightAfterTheCommit: the broker may ask before its index has what was just committed. The answer must wait, or it would be committed again.
func TestACheckRightAfterTheCommit(t *testing.T) {
	r := newEndRig(t)
	handle := r.begin()
	half, err := parseHalf(handle)
	if err != nil {
		t.Fatal(err)
	}
	r.h.with(func() { r.h.slowIndex = true })
	if err := r.end(r.p, handle, driver.Commit, 5*time.Second); err != nil {
		t.Fatalf("commit: %v", err)
	}
	half.Checked = true
	if err := r.end(r.p, halfHandle(half), driver.Commit, 300*time.Millisecond); err == nil || !driver.Retryable(err) {
		t.Errorf("an answer to a check that came before the index had the commit: %v", err)
	}
	wantReason(t, "roll back in that moment", r.end(r.p, handle, driver.Rollback, 5*time.Second), driver.TransactionEnded)
	if _, _, locks := r.h.seen(); locks != 1 {
		t.Errorf("%d locks are held, want that of the commit", locks)
	}
	r.h.with(func() { r.h.slowIndex = false })
	if err := r.end(r.p, halfHandle(half), driver.Commit, 5*time.Second); err != nil {
		t.Errorf("an answer to the check when the index has it: %v", err)
	}
	r.delivered(1)
	// A broker that has lost what it had committed asks, and gets it again.
	r.h.with(func() {
		clear(r.h.copies)
		clear(r.h.indexed)
		clear(r.h.locks)
	})
	fate, err := r.p.transactions.claim(t.Context(), fateKey(half))
	if err != nil {
		t.Fatal(err)
	}
	fate.at = time.Now().Add(-unclearFor)
	r.p.transactions.unclaim(fate)
	if err := r.end(r.p, halfHandle(half), driver.Commit, 5*time.Second); err != nil {
		t.Errorf("a commit again: %v", err)
	}
	r.delivered(1)
}

func TestManyLocksGoBackWithOneQuestion(t *testing.T) {
	r := newEndRig(t)
	for range 50 {
		if err := r.end(r.p, r.begin(), driver.Commit, 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	asked, unlocked := r.h.broker.asked(codeQuery), r.h.broker.asked(codeUnlock)
	r.release()
	questions, requests := r.h.broker.asked(codeQuery)-asked, r.h.broker.asked(codeUnlock)-unlocked
	if _, _, locks := r.h.seen(); locks > 0 || questions != 1 || requests != 1 {
		t.Errorf("%d locks are left after %d questions and %d requests, want none after one each", locks, questions, requests)
	}
}

func TestALockOfAnotherHostIsWaitedFor(t *testing.T) {
	r := newEndRig(t)
	handle := r.begin()
	half, err := parseHalf(handle)
	if err != nil {
		t.Fatal(err)
	}
	r.h.with(func() { r.h.locks[halfKey(half)] = "somebody" })
	done := make(chan error, 1)
	go func() { done <- r.end(r.p, handle, driver.Rollback, 10*time.Second) }()
	eventually(t, 5*time.Second, func() error {
		if r.h.broker.asked(codeLock) < 4 { // with that of the opening
			return errors.New("the lock was not asked for again")
		}
		return nil
	})
	r.h.with(func() { delete(r.h.locks, halfKey(half)) })
	if err := <-done; err != nil {
		t.Errorf("roll back: %v", err)
	}
	eventually(t, 5*time.Second, func() error {
		if _, _, locks := r.h.seen(); locks > 0 {
			return errors.New("the lock of a rollback is held")
		}
		return nil
	})
}

func TestARefusedCommitCanBeRepeated(t *testing.T) {
	r := newEndRig(t)
	handle := r.begin()
	r.h.with(func() { r.h.refuse[codeEnd] = wire.CodeSystemBusy })
	wantReason(t, "commit at a busy broker", r.end(r.p, handle, driver.Commit, 5*time.Second), driver.Throttled)
	r.h.with(func() { clear(r.h.refuse) })
	if err := r.end(r.p, handle, driver.Commit, 5*time.Second); err != nil {
		t.Errorf("commit: %v", err)
	}
	r.delivered(1)
	gone := halfHandle(wire.Half{Topic: "t", Broker: "a", ID: "x", Born: 1, Offset: 1000, CommitLog: 1})
	wantReason(t, "commit of what the broker does not have", r.end(r.p, gone, driver.Commit, 5*time.Second), driver.TooLate)
	lost := halfHandle(wire.Half{Topic: "t", Broker: "gone", ID: "x", Born: 1})
	wantReason(t, "commit at a broker that is gone", r.end(r.p, lost, driver.Commit, 5*time.Second), driver.Unavailable)
}

// TestAnUnlockThatComesLateFreesNoLaterLock: another host that got the lock meanwhile would commit a second time.
func TestAnUnlockThatComesLateFreesNoLaterLock(t *testing.T) {
	r := newEndRig(t)
	handle := r.begin()
	r.h.with(func() { r.h.refuse[codeEnd], r.h.lateUnlocks = wire.CodeSystemBusy, true })
	wantReason(t, "commit at a busy broker", r.end(r.p, handle, driver.Commit, 5*time.Second), driver.Throttled)
	eventually(t, 5*time.Second, func() error {
		r.h.mu.Lock()
		defer r.h.mu.Unlock()
		if len(r.h.late) == 0 {
			return errors.New("the lock of the refused commit is not on its way back")
		}
		return nil
	})
	held := 0
	r.h.with(func() {
		clear(r.h.refuse)
		r.h.end = func(string) (*wire.Command, bool) {
			held = len(r.h.locks)
			return nil, false
		}
	})
	if err := r.end(r.p, handle, driver.Commit, 5*time.Second); err != nil {
		t.Errorf("commit: %v", err)
	}
	r.h.with(func() {
		if held != 1 {
			t.Errorf("%d locks were held while the commit was written, want 1", held)
		}
	})
	r.delivered(1)
}

// TestABrokerThatHangsHoldsTheKeeperUpOnce: and not once for each Producer that has locks there. The keeper names groups and refreshes routes.
func TestABrokerThatHangsHoldsTheKeeperUpOnce(t *testing.T) {
	r := newEndRig(t)
	r.h.with(func() { r.h.slowIndex = true })
	d := New(r.f.driver.log)
	var all []*producer
	for i := range 6 {
		cfg := r.f.config("t")
		cfg.Transactions, cfg.Group = true, fmt.Sprint("group-", i)
		opened, err := d.OpenProducer(within(t, 20*time.Second), cfg)
		if err != nil {
			t.Fatalf("open the producer: %v", err)
		}
		t.Cleanup(func() { mustClose(t, opened) })
		r.p = opened.(*producer)
		if err := r.end(r.p, r.begin(), driver.Commit, 5*time.Second); err != nil {
			t.Fatalf("commit: %v", err)
		}
		r.ripen()
		all = append(all, r.p)
	}
	r.h.with(func() { r.h.silent = true })
	began := time.Now()
	d.only(t).releaseAll(500 * time.Millisecond)
	if took := time.Since(began); took > 1500*time.Millisecond {
		t.Errorf("a round took %v, its limit is 500 ms", took)
	}
	for i, p := range all {
		p.transactions.state.Lock()
		if n := len(p.transactions.state.held); n != 1 {
			t.Errorf("producer %d has %d locks to give back, want its one", i, n)
		}
		p.transactions.state.Unlock()
	}
	r.h.with(func() { r.h.silent = false })
}

// TestOneIDInTwoTopicsIsTwoTransactions: an application may begin both in one millisecond.
func TestOneIDInTwoTopicsIsTwoTransactions(t *testing.T) {
	r := newEndRig(t)
	r.h.with(func() { r.h.slowIndex = true })
	half, err := parseHalf(r.begin())
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{"t", "u"} {
		half.Topic = topic
		r.f.everywhere(topic, 1)
		if err := r.end(r.p, halfHandle(half), driver.Commit, 5*time.Second); err != nil {
			t.Errorf("commit in %q: %v", topic, err)
		}
	}
	if _, ends, _ := r.h.seen(); ends != 2 {
		t.Errorf("the broker was told of %d commits, want both", ends)
	}
}

func TestRightsForTransactionsAreProven(t *testing.T) {
	for name, code := range map[string]int{"look-ups": codeQuery, "locks": codeLock} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			f := newFakeRocket(t, 1, "a")
			f.everywhere("t", 1)
			h := newFakeHalves(t, "a", f)
			h.refuse[code] = wire.CodeNoPermission
			cfg := f.config("t")
			mustClose(t, f.producer(cfg)) // without transactions nothing is missing
			cfg.Transactions = true
			_, err := f.driver.OpenProducer(within(t, 5*time.Second), cfg)
			wantReason(t, "open", err, driver.Unauthorized)
			var e *driver.Error
			if !errors.As(err, &e) || e.Field != "transactions" || !strings.Contains(e.Message, "Sub") {
				t.Errorf("the error does not say what to do: %v", err)
			}
		})
	}
}

// TestABrokerThatDoesNotAnswerDoesNotKeepTransactionsFromOpening, as it does not keep sending from it; with none that answers there is nothing to open.
func TestABrokerThatDoesNotAnswerDoesNotKeepTransactionsFromOpening(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a", "b")
	f.everywhere("t", 1)
	newFakeHalves(t, "a", f)
	b := newFakeHalves(t, "b", f)
	b.refuse[codeQuery] = wire.CodeSystemBusy
	cfg := f.config("t")
	cfg.Transactions = true
	mustClose(t, f.producer(cfg))
	f.topic("t", fakeShare{broker: "b", queues: 1, perm: 6})
	other := New(f.driver.log)
	_, err := other.OpenProducer(within(t, 5*time.Second), cfg)
	wantReason(t, "open with no broker that answers", err, driver.Throttled)
}

// TestATopicThatItsBrokerMakes has no route at first; its transactions are ended all the same.
func TestATopicThatItsBrokerMakes(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere(wire.DefaultTopic, 1)
	h := newFakeHalves(t, "a", f)
	r := &endRig{t: t, h: h, f: f}
	cfg := f.config("t")
	cfg.Transactions = true
	r.p = f.producer(cfg)
	if err := r.end(r.p, r.begin(), driver.Commit, 5*time.Second); err != nil {
		t.Errorf("commit: %v", err)
	}
	r.delivered(1)
}

// TestAHalfMessageIsNotStoredTwice: a second one would be a second transaction.
func TestAHalfMessageIsNotStoredTwice(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a", "b")
	f.everywhere("t", 1)
	halves := map[string]*fakeHalves{"a": newFakeHalves(t, "a", f), "b": newFakeHalves(t, "b", f)}
	cfg := f.config("t")
	cfg.Transactions, cfg.SendTimeout = true, 200*time.Millisecond
	p := f.producer(cfg)
	asked := func() int { return f.brokers["a"].asked(codeSend) + f.brokers["b"].asked(codeSend) }
	reply := func(a *wire.Command) {
		for _, h := range halves {
			h.with(func() { h.broker.reply = func(*wire.Command, []string) (*wire.Command, bool) { return a, true } })
		}
	}
	before := asked()
	reply(nil)
	_, err := p.Begin(within(t, 5*time.Second), messages("t", 1)[0])
	if wantReason(t, "begin without an answer", err, driver.Timeout); asked() != before+1 {
		t.Errorf("it was sent %d times", asked()-before)
	}
	before = asked()
	reply(&wire.Command{Code: wire.CodeSystemBusy, Remark: "busy"})
	_, err = p.Begin(within(t, 5*time.Second), messages("t", 1)[0])
	if wantReason(t, "begin at busy brokers", err, driver.Throttled); asked() != before+3 {
		t.Errorf("it was sent %d times, want 1 + 2 retries", asked()-before)
	}
}
