// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"context"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Outcome is how a check ended.
type Outcome string

// The outcomes.
const (
	// Committed and RolledBack: the application decided, and the broker confirmed it.
	Committed  Outcome = "committed"
	RolledBack Outcome = "rolled_back"
	// Unknown: the application could not tell yet.
	Unknown Outcome = "unknown"
	// Unanswered: nobody answered in time, or nobody could be asked.
	Unanswered Outcome = "unanswered"
	// Failed: the application decided, and the broker could not be told.
	Failed Outcome = "failed"
)

// AnswerTime is how long an application has to answer a check before it counts as unanswered. An answer that comes later still decides.
const AnswerTime = 30 * time.Second

// Observer is told how checks end. It must not block; calls come from several goroutines.
type Observer interface {
	// CheckEnded: times is the number of the check, id the message's.
	CheckEnded(o Outcome, times int, id string)
}

// Check is a question for the application.
type Check struct {
	driver.Check
	// Transaction is the sealed name of the transaction.
	Transaction string
}

// Options are what a Hub is made of.
type Options struct {
	// Watch begins to take the driver's checks; see driver.Transactional.WatchChecks.
	Watch func(take func(driver.Check) bool) (stop func())
	// Seal makes the name under which an application answers; End ends a transaction by it.
	Seal func(driver.Check) string
	End  func(ctx context.Context, transaction string, d driver.Decision) (messageID string, err error)
	// Post asks by HTTP while no receiver can be asked; nil = nobody does. Trouble is told why it could not, and nil when it
	// could; it must not block.
	Post    *Poster
	Trouble func(err error)
	// Observer may be nil.
	Observer Observer
}

// Hub hands out the checks of one Producer. It is safe for concurrent use; Close it.
type Hub struct {
	o Options

	mu    sync.Mutex // guards state
	state struct {
		closed    bool
		receivers []*Receiver
		turn      int
		// posts counts requests that wait or are under way.
		posts int
		// stop ends the watching; nil = nobody watches.
		stop func()
	}
	// watching keeps the driver's calls that begin and end the watching in order. No check needs it, and nothing else is done under it.
	watching sync.Mutex
	drained  chan struct{}
	drain    sync.Once
	life     context.Context
	end      context.CancelFunc
	work     sync.WaitGroup
}

// New makes a hub. With a Poster it watches from now on, otherwise while there are receivers.
func New(o Options) *Hub {
	h := &Hub{o: o, drained: make(chan struct{})}
	h.life, h.end = context.WithCancel(context.Background())
	h.watch()
	return h
}

// watch begins or ends the watching, as the state wants it.
func (h *Hub) watch() {
	h.watching.Lock()
	defer h.watching.Unlock()
	h.mu.Lock()
	want := !h.state.closed && !h.draining() && (h.o.Post != nil || len(h.state.receivers) > 0)
	stop := h.state.stop
	h.mu.Unlock()
	if want == (stop != nil) {
		return
	}
	if want {
		stop = h.o.Watch(h.take)
	} else {
		stop()
		stop = nil
	}
	h.mu.Lock()
	h.state.stop = stop
	h.mu.Unlock()
}

// take is what the driver calls for a check.
func (h *Hub) take(c driver.Check) bool {
	return h.place(&Check{Check: c, Transaction: h.o.Seal(c)})
}

// place finds somebody to ask, or counts the check as unanswered.
func (h *Hub) place(c *Check) bool {
	if h.hand(c) || h.post(c) {
		return true
	}
	h.ended(Unanswered, c)
	return false
}

// hand gives it to a receiver with room, in turn.
func (h *Hub) hand(c *Check) bool {
	h.mu.Lock()
	receivers, turn := h.state.receivers, h.state.turn
	h.state.turn++
	h.mu.Unlock()
	for i := range receivers {
		if receivers[(turn+i)%len(receivers)].put(c) {
			return true
		}
	}
	return false
}

// resolve does what the application answered.
func (h *Hub) resolve(ctx context.Context, transaction string, d driver.Decision) (messageID string, err error) {
	return h.o.End(ctx, transaction, d)
}

func (h *Hub) ended(o Outcome, c *Check) {
	if h.o.Observer != nil {
		h.o.Observer.CheckEnded(o, c.Times, c.ID)
	}
}

// outcomeOf is the outcome of a decision that was carried out, or was not.
func outcomeOf(d driver.Decision, err error) Outcome {
	switch {
	case err != nil:
		return Failed
	case d == driver.Commit:
		return Committed
	default:
		return RolledBack
	}
}

// Attach makes a receiver. One of a hub that drains or is closed gets nothing, and is told so by Draining.
func (h *Hub) Attach() *Receiver {
	r := &Receiver{hub: h, ready: make(chan struct{}, 1)}
	r.state.open = make(map[string]*handed)
	h.mu.Lock()
	h.state.receivers = append(h.state.receivers[:len(h.state.receivers):len(h.state.receivers)], r)
	h.mu.Unlock()
	h.watch()
	return r
}

func (h *Hub) detach(r *Receiver) {
	h.mu.Lock()
	for i, other := range h.state.receivers {
		if other == r {
			h.state.receivers = append(h.state.receivers[:i:i], h.state.receivers[i+1:]...)
			break
		}
	}
	h.mu.Unlock()
	h.watch()
}

// Drain tells receivers that this host asks no more, and lets brokers choose others.
func (h *Hub) Drain() {
	h.drain.Do(func() { close(h.drained) })
	h.watch()
}

func (h *Hub) draining() bool {
	select {
	case <-h.drained:
		return true
	default:
		return false
	}
}

// Close ends the watching and what is being posted, and returns when no goroutine is left. Twice is fine.
func (h *Hub) Close() {
	h.mu.Lock()
	h.state.closed = true
	h.mu.Unlock()
	h.Drain()
	h.end()
	h.work.Wait()
	if h.o.Post != nil {
		h.o.Post.CloseIdle()
	}
}
