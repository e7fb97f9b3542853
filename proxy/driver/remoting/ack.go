// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

const (
	// ackRequests is how many gathered acknowledgements are in the air per group and broker. What comes meanwhile makes the next request: a
	// lone one goes at once, and under load a request carries hundreds, which costs the broker 1 us each rather than 25.
	ackRequests = 2
	// ackMost bounds one request; with long names it has about 0.5 MiB.
	ackMost = 2048
	// ackTimeout bounds one request; whoever asked may give up sooner.
	ackTimeout = wire.RequestTimeout
)

// acker gathers the acknowledgements of all calls for one group at one broker. It has no goroutine: a request is made by the call that finds room
// in the air, or by one of the waiting calls when an answer makes room (it is told to lead), so that no work is done in the connection's reader.
type acker struct {
	// send asks the broker at address to acknowledge and returns at once; done is called once with the time of the answer.
	send func(address string, leases []lease, done func(received time.Time, err error))

	mu      sync.Mutex
	waiting []*ackPart // mu guards it, air, and the parts' lead and sent
	air     int
}

// ackPart is what one call acknowledges at one broker.
type ackPart struct {
	acker   *acker
	address string
	leases  []lease
	places  []int // of the leases in the call's handles
	// events of the call; there is room for all that its parts can send.
	events chan<- ackEvent
	// lead: it was told to make the next request. sent: it is in a request.
	lead, sent bool
}

// ackEvent tells a call about one of its parts: it is to lead, or it is answered.
type ackEvent struct {
	part     *ackPart
	lead     bool
	received time.Time
	err      error
}

// eventsPerPart: lead once, and the answer.
const eventsPerPart = 2

// add takes p in. The caller receives from its events until p is answered, or calls leave.
func (a *acker) add(p *ackPart) {
	a.mu.Lock()
	a.waiting = append(a.waiting, p)
	var batch []*ackPart
	if a.air < ackRequests {
		a.air++
		batch = a.takeLocked()
	}
	a.mu.Unlock()
	a.request(batch)
}

// takeLocked takes what goes into the next request.
func (a *acker) takeLocked() []*ackPart {
	n, size := 0, 0
	for n < len(a.waiting) && (n == 0 || size+len(a.waiting[n].leases) <= ackMost) {
		size += len(a.waiting[n].leases)
		a.waiting[n].sent = true
		n++
	}
	batch := a.waiting[:n:n]
	if a.waiting = a.waiting[n:]; len(a.waiting) == 0 {
		a.waiting = nil
	}
	return batch
}

// request sends batch in the slot in the air that the caller holds.
func (a *acker) request(batch []*ackPart) {
	if len(batch) == 0 {
		return
	}
	leases := batch[0].leases
	if len(batch) > 1 {
		leases = nil
		for _, p := range batch {
			leases = append(leases, p.leases...)
		}
	}
	a.send(batch[0].address, leases, func(received time.Time, err error) {
		for _, p := range batch {
			p.events <- ackEvent{part: p, received: received, err: err}
		}
		a.pass()
	})
}

// pass gives a slot in the air to the first that waits, or back.
func (a *acker) pass() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.waiting {
		if !p.lead {
			p.lead = true
			p.events <- ackEvent{part: p, lead: true} // there is room
			return
		}
	}
	a.air--
}

// leads does what the leader is told to: it makes the next request, in which it is itself unless another leader took it along.
func (a *acker) leads() {
	a.mu.Lock()
	batch := a.takeLocked()
	if len(batch) == 0 {
		a.air--
	}
	a.mu.Unlock()
	a.request(batch)
}

// leave takes p out when its caller gives up. It reports whether p may have reached the broker. A leader that leaves hands over.
func (p *ackPart) leave() (sent bool) {
	a := p.acker
	a.mu.Lock()
	for i, w := range a.waiting {
		if w == p {
			a.waiting = append(a.waiting[:i:i], a.waiting[i+1:]...)
			break
		}
	}
	sent = p.sent
	a.mu.Unlock()
	return sent
}

// Ack implements driver.Consumer. Nil means that the broker answered before the lease ended by its own clock; its answer alone would say nothing.
func (c *consumer) Ack(ctx context.Context, handles []driver.Handle) []error {
	errs := make([]error, len(handles))
	if !c.gate.Enter() {
		return fill(errs, errClosed())
	}
	defer c.gate.Leave()
	parts := c.sortAcks(handles, errs)
	if len(parts) == 0 {
		return errs
	}
	events := make(chan ackEvent, eventsPerPart*len(parts))
	open := make(map[*ackPart]struct{}, len(parts))
	for broker, p := range parts {
		address, err := c.cluster.address(ctx, c.sources[p.leases[0].source].topic, broker)
		if err != nil {
			p.fail(errs, wire.Errorf(err, "acknowledge at broker %s", broker))
			continue
		}
		p.acker, p.address, p.events = c.ackerOf(broker), address, events
		open[p] = struct{}{}
		p.acker.add(p)
	}
	c.awaitAcks(ctx, events, open, errs)
	return errs
}

func fill(errs []error, err error) []error {
	for i := range errs {
		errs[i] = err
	}
	return errs
}

func (p *ackPart) fail(errs []error, err error) {
	for _, i := range p.places {
		errs[i] = err
	}
}

