// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// popBroker behaves as RocketMQ's POP was seen to: it never says that a handle is stale. A lease is a check point of its own; an extension makes
// another one and acknowledges the old; an acknowledgement of a check point that is not there is answered OK and does nothing; a check point
// that is not acknowledged at its end brings the message again. What a driver adds is the end of the lease, which is in the handle.
type popBroker struct {
	*fakeBroker // for what is not about leases

	pop    sync.Mutex // guards what follows
	serial int
	points map[driver.Handle]*checkPoint
	// fetched counts deliveries.
	fetched int
	ready   int
	changed chan struct{}
}

type checkPoint struct {
	until time.Time
	over  bool // acknowledged, or its message came again
}

func newPopBroker() *popBroker {
	return &popBroker{fakeBroker: newBroker(), points: map[driver.Handle]*checkPoint{}, ready: 1, changed: make(chan struct{})}
}

// leaseLocked makes a check point; its end brings the message again.
func (b *popBroker) leaseLocked(d time.Duration) driver.Handle {
	b.serial++
	h := driver.Handle(fmt.Sprint("pop-", b.serial))
	p := &checkPoint{until: time.Now().Add(d)}
	b.points[h] = p
	time.AfterFunc(d, func() {
		b.pop.Lock()
		defer b.pop.Unlock()
		if !p.over {
			p.over = true
			b.ready++
			close(b.changed)
			b.changed = make(chan struct{})
		}
	})
	return h
}

