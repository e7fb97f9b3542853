// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// periods are the times by which a cluster lives; tests have shorter ones.
type periods struct {
	// tick is how often the keeper looks for something to do.
	tick time.Duration
	// check is how often the brokers are asked whether they know us; checkAgain applies while something is wrong.
	check, checkAgain time.Duration
	// busy and idle are the ages at which the route of a topic is asked for again: of one that was used since, and of one that was not.
	busy, idle time.Duration
	// old is the age at which a user waits for a new route rather than take the one there is.
	old time.Duration
	// forget is how long a topic that no open object names is remembered.
	forget time.Duration
	// beat is how often the producer groups are named of which somebody watches the checks.
	beat time.Duration
}

var defaultPeriods = periods{
	tick: 5 * time.Second, check: 30 * time.Second, checkAgain: 5 * time.Second,
	busy: 30 * time.Second, idle: 5 * time.Minute, old: time.Minute, forget: time.Minute, beat: beatEvery,
}

// cluster is one RocketMQ as one identity sees it: the connections, and what is known about topics and brokers. All objects of this process with
// the same name servers, credentials and TLS share it, so a declared object that does nothing costs its own few fields. One goroutine, the
// keeper, does what is done on a timer. All methods are safe for concurrent use.
type cluster struct {
	driver  *Driver
	key     clusterKey
	uses    int // guarded by driver.mu
	wire    *wire.Client
	allow   func(address string) error
	periods periods
	clocks  *clocks
	// clientID is what checks call us.
	clientID string

	// life ends when the last user has gone; work counts the goroutines, which begin with start.
	life context.Context
	end  context.CancelFunc
	work sync.WaitGroup

	// state is guarded by its mutex. Nothing is asked and nobody waits under it.
	state struct {
		sync.Mutex
		closed  bool
		topics  map[string]*topic
		brokers map[string]*broker
		proofs  map[string]*flight
		// nameServers is why the last check could not ask the name servers; nil when it could.
		nameServers error
		// checked is when the last check ended.
		checked time.Time
		// suspicious: a request failed since the last check, so the next one is not waited for.
		suspicious bool
		// transactions are those whose locks the keeper gives back.
		transactions map[*transactions]struct{}
	}
	checks checks
}

func newCluster(d *Driver, key clusterKey, c driver.Connection) *cluster {
	life, end := context.WithCancel(context.Background())
	cl := &cluster{
		driver: d, key: key, allow: c.AllowAddress, periods: d.periods, clocks: newClocks(), life: life, end: end,
		clientID: "proxy-check-" + uuid.NewString()[:8],
	}
	cl.wire = wire.New(c, wire.Options{ReadBufferBytes: 64 << 10, OnRequest: cl.onRequest})
	cl.state.topics = make(map[string]*topic)
	cl.state.brokers = make(map[string]*broker)
	cl.state.proofs = make(map[string]*flight)
	cl.start(cl.keep)
	return cl
}

// start runs work in a goroutine that close joins. It reports false, and runs nothing, when the cluster is closed. work leaves when life ends.
func (cl *cluster) start(work func()) bool {
	cl.state.Lock()
	defer cl.state.Unlock()
	if cl.state.closed {
		return false
	}
	cl.work.Go(work)
	return true
}

// close ends all that runs and joins it. It is called once, by the last release.
func (cl *cluster) close() {
	// 1. Nothing starts any more, and what runs is told to leave.
	cl.state.Lock()
	cl.state.closed = true
	cl.state.Unlock()
	cl.end()
	// 2. Connections end, and whoever waits for an answer gets ErrClosed.
	cl.wire.Close()
	// 3. The keeper and the questions under way return.
	cl.work.Wait()
}

// keep is the keeper: it looks after routes and brokers until life ends.
func (cl *cluster) keep() {
	ticker := time.NewTicker(cl.periods.tick)
	defer ticker.Stop()
	lastCheck, lastBeat := time.Now(), time.Now()
	for {
		select {
		case <-ticker.C:
		case <-cl.life.Done():
			return
		}
		every := cl.periods.check
		if cl.suspects() {
			every = cl.periods.checkAgain
		}
		if time.Since(lastCheck) >= every {
			cl.check()
			lastCheck = time.Now()
		}
		if time.Since(lastBeat) >= cl.periods.beat {
			cl.beatAll()
			lastBeat = time.Now()
		}
		cl.releaseAll(unlockLimit)
		cl.forget()
		// After the check, which tells whether it makes sense: each question would wait for name servers that are away.
		if cl.nameServersAnswer() {
			cl.refresh()
		}
	}
}

// flight is a question that several callers may wait for, asked once.
type flight struct {
	started time.Time
	done    chan struct{} // closed when it is answered; err is set before
	err     error
}

func newFlight() *flight { return &flight{started: time.Now(), done: make(chan struct{})} }

// wait returns the flight's error, or a Timeout when ctx ends first.
func (f *flight) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	default:
	}
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return wire.Errorf(ctx.Err(), "wait for the answer")
	}
}

// over reports whether the flight is answered.
func (f *flight) over() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// run asks in a goroutine of the cluster and answers whoever waits; afterwards is called before that, with the answer. The question is bounded
// by the cluster's life and not by the caller's: others may wait for it.
func (cl *cluster) run(f *flight, ask func(ctx context.Context) error, afterwards func(error)) {
	started := cl.start(func() {
		ctx, cancel := context.WithTimeout(cl.life, questionLimit)
		defer cancel()
		f.err = ask(ctx)
		if f.err != nil && cl.life.Err() != nil {
			f.err = errClosed() // the question's context may have ended before the connections did
		}
		afterwards(f.err)
		close(f.done)
	})
	if !started {
		f.err = errClosed()
		afterwards(f.err)
		close(f.done)
	}
}

// questionLimit bounds a question with all its requests.
const questionLimit = 15 * time.Second

func errClosed() error { return driver.Errorf(driver.Closed, "", "the client is closed") }

// about spreads d by a fifth, so that what began together does not stay together.
func about(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}