// sortAcks parses and judges the handles and sorts what is to be asked by broker.
func (c *consumer) sortAcks(handles []driver.Handle, errs []error) map[string]*ackPart {
	parts := make(map[string]*ackPart)
	now := time.Now()
	for i, h := range handles {
		l, err := c.running(h, now)
		if err != nil {
			errs[i] = err
			continue
		}
		if l.pop.Ordered() && c.superseded(&l) {
			continue // nothing waits for it; see drop
		}
		p := parts[l.pop.Broker]
		if p == nil {
			p = &ackPart{leases: make([]lease, 0, len(handles)-i), places: make([]int, 0, len(handles)-i)}
			parts[l.pop.Broker] = p
		}
		p.leases, p.places = append(p.leases, l), append(p.places, i)
	}
	return parts
}

// awaitAcks takes part in the gathering until all parts are answered, ctx ends or the consumer closes.
func (c *consumer) awaitAcks(ctx context.Context, events <-chan ackEvent, open map[*ackPart]struct{}, errs []error) {
	var given error
	for len(open) > 0 && given == nil {
		select {
		case e := <-events:
			c.onAckEvent(e, open, errs)
		case <-ctx.Done():
			given = ctx.Err()
		case <-c.gate.Life().Done():
			given = errClosed()
		}
	}
	for p := range open {
		if p.leave() {
			p.fail(errs, wire.Errorf(given, "wait for the broker's answer to an acknowledgement, whose effect is unknown"))
		} else {
			p.fail(errs, wire.Errorf(given, "wait for room to send an acknowledgement, which was not sent"))
		}
	}
	// A lead that was told meanwhile is still done: others wait for it.
	for len(events) > 0 {
		c.onAckEvent(<-events, open, errs)
	}
}

func (c *consumer) onAckEvent(e ackEvent, open map[*ackPart]struct{}, errs []error) {
	if e.lead {
		e.part.acker.leads()
		return
	}
	delete(open, e.part)
	for i, l := range e.part.leases {
		errs[e.part.places[i]] = c.acked(&l, e.received, e.err)
	}
}

// acked judges an answer.
func (c *consumer) acked(l *lease, received time.Time, err error) error {
	switch {
	case err != nil:
		return wire.Errorf(err, "acknowledge at broker %s", l.pop.Broker)
	case l.left(c.clocks, received) <= 0:
		return driver.Errorf(driver.Timeout, "", "broker %s answered after the lease had ended; the effect of the acknowledgement is unknown", l.pop.Broker)
	}
	c.recent.add(l)
	return nil
}

// running parses a handle whose lease must not be over.
func (c *consumer) running(h driver.Handle, now time.Time) (lease, error) {
	l, ok := parseHandle(h, c.marks)
	if !ok {
		return lease{}, driver.Errorf(driver.InvalidHandle, "", "not a handle of group %q of this driver", c.cfg.Group)
	}
	if l.left(c.clocks, now) <= 0 {
		return lease{}, driver.Errorf(driver.LeaseExpired, "", "the lease has ended by the clock of broker %s", l.pop.Broker)
	}
	return l, nil
}

// ackerOf is the acker for broker.
func (c *consumer) ackerOf(broker string) *acker {
	c.state.Lock()
	defer c.state.Unlock()
	a := c.state.ackers[broker]
	if a == nil {
		a = &acker{}
		a.send = func(address string, leases []lease, done func(time.Time, error)) {
			c.sendAcks(broker, address, leases, done)
		}
		if c.state.ackers == nil {
			c.state.ackers = make(map[string]*acker)
		}
		c.state.ackers[broker] = a
	}
	return a
}

// sendAcks asks broker to acknowledge, in one request where it can. It returns at once; done is called once.
func (c *consumer) sendAcks(broker, address string, leases []lease, done func(received time.Time, err error)) {
	acks := make([]wire.Ack, len(leases))
	for i, l := range leases {
		acks[i] = wire.Ack{Topic: c.sources[l.source].topic, Handle: l.pop}
	}
	if len(acks) == 1 {
		c.sendAck(address, wire.AckCommand(c.group, acks[0]), done)
		return
	}
	c.sendAck(address, wire.BatchAckCommand(c.group, broker, acks), func(received time.Time, err error) {
		if code, ok := wire.CodeOf(err); ok && code == wire.CodeNotSupported {
			c.sendSingly(address, acks, done) // a broker before 5.1
			return
		}
		done(received, err)
	})
}

func (c *consumer) sendAck(address string, cmd *wire.Command, done func(received time.Time, err error)) {
	c.cluster.wire.Go(address, cmd, ackTimeout, func(answer *wire.Command, err error) {
		if err == nil && answer.Code != wire.CodeSuccess {
			err = &wire.AnswerError{Request: cmd.Code, Address: address, Code: answer.Code, Remark: answer.Remark}
		}
		done(time.Now(), err)
	})
}

// sendSingly acknowledges one by one, all at once; the answer is the last one's time and any one's error.
func (c *consumer) sendSingly(address string, acks []wire.Ack, done func(received time.Time, err error)) {
	var mu sync.Mutex
	open, failed := len(acks), error(nil)
	for _, a := range acks {
		c.sendAck(address, wire.AckCommand(c.group, a), func(received time.Time, err error) {
			mu.Lock()
			open--
			last := open == 0
			if err != nil {
				failed = err
			}
			err = failed
			mu.Unlock()
			if last {
				done(received, err)
			}
		})
	}
}
