// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/ratelimit"
)

// Defaults of Settings that are zero.
const (
	defaultAckDeadline      = 60 * time.Second
	defaultMaxInFlight      = 256
	defaultMaxInFlightBytes = 64 << 20
	defaultMaxLease         = 12 * time.Hour
	// minLease is the shortest lease that is asked of a driver: below it nobody could answer in time.
	minLease = time.Second
)

// windowNumbers numbers the windows of this process; see origin.window.
var windowNumbers atomic.Uint64

// Window is the bounded set of deliveries in flight of one Consumer on one host. It fetches from the driver against the credit of
// its receivers only, hands the messages out, and answers acknowledgements. All methods are safe for concurrent use.
type Window struct {
	consumer driver.Consumer
	caps     driver.Capabilities
	ordered  bool
	origin   *origin
	sealer   *Sealer
	peers    Peers
	obs      Observer
	log      logr.Logger
	start    time.Time

	// life is the window's own life: Close ends it, and with it each driver call under way except give-backs.
	life    context.Context
	endLife context.CancelFunc
	// wg counts the dispatcher, timer calls, dead-letter writers, acknowledgements and give-backs. Add happens under mu while not closed,
	// or in a goroutine that is counted already.
	wg sync.WaitGroup

	// mu guards lockedState and everything of flights, classes and receivers that changes. It is held for computing only: no driver call,
	// no observer, no channel operation that can block.
	mu sync.Mutex
	lockedState
}

// lockedState is all that mu guards.
type lockedState struct {
	settings Settings
	// pace is how much of the rate limit is used up.
	pace     ratelimit.Bucket
	draining bool
	closed   bool
	quiet    chan struct{}

	receivers map[*Receiver]struct{}
	// classes are the receivers by lease; order is the rotation in which the dispatcher fetches for them.
	classes map[time.Duration]*class
	order   []*class

	flights map[uint64]*flight
	lastID  uint64
	lanes   map[laneKey]*lane
	bytes   int64
	heap    wakeHeap
	timer   *time.Timer
	armed   int64

	voids     map[uint64]*flight
	voidOrder flightList
	voidFloor uint64

	// dispatching: the dispatcher runs. cut ends its Fetch or its back-off; fetching is the class it fetches for, nil while it does not.
	dispatching bool
	cut         context.CancelFunc
	fetching    *class
	failures    int
	retryAt     int64
	fetchErr    error
	fetchErrAt  int64
	// waitingSince is when the Fetch under way began, 0 = none.
	waitingSince int64
	full         bool

	// graves wait for a dead-letter write; diggers write. Dead letters have a room of their own beside the deliveries'.
	graves       []*flight
	diggers      int
	buryingN     int
	buryingBytes int64

	// reasons are why messages that come again failed the last time.
	reasons reasons

	ops        map[*operation]struct{}
	givingBack int
	totals     [len(allEndings)]int
}

// NewWindow makes a window over c. It starts nothing: the first receiver does. The caller closes c, after Close of the window.
func NewWindow(c driver.Consumer, o Options) *Window {
	w := &Window{
		consumer: c, caps: o.Capabilities, ordered: o.Ordered, origin: newOrigin(o.Origin, windowNumbers.Add(1)),
		sealer: o.Sealer, peers: o.Peers, obs: o.Observer, log: o.Log, start: time.Now(),
	}
	if w.obs == nil {
		w.obs = nobody{}
	}
	if w.log.GetSink() == nil {
		w.log = logr.Discard()
	}
	w.life, w.endLife = context.WithCancel(context.Background())
	w.receivers = map[*Receiver]struct{}{}
	w.classes = map[time.Duration]*class{}
	w.flights = map[uint64]*flight{}
	w.lanes = map[laneKey]*lane{}
	w.voids = map[uint64]*flight{}
	w.ops = map[*operation]struct{}{}
	w.settings = w.complete(o.Settings)
	w.pace.SetRate(time.Duration(w.now()), w.settings.RateLimit)
	return w
}

// complete fills the zero fields of s.
func (w *Window) complete(s Settings) Settings {
	if s.MaxLease <= 0 {
		s.MaxLease = w.caps.MaxLease
	}
	if s.MaxLease <= 0 {
		s.MaxLease = defaultMaxLease
	}
	if s.AckDeadline <= 0 {
		s.AckDeadline = defaultAckDeadline
	}
	if s.MaxInFlight <= 0 {
		s.MaxInFlight = defaultMaxInFlight
	}
	if s.MaxInFlightBytes <= 0 {
		s.MaxInFlightBytes = defaultMaxInFlightBytes
	}
	return s
}