func (b *popBroker) Fetch(ctx context.Context, req driver.FetchRequest) ([]*driver.Received, error) {
	for {
		b.pop.Lock()
		if b.ready > 0 {
			b.ready--
			b.fetched++
			h := b.leaseLocked(req.Lease)
			r := &driver.Received{Message: driver.Message{ID: "m", Topic: "t"}, Handle: h, Attempt: b.fetched, Deadline: b.points[h].until}
			b.pop.Unlock()
			return []*driver.Received{r}, nil
		}
		changed := b.changed
		b.pop.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// endLocked is an acknowledgement: an error only when the handle says that its lease is over.
func (b *popBroker) endLocked(h driver.Handle) error {
	p := b.points[h]
	if p == nil {
		return driver.ErrInvalidHandle
	}
	if !p.until.After(time.Now()) {
		return driver.ErrLeaseExpired
	}
	p.over = true
	return nil
}

func (b *popBroker) Ack(_ context.Context, hs []driver.Handle) []error {
	b.pop.Lock()
	defer b.pop.Unlock()
	errs := make([]error, len(hs))
	for i, h := range hs {
		errs[i] = b.endLocked(h)
	}
	return errs
}

func (b *popBroker) Nack(_ context.Context, h driver.Handle, delay time.Duration) (time.Duration, error) {
	b.pop.Lock()
	defer b.pop.Unlock()
	if err := b.endLocked(h); err != nil {
		return 0, err
	}
	delay = max(delay, 2*time.Second)
	b.leaseLocked(delay)
	return delay, nil
}

func (b *popBroker) Extend(_ context.Context, h driver.Handle, lease time.Duration) (driver.Handle, time.Time, error) {
	b.pop.Lock()
	defer b.pop.Unlock()
	if err := b.endLocked(h); err != nil {
		return "", time.Time{}, err
	}
	renewed := b.leaseLocked(lease)
	return renewed, b.points[renewed].until, nil
}

func (b *popBroker) GiveBack(_ context.Context, hs []driver.Handle) []error {
	b.pop.Lock()
	defer b.pop.Unlock()
	errs := make([]error, len(hs))
	for i, h := range hs {
		if errs[i] = b.endLocked(h); errs[i] == nil {
			b.ready++
		}
	}
	return errs
}

// twoHosts are the windows of one Consumer on two hosts. A delivers the one message.
type twoHosts struct {
	t      *testing.T
	broker *popBroker
	a, b   *Window
	token  string
	// apart: the hosts cannot ask each other.
	apart bool

	mu    sync.Mutex
	sizes []int // of the questions
}

// Settle is delivery.Peers of both windows.
func (h *twoHosts) Settle(ctx context.Context, host, _ string, s Settlement) ([]Result, error) {
	h.mu.Lock()
	h.sizes = append(h.sizes, len(s.Items))
	h.mu.Unlock()
	w := map[string]*Window{"host-a": h.a, "host-b": h.b}[host]
	switch {
	case h.apart:
		return nil, ErrNotAsked
	case w.life.Err() != nil:
		return nil, ErrPeerGone
	default:
		return w.Settle(ctx, s), nil
	}
}

const hostsDeadline = 30 * time.Second

func newTwoHosts(t *testing.T, apart bool) *twoHosts {
	h := &twoHosts{t: t, broker: newPopBroker(), apart: apart}
	window := func(host string) *Window {
		w := NewWindow(h.broker, Options{
			Settings: Settings{AckDeadline: hostsDeadline}, Origin: Origin{ConsumerUID: "uid", Host: host, Incarnation: "i"}, Sealer: sealerOf(t, testKey), Peers: h,
			Capabilities: driver.Capabilities{AckFromAnyHost: true, MaxLease: 12 * time.Hour},
		})
		t.Cleanup(w.Close)
		return w
	}
	h.a, h.b = window("host-a"), window("host-b")
	r, err := h.a.Attach(ReceiverOptions{MaxMessages: 1})
	must(t, err)
	h.token = receive(t, r, 1)[0].Token
	r.Close()
	return h
}

func (h *twoHosts) ack(w *Window, token string, want Outcome) {
	h.t.Helper()
	wantOutcome(h.t, "ack", one(w.Ack(h.t.Context(), []string{token})), want)
}

func (h *twoHosts) nack(w *Window, token string, want Outcome) {
	h.t.Helper()
	wantOutcome(h.t, "nack", one(w.Nack(h.t.Context(), []Nack{{Token: token}})), want)
}

func (h *twoHosts) extend(w *Window, token string, want Outcome) string {
	h.t.Helper()
	r := one(w.Modify(h.t.Context(), []Modify{{token, 2 * hostsDeadline}}))
	wantOutcome(h.t, "extension", r, want)
	return r.NewToken
}

// TestTokensOnTwoHosts is D4 of the test plan: what every host answers, and how often the message comes again.
func TestTokensOnTwoHosts(t *testing.T) {
	cases := []struct {
		name  string
		do    func(h *twoHosts)
		again int // times that the message comes again
	}{
		{"ack on another host", func(h *twoHosts) { h.ack(h.b, h.token, OK) }, 0},
		{"the answer was lost: again on each host", func(h *twoHosts) {
			h.ack(h.a, h.token, OK)
			h.ack(h.b, h.token, OK)
			h.ack(h.a, h.token, OK)
		}, 0},
		{"the answer of the other host was lost: again on each host", func(h *twoHosts) {
			h.ack(h.b, h.token, OK)
			h.ack(h.a, h.token, OK)
			h.ack(h.b, h.token, OK)
		}, 0},
		{"ack after the host's death, twice", func(h *twoHosts) {
			h.a.Close()
			h.ack(h.a, h.token, Retry)
			h.ack(h.b, h.token, OK)
			h.ack(h.b, h.token, OK)
		}, 0},
		{"too late on the other host", func(h *twoHosts) {
			time.Sleep(hostsDeadline)
			h.ack(h.b, h.token, Expired)
			h.ack(h.a, h.token, Expired)
		}, 1},
		{"a forged token, anywhere", func(h *twoHosts) {
			forged := h.token[:40] + "AAAA" + h.token[44:]
			h.ack(h.a, forged, Invalid)
			h.ack(h.b, forged, Invalid)
			h.ack(h.b, "", Invalid)
			h.ack(h.b, h.token, OK)
		}, 0},
		{"nack on another host, and ack after the message has come again", func(h *twoHosts) {
			h.nack(h.b, h.token, OK)
			time.Sleep(hostsDeadline)
			h.ack(h.a, h.token, Expired)
			h.ack(h.b, h.token, Expired)
		}, 1},
		{"extended where it was delivered: the new token is good on each host", func(h *twoHosts) {
			renewed := h.extend(h.a, h.token, OK)
			h.ack(h.a, h.token, Expired)
			time.Sleep(hostsDeadline)
			h.ack(h.b, h.token, Expired)
			h.ack(h.b, renewed, OK)
			h.ack(h.a, renewed, OK)
		}, 0},
		{"extended on another host: the new token is good on each host", func(h *twoHosts) {
			renewed := h.extend(h.b, h.token, OK)
			time.Sleep(hostsDeadline)
			h.ack(h.a, h.token, Expired)
			h.ack(h.b, h.token, Expired)
			h.ack(h.a, renewed, OK)
			h.ack(h.b, renewed, OK)
		}, 0},
		{"extended on another host after the host's death", func(h *twoHosts) {
			h.a.Close()
			again := h.extend(h.b, h.extend(h.b, h.token, OK), OK)
			time.Sleep(hostsDeadline + hostsDeadline/2)
			h.ack(h.b, again, OK)
		}, 0},
	}
	for _, c := range cases {
		for _, apart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s (apart: %t)", c.name, apart), func(t *testing.T) {
				inTime(t, func(t *testing.T) { twoHostsCase(t, apart, c.do, c.again) })
			})
		}
	}
}

