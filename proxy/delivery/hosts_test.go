// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"fmt"
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
}

const hostsDeadline = 30 * time.Second

func newTwoHosts(t *testing.T) *twoHosts {
	h := &twoHosts{t: t, broker: newPopBroker()}
	window := func(host string) *Window {
		w := NewWindow(h.broker, Options{
			Settings: Settings{AckDeadline: hostsDeadline}, Origin: Origin{ConsumerUID: "uid", Host: host, Incarnation: "i"}, Sealer: sealerOf(t, testKey),
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
		// What no host can know: RocketMQ does not say that a handle is stale, and hosts do not tell each other. docs/api.md asks applications to
		// use only the newest token and not to extend what they have acknowledged; DESIGN.md tells why that is all.
		{"limit: an old token on a host that has not seen the extension", func(h *twoHosts) {
			h.extend(h.a, h.token, OK)
			h.ack(h.b, h.token, OK)
		}, 1},
		{"limit: an old token where it was delivered, extended elsewhere", func(h *twoHosts) {
			h.extend(h.b, h.token, OK)
			h.ack(h.a, h.token, OK)
		}, 1},
		{"limit: nacked on one host, acknowledged on the other", func(h *twoHosts) {
			h.nack(h.a, h.token, OK)
			h.ack(h.b, h.token, OK)
		}, 1},
		{"limit: extended on a host that has not seen the ack", func(h *twoHosts) {
			h.ack(h.b, h.token, OK)
			h.extend(h.a, h.token, OK)
		}, 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				h := newTwoHosts(t)
				c.do(h)
				time.Sleep(time.Hour)
				synctest.Wait()
				h.broker.pop.Lock()
				defer h.broker.pop.Unlock()
				want(t, "times that the message comes again", h.broker.ready, c.again)
			})
		})
	}
}

// What was acknowledged on another host leaves this one's window at its deadline.
func TestADeliveryThatWasAcknowledgedElsewhereLeavesTheWindowAtItsDeadline(t *testing.T) {
	inTime(t, func(t *testing.T) {
		h := newTwoHosts(t)
		h.ack(h.b, h.token, OK)
		n, _ := h.a.InFlight()
		want(t, "in flight before the deadline", n, 1)
		time.Sleep(hostsDeadline)
		synctest.Wait()
		n, _ = h.a.InFlight()
		want(t, "in flight after the deadline", n, 0)
	})
}
