// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package choice

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Line is a line of RocketMQ's versions, as far as drivers care.
type Line int

const (
	// Unknown: nobody has been able to tell yet.
	Unknown Line = iota
	// Line4: at least one broker is older than 5.0.
	Line4
	// Line5: every broker is 5.0 or newer.
	Line5
)

// String is for logs and messages.
func (l Line) String() string {
	switch l {
	case Line4:
		return "4.x"
	case Line5:
		return "5.x"
	default:
		return "unknown"
	}
}

// Finding is what a probe found out.
type Finding struct {
	Line Line
	// Evidence says by what, for people: "broker-a at 10.0.0.7:10911 is 4.x (version number 407)". It has no secret in it.
	Evidence string
}

// Probe asks the brokers behind c. It blocks for at most ctx and leaves nothing open. Its errors are driver errors; a finding without an error is
// Line4 or Line5.
type Probe func(ctx context.Context, c driver.Connection) (Finding, error)

// Options of a Chooser. Probe and Wake must be set.
type Options[K comparable] struct {
	Probe Probe
	// Wake tells that another Ask would answer otherwise. It is called without a lock, from a worker, and must not block.
	Wake func(who K)
	// Workers is how many detections may run at a time; absent: 4.
	Workers int
	// Timeout bounds one detection; absent: 15 s.
	Timeout time.Duration
	// Every is how often a known answer is looked at again; absent: 3 min.
	Every time.Duration
	Log   logr.Logger
}

const (
	// firstRetry and lastRetry bound the back-off after failures.
	firstRetry, lastRetry = time.Second, 30 * time.Second
	// leastGap is between the end of a detection and the next one that somebody asks for.
	leastGap = 10 * time.Second
)

// Chooser answers which line of RocketMQ a connection leads to. K names who asks. It is safe for concurrent use; no method blocks but Close.
type Chooser[K comparable] struct {
	o Options[K]

	mu      sync.Mutex
	state   lockedState[K]
	workers sync.WaitGroup // goroutines; added to under mu while state.closed is false
}

// lockedState is everything that mu guards, with what it leads to.
type lockedState[K comparable] struct {
	closed   bool
	subjects map[target]*subject[K]
	askers   map[K]*subject[K]
	// due wait for a worker, in order; running counts the workers.
	due     []*subject[K]
	running int
}

// target is what makes two connections the same for a detection. It holds a secret.
type target struct {
	nameServers string
	credentials driver.Credentials
	tls         driver.TLS
}

func targetOf(c driver.Connection) target {
	return target{nameServers: strings.Join(c.NameServers, ","), credentials: c.Credentials, tls: c.TLS}
}

// subject is one target that somebody asks for.
type subject[K comparable] struct {
	target     target
	connection driver.Connection
	askers     map[K]struct{}

	known Finding
	// risen counts the findings in a row that say Line5 against a known Line4.
	risen int
	// err is the last detection's, nil when it succeeded; failures counts them in a row.
	err      error
	failures int

	// busy: it waits for a worker or is being looked at; cancel ends the latter.
	busy   bool
	cancel context.CancelFunc
	ended  time.Time // of the last detection
	timer  *time.Timer
	next   time.Time // when timer is due
	gone   bool
}

// New makes a Chooser. It starts nothing before somebody asks.
func New[K comparable](o Options[K]) *Chooser[K] {
	if o.Workers <= 0 {
		o.Workers = 4
	}
	if o.Timeout <= 0 {
		o.Timeout = 15 * time.Second
	}
	if o.Every <= 0 {
		o.Every = 3 * time.Minute
	}
	if o.Log.GetSink() == nil {
		o.Log = logr.Discard()
	}
	return &Chooser[K]{o: o, state: lockedState[K]{subjects: map[target]*subject[K]{}, askers: map[K]*subject[K]{}}}
}

// Ask answers what is known about c, at once. An Unknown line without an error is being found out; with an error the last try failed and
// the next follows by itself. who is woken when the answer changes, until it asks for another connection or is forgotten.
func (c *Chooser[K]) Ask(who K, connection driver.Connection) (Finding, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.closed {
		return Finding{}, driver.Errorf(driver.Closed, "", "this host is stopping and looks at no broker any more")
	}
	s := c.join(who, connection)
	if s.known.Line == Unknown && s.err == nil && !s.busy {
		c.enqueue(s)
	}
	if s.known.Line == Unknown {
		return Finding{}, s.err
	}
	return s.known, nil
}