// SetSettings changes the limits while everything goes on. Deliveries in flight keep their deadlines; when more is in flight than is
// now allowed, nothing is fetched until it has become less.
func (w *Window) SetSettings(s Settings) {
	w.mu.Lock()
	if s.RateLimit != w.settings.RateLimit {
		w.pace.SetRate(time.Duration(w.now()), s.RateLimit)
		if w.cut != nil && w.fetching == nil {
			w.cut() // It waits for the rate that was; a back-off goes on.
		}
	}
	w.settings = w.complete(s)
	var e effects
	for r := range w.receivers {
		r.applyLimits(w.settings)
		if c := w.classLocked(r.lease(w.settings)); c != r.class {
			w.leaveLocked(r, &e)
			w.joinLocked(r, c)
		}
		r.updateRing()
	}
	w.refillLocked()
	w.unlockAnd(&e)
}

// Attach adds a receiver with its credit. After Drain or Close has begun it answers ErrDraining. The caller closes the receiver.
func (w *Window) Attach(o ReceiverOptions) (*Receiver, error) {
	w.mu.Lock()
	if w.draining {
		w.mu.Unlock()
		return nil, ErrDraining
	}
	r := &Receiver{w: w, options: o, ready: make(chan struct{}, 1), draining: make(chan struct{})}
	r.applyLimits(w.settings)
	w.receivers[r] = struct{}{}
	w.joinLocked(r, w.classLocked(r.lease(w.settings)))
	w.refillLocked()
	w.unlockAnd(&effects{})
	return r, nil
}

// InFlight is what is leased to this window: with receivers, waiting for one, and on the way to the dead-letter topic.
func (w *Window) InFlight() (messages int, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.flights), w.bytes
}

// errKept is how long a failed Fetch is reported when nobody asks for messages any more: whether it would still fail is unknown.
const errKept = time.Minute

// Err is why receiving does not work at present: the last Fetch's error, else what the driver's client says of itself; nil when it works or
// is not known. It does not block.
func (w *Window) Err() error {
	w.mu.Lock()
	err, now := w.fetchErr, w.now()
	if !w.dispatching && now-w.fetchErrAt > int64(errKept) || w.waitingSince != 0 && now-w.waitingSince > int64(errGrace) {
		err = nil
	}
	w.mu.Unlock()
	if err != nil {
		return err
	}
	return w.consumer.Err()
}

// Drain stops fetching, gives back what no receiver has taken, tells the receivers, and waits until everything in flight is answered or
// has expired, or ctx ends. Ack, Nack and Modify are answered throughout, until Close. Nothing is nacked. It may be called again.
func (w *Window) Drain(ctx context.Context) DrainReport {
	began := time.Now()
	w.mu.Lock()
	before := w.totals
	report := DrainReport{InFlight: len(w.flights)}
	w.mu.Unlock()

	w.stopFetching()

	w.mu.Lock()
	if w.quiet == nil {
		w.quiet = make(chan struct{})
	}
	quiet := w.quiet
	w.checkQuietLocked()
	w.mu.Unlock()
	select {
	case <-quiet:
	case <-ctx.Done():
	case <-w.life.Done():
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	for i, e := range allEndings {
		n := w.totals[i] - before[i]
		switch e {
		case Acked, Nacked:
			report.Acked += n
		case GivenBack:
			report.GivenBack += n
		case Lapsed:
			report.Expired += n
		case DeadLettered:
			report.DeadLettered += n
		}
	}
	report.LeftLeased = len(w.flights)
	report.Took = time.Since(began)
	return report
}

// stopFetching is the first half of Drain, in this order: no new receivers and no new Fetch; what no receiver has taken goes back, and that
// is waited for; then the receivers are told, so that a client that moves to another host finds the messages there.
func (w *Window) stopFetching() {
	w.mu.Lock()
	w.draining = true
	if w.cut != nil {
		w.cut()
	}
	var e effects
	now := w.now()
	for _, f := range w.flights {
		waiting := f.state == burying && !f.digging
		if f.state == held || f.state == queued || waiting {
			w.returnLocked(f, now, &e)
		}
	}
	w.graves = nil
	w.unlockAnd(&e)

	w.mu.Lock()
	defer w.mu.Unlock()
	for r := range w.receivers {
		r.announceDrain()
	}
}

// checkQuietLocked tells Drain when nothing is left to wait for.
func (w *Window) checkQuietLocked() {
	if w.quiet == nil || len(w.flights) > 0 || w.dispatching || w.givingBack > 0 {
		return
	}
	select {
	case <-w.quiet:
	default:
		close(w.quiet)
	}
}

// Close ends the window and returns when none of its goroutines and calls is left. Without a Drain before it, what no receiver has taken is
// given back first; what receivers have stays leased. Later calls answer Retry. It works twice and from two goroutines.
func (w *Window) Close() {
	// 1. As Drain begins: nothing new comes in, and receivers stop waiting.
	w.stopFetching()
	w.mu.Lock()
	// 2. The gate: no goroutine and no call starts from here on.
	w.closed = true
	if w.timer != nil && w.timer.Stop() {
		w.wg.Done()
	}
	w.timer = nil
	// 3. What is under way is told to end; its callers get Retry.
	w.endLife()
	for op := range w.ops {
		op.cancel()
	}
	w.mu.Unlock()
	// 4. Wait outside the lock.
	w.wg.Wait()
}