func twoHostsCase(t *testing.T, apart bool, do func(h *twoHosts), again int) {
	h := newTwoHosts(t, apart)
	do(h)
	time.Sleep(time.Hour)
	synctest.Wait()
	h.broker.pop.Lock()
	defer h.broker.pop.Unlock()
	want(t, "times that the message comes again", h.broker.ready, again)
}

// TestTwoOperationsOnOneDeliveryOnTwoHosts is what RocketMQ does not tell: it answers OK to a stale handle. The host that made the token knows; while hosts
// are apart nobody does, the second answer is OK and the message comes again. docs/api.md asks applications to use only the newest token and not
// to extend what they have acknowledged.
func TestTwoOperationsOnOneDeliveryOnTwoHosts(t *testing.T) {
	cases := []struct {
		name                   string
		do                     func(h *twoHosts, second Outcome)
		again, againWhileApart int
	}{
		{"an old token on a host that has not seen the extension", func(h *twoHosts, second Outcome) {
			h.extend(h.a, h.token, OK)
			h.ack(h.b, h.token, second)
		}, 1, 1},
		{"an old token where it was delivered, extended elsewhere", func(h *twoHosts, second Outcome) {
			h.extend(h.b, h.token, OK)
			h.ack(h.a, h.token, second)
		}, 1, 1},
		{"nacked on one host, acknowledged on the other", func(h *twoHosts, second Outcome) {
			h.nack(h.a, h.token, OK)
			h.ack(h.b, h.token, second)
		}, 1, 1},
		{"extended on a host that has not seen the ack", func(h *twoHosts, second Outcome) {
			h.ack(h.b, h.token, OK)
			h.extend(h.a, h.token, second)
		}, 0, 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) { twoHostsCase(t, false, func(h *twoHosts) { c.do(h, Expired) }, c.again) })
		})
		t.Run(c.name+", while hosts are apart", func(t *testing.T) {
			inTime(t, func(t *testing.T) { twoHostsCase(t, true, func(h *twoHosts) { c.do(h, OK) }, c.againWhileApart) })
		})
	}
}

// What was acknowledged on another host makes room in this one's window.
func TestADeliveryThatWasAcknowledgedElsewhereLeavesTheWindowAtOnce(t *testing.T) {
	inTime(t, func(t *testing.T) {
		h := newTwoHosts(t, false)
		h.ack(h.b, h.token, OK)
		n, _ := h.a.InFlight()
		want(t, "in flight", n, 0)
	})
}

// While hosts are apart it does so at its deadline.
func TestADeliveryThatWasAcknowledgedWhileHostsAreApartLeavesTheWindowAtItsDeadline(t *testing.T) {
	inTime(t, func(t *testing.T) {
		h := newTwoHosts(t, true)
		h.ack(h.b, h.token, OK)
		n, _ := h.a.InFlight()
		want(t, "in flight before the deadline", n, 1)
		time.Sleep(hostsDeadline)
		synctest.Wait()
		n, _ = h.a.InFlight()
		want(t, "in flight after the deadline", n, 0)
	})
}