// join makes who one of the askers for connection, and of no other.
func (c *Chooser[K]) join(who K, connection driver.Connection) *subject[K] {
	t := targetOf(connection)
	if s := c.state.askers[who]; s != nil && s.target == t {
		return s
	}
	c.leave(who)
	s := c.state.subjects[t]
	if s == nil {
		s = &subject[K]{target: t, connection: connection, askers: map[K]struct{}{}}
		c.state.subjects[t] = s
	}
	s.askers[who] = struct{}{}
	c.state.askers[who] = s
	return s
}

// leave takes who away; a subject that nobody asks for goes.
func (c *Chooser[K]) leave(who K) {
	s := c.state.askers[who]
	if s == nil {
		return
	}
	delete(c.state.askers, who)
	if delete(s.askers, who); len(s.askers) == 0 {
		delete(c.state.subjects, s.target)
		s.end()
	}
}

func (s *subject[K]) end() {
	s.gone = true
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.cancel != nil {
		s.cancel()
	}
}

// Forget says that who does not ask any more. What nobody asks for is not looked at again, and a detection of it under way is cancelled.
func (c *Chooser[K]) Forget(who K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave(who)
}

// Recheck says that who has reason to doubt the answer: a client that was chosen by it does not work. It is looked at again soon, at most every
// ten seconds.
func (c *Chooser[K]) Recheck(who K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state.askers[who]
	if s == nil || s.busy || c.state.closed {
		return
	}
	if wait := time.Until(s.ended.Add(leastGap)); wait > 0 {
		if time.Now().Add(wait).Before(s.next) {
			c.arm(s, wait)
		}
		return
	}
	c.enqueue(s)
}

// Close ends every detection and returns when no goroutine is left. It works twice. Ask answers driver.ErrClosed from then on.
func (c *Chooser[K]) Close() {
	c.mu.Lock()
	c.state.closed = true
	for _, s := range c.state.subjects {
		s.end()
	}
	c.state.due = nil
	c.mu.Unlock()
	c.workers.Wait()
}

// enqueue asks for a detection. The caller has seen that s is not busy.
func (c *Chooser[K]) enqueue(s *subject[K]) {
	s.busy = true
	if s.timer != nil {
		s.timer.Stop()
	}
	c.state.due = append(c.state.due, s)
	if c.state.running < c.o.Workers {
		c.state.running++
		c.workers.Go(c.work)
	}
}

// work detects until nothing is due.
func (c *Chooser[K]) work() {
	for {
		s, ctx := c.take()
		if s == nil {
			return
		}
		found, err := c.o.Probe(ctx, s.connection)
		if err == nil && found.Line == Unknown {
			err = driver.Errorf(driver.Unavailable, "", "the brokers' version is not known")
		}
		wake, told := c.finish(s, found, err)
		if told {
			c.tell(s.connection, found, err)
		}
		for _, who := range wake {
			c.o.Wake(who)
		}
	}
}

// tell logs what has changed: a host's choice must be found in its log.
func (c *Chooser[K]) tell(connection driver.Connection, found Finding, err error) {
	if err != nil {
		c.o.Log.Info("the version of the brokers is not known, it is asked for again", "nameServers", connection.NameServers, "reason", err.Error())
		return
	}
	c.o.Log.Info("the version of the brokers is known", "nameServers", connection.NameServers, "line", found.Line.String(), "evidence", found.Evidence)
}

// take answers the next subject that is due, nil when the worker has to end.
func (c *Chooser[K]) take() (*subject[K], context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.state.due) > 0 {
		s := c.state.due[0]
		c.state.due = c.state.due[1:]
		if s.gone {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), c.o.Timeout) //nolint:gosec // finish and Close call it through s.cancel
		s.cancel = cancel
		return s, ctx
	}
	c.state.running--
	return nil, nil
}

// finish records what a detection found and plans the next one. It answers who has to be woken, and whether there is something new to tell.
func (c *Chooser[K]) finish(s *subject[K], found Finding, err error) (wake []K, changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.cancel()
	s.cancel, s.busy, s.ended = nil, false, time.Now()
	if s.gone || c.state.closed {
		return nil, false
	}
	if changed = s.learn(found, err); changed {
		wake = slices.Collect(maps.Keys(s.askers))
	}
	c.arm(s, c.pause(s))
	return wake, changed
}