// One call with tokens of both hosts: each answers for its own, in the order of the call.
func TestOneCallWithTokensOfSeveralHosts(t *testing.T) {
	inTime(t, func(t *testing.T) {
		h := newTwoHosts(t, false)
		h.broker.pop.Lock()
		h.broker.ready++
		h.broker.pop.Unlock()
		r, err := h.b.Attach(ReceiverOptions{MaxMessages: 1})
		must(t, err)
		theirs, ours := h.token, receive(t, r, 1)[0].Token
		r.Close()
		results := h.b.Ack(t.Context(), []string{theirs, "nonsense", ours, theirs})
		for i, want := range []Outcome{OK, Invalid, OK, OK} {
			wantOutcome(t, fmt.Sprintf("token %d", i), results[i], want)
		}
		want(t, "the first result's token", results[0].Token, theirs)
		want(t, "the last result's token", results[3].Token, theirs)
		for _, w := range []*Window{h.a, h.b} {
			n, _ := w.InFlight()
			want(t, "in flight", n, 0)
		}
	})
}

// A stream's acknowledgements gather to more than a call may have; no question is larger than a call.
func TestManyTokensAreSeveralQuestions(t *testing.T) {
	inTime(t, func(t *testing.T) {
		h := newTwoHosts(t, false)
		tokens := make([]string, 2*maxItems+1)
		for i := range tokens {
			tokens[i] = h.token
		}
		for i, r := range h.b.Ack(t.Context(), tokens) {
			wantOutcome(t, fmt.Sprintf("token %d", i), r, OK)
		}
		slices.Sort(h.sizes)
		if want := []int{1, maxItems, maxItems}; !slices.Equal(h.sizes, want) {
			t.Errorf("questions of %v tokens, want %v", h.sizes, want)
		}
	})
}

// Close ends a question that is not answered, and joins it.
func TestCloseEndsWhatIsAskedOfOtherHosts(t *testing.T) {
	inTime(t, func(t *testing.T) {
		maker := newRig(t, Settings{}, hostB)
		asked := newRig(t, Settings{}, func(o *Options) { o.Peers = hanging{} })
		maker.broker.put("m", 1, 1)
		ds := receive(t, maker.attach(t, ReceiverOptions{MaxMessages: 1}), 1)
		answer := make(chan Result, 1)
		go func() { answer <- one(asked.Ack(context.Background(), tokens(ds))) }()
		synctest.Wait()
		asked.Close()
		wantOutcome(t, "ack", <-answer, Retry)
		wantOutcome(t, "ack after Close", one(asked.Ack(t.Context(), tokens(ds))), Retry)
	})
}

// hanging is hosts that never answer.
type hanging struct{}

func (hanging) Settle(ctx context.Context, _, _ string, _ Settlement) ([]Result, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestATokenTwiceInOneCallIsOneOperation, also where only the driver can be asked: a second nack or extension with one handle would be a second copy.
func TestATokenTwiceInOneCallIsOneOperation(t *testing.T) {
	for name, c := range map[string]struct {
		do     func(h *twoHosts) []Result
		second Outcome
		again  int
	}{
		"acks":  {func(h *twoHosts) []Result { return h.b.Ack(h.t.Context(), []string{h.token, h.token}) }, OK, 0},
		"nacks": {func(h *twoHosts) []Result { return h.b.Nack(h.t.Context(), []Nack{{Token: h.token}, {Token: h.token}}) }, OK, 1},
		"extensions": {func(h *twoHosts) []Result {
			return h.b.Modify(h.t.Context(), []Modify{{h.token, hostsDeadline}, {h.token, hostsDeadline}})
		}, Expired, 1},
	} {
		for _, apart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s (apart: %t)", name, apart), func(t *testing.T) {
				inTime(t, func(t *testing.T) {
					twoHostsCase(t, apart, func(h *twoHosts) {
						results := c.do(h)
						wantOutcome(t, "the first", results[0], OK)
						wantOutcome(t, "the second", results[1], c.second)
						want(t, "the second's token", results[1].Token, h.token)
					}, c.again)
				})
			})
		}
	}
}
